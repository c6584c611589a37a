"""Who may be dialled: nobody but an upstream proxy that the forwarding layer has registered.

Importing this module wraps the one place in which mitmproxy opens connections, for the rest of the
process: no hook, hot reload, deleted script or exception in another addon can undo it, and every
path that is not ours (raw TCP, ignored hosts, eager connects, replays, whatever a later version
invents) ends in a refusal. Loop thread only.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Coroutine
from typing import Any

from mitmproxy import connection
from mitmproxy.proxy import commands
from mitmproxy.proxy import server

from .routes import Route

REFUSED = "mitm-forwarder: not an upstream proxy that was chosen for this request"

# The proxy's own Server object (not the target's) -> the route it was registered for.
KNOWN: weakref.WeakKeyDictionary[connection.Server, Route] = weakref.WeakKeyDictionary()


def permit(proxy: connection.Server, route: Route) -> None:
    """Let this Server be dialled, at the address of the route and nowhere else."""
    KNOWN[proxy] = route


def permitted(proxy: connection.Server) -> bool:
    route = KNOWN.get(proxy)
    return (
        route is not None and proxy.address == route.address and proxy.transport_protocol == "tcp"
    )


def _install() -> None:
    original = server.ConnectionHandler.open_connection
    if hasattr(original, "guarded"):
        return

    @functools.wraps(original)  # compat.py examines what lies beneath
    def open_connection(
        self: server.ConnectionHandler, command: commands.OpenConnection
    ) -> Coroutine[Any, Any, None]:
        # mitmproxy reads .error after its server_connect hooks and then does not dial, whatever the
        # hooks did.
        if not permitted(command.connection) and not command.connection.error:
            command.connection.error = REFUSED
        return original(self, command)

    open_connection.guarded = True  # type: ignore[attr-defined]
    server.ConnectionHandler.open_connection = open_connection  # type: ignore[method-assign]


_install()
