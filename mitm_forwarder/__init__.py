"""mitmproxy addon that sends every request through an upstream proxy chosen per user.

``mitmdump -s mitm_forwarder_addon.py`` takes ``addons`` from here.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    from mitm_forwarder.addon import addons

__version__ = "0.1.0"
__all__ = ["__version__", "addons"]

# In a process that may proxy, the guard must stand even if everything after it fails to import.
if "mitmproxy" in sys.modules:
    importlib.import_module("mitm_forwarder.guard")


def __getattr__(name: str) -> Any:
    """``addons`` on first use: ``import mitm_forwarder`` needs neither mitmproxy nor the core."""
    if name == "addons":
        importlib.import_module("mitm_forwarder.guard")
        # First, and in words: on a mitmproxy that lacks what the layers lean on, the import fails.
        compat = importlib.import_module("mitm_forwarder.compat")
        if errors := compat.check().errors:
            return [compat.Unsupported(errors)]
        return importlib.import_module("mitm_forwarder.addon").addons
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
