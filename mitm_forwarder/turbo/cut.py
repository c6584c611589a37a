"""What a cut is: a name, what it replaces, the sources it was written against, how to put it in.

Loop thread only, or before there is a loop.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Undo = Callable[[], None]


def _no_problem() -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Cut:
    """One replaceable piece of mitmproxy's cost."""

    name: str
    safe: bool
    """Of low risk, and can be put in when mitmproxy runs already: on by default with `-s`."""
    replaces: tuple[str, ...]
    """What it replaces or leans on, as `module` or `module:attribute.path`."""
    sources: Mapping[str, str]
    """Fingerprints of that source -> the versions of mitmproxy that have it."""
    install: Callable[[], Undo]
    """Puts it in place; what is returned takes it away again."""
    problem: Callable[[], str | None] = _no_problem
    """Why it cannot be used here, in words, beyond a source that differs."""
    needs: tuple[str, ...] = ()
    """Cuts that must be in place before."""

    def objection(self) -> str | None:
        """Why this cut stays off, or None."""
        if fingerprint(self.replaces) not in self.sources:
            return "this mitmproxy differs from those that it was written against"
        return self.problem()


def fingerprint(names: tuple[str, ...]) -> str:
    """Of the sources of modules, classes and functions; "" when one cannot be had."""
    digest = hashlib.sha256()
    for name in names:
        module, _, path = name.partition(":")
        try:
            target: Any = importlib.import_module(module)
            for part in path.split(".") if path else ():
                target = getattr(target, part)
            digest.update(inspect.getsource(target).encode())
        except (ImportError, AttributeError, OSError, TypeError):
            return ""
    return digest.hexdigest()[:16]
