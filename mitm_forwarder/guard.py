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
from typing import cast

from mitmproxy import connection
from mitmproxy.proxy import commands
from mitmproxy.proxy import events
from mitmproxy.proxy import server
from mitmproxy.utils import human

from .routes import Route

REFUSED = "mitm-forwarder: not an upstream proxy that was chosen for this request"

# The proxy's own Server object (not the target's) -> the route it was registered for.
KNOWN: weakref.WeakKeyDictionary[connection.Server, Route] = weakref.WeakKeyDictionary()


class PinnedServer(connection.Server):
    """A proxy that may be dialled, at the address that was registered: hooks of other addons run
    between our look at it and the dial.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("address", "transport_protocol", "via") and value != getattr(self, name):
            raise AttributeError(f"{name} of a chosen upstream proxy cannot be changed")
        super().__setattr__(name, value)  # type: ignore[no-untyped-call]


def permit(proxy: connection.Server, route: Route) -> None:
    """Let this Server be dialled, at the address of the route and nowhere else."""
    KNOWN[proxy] = route
    proxy.__class__ = PinnedServer


def permitted(proxy: connection.Server) -> bool:
    route = KNOWN.get(proxy)
    return (
        type(proxy) is PinnedServer
        and route is not None
        and proxy.address == route.address
        and proxy.transport_protocol == "tcp"
    )


async def _refuse(handler: server.ConnectionHandler, command: commands.OpenConnection) -> None:
    """What mitmproxy does for a connection with an error, without its hooks: one of them could take
    the error away again.
    """
    proxy = command.connection
    proxy.error = proxy.error or REFUSED
    handler.log(
        f"server connection to {human.format_address(proxy.address)} refused: {proxy.error}"
    )
    event = events.OpenConnectionCompleted(command, f"Connection refused: {proxy.error}")
    pending = cast("Coroutine[Any, Any, None] | None", handler.server_event(event))
    if pending is not None:  # a plain function before 10.4
        await pending


def _install() -> None:
    original = server.ConnectionHandler.open_connection
    if hasattr(original, "guarded"):
        return

    @functools.wraps(original)  # compat.py examines what lies beneath
    async def open_connection(
        self: server.ConnectionHandler, command: commands.OpenConnection
    ) -> None:
        try:
            if permitted(command.connection):
                await original(self, command)
            else:
                await _refuse(self, command)
        finally:
            # Cancelled at a bad moment, mitmproxy leaves the socket open; and failed dials stay.
            io = self.transports.pop(command.connection, None)
            if io is not None and io.writer is not None:
                io.writer.close()

    open_connection.guarded = True  # type: ignore[attr-defined]
    server.ConnectionHandler.open_connection = open_connection  # type: ignore[method-assign]


_install()
