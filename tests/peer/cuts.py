"""A pytest plugin: mitmproxy's own tests, run with all the cuts of TURBO in place.

Those tests make their own managers and handlers, so the classes are ours from birth.
"""

from __future__ import annotations

import importlib
from typing import Any

from mitmproxy import addonmanager
from mitmproxy.proxy import server

from mitm_forwarder import dispatch
from mitm_forwarder import turbo


class PeerManager(dispatch.Dispatcher):
    def __init__(self, master: Any) -> None:
        self.__dict__["_tables"] = {}
        super().__init__(master)  # type: ignore[no-untyped-call]


# The guard came with our package and would refuse what those tests dial.
server.ConnectionHandler.open_connection = (  # type: ignore[method-assign]
    server.ConnectionHandler.open_connection.__wrapped__  # type: ignore[attr-defined]
)
addonmanager.AddonManager = PeerManager  # type: ignore[misc]
left_out: set[str] = set()
for name, module in turbo.MODULES.items():
    # The two need a running master; the first is in place by the class above.
    if name not in ("dispatch", "log"):
        cut = importlib.import_module(module).CUT
        # As turbo.install does it: no cut without those that it stands on.
        missing = ", ".join(sorted(left_out.intersection(cut.needs)))
        if objection := cut.objection() or (missing and f"needs {missing}"):
            left_out.add(name)
            print(f"{name} is left out: {objection}")
        else:
            cut.install()
