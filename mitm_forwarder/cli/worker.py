"""One worker of `mitm-forwarder run --workers N`: mitmproxy, listening on the supervisor's sockets.

Loop thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from typing import Any

from mitmproxy import ctx
from mitmproxy.proxy import mode_servers

from mitm_forwarder.web.board import QUESTION
from mitm_forwarder.web.board import hand_over
from mitm_forwarder.web.desk import Place

from .workers import BACKLOG
from .workers import RETIRE_SIGNAL
from .workers import Control

logger = logging.getLogger(__name__)

IDLE_CHECK_SECONDS = 0.05
IDLE_CHECKS = 2
"""In a row: a connection that was accepted is in nobody's list until its first turn of the loop."""


class WorkerPage:
    """The metrics page as a worker has it: the supervisor serves one for all."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.places: tuple[Place, ...] = ()
        """Where the supervisor serves it; until that has said so, where it is to."""

    def move(self, place: Place | None) -> None:
        self.places = () if place is None or place[1] == 0 else (place,)
        self._control.want_metrics(place)

    def close(self) -> None:
        """It is not this worker's."""


class WorkerAddon:
    """Tells the supervisor when this process serves, and how it does when asked; leaves when the
    supervisor says so, or has died.
    """

    name = "forwarder_worker"

    def __init__(self, control: Control) -> None:
        self.control = control
        self.page = WorkerPage(control)
        self.servers: list[asyncio.Server] = []
        self._retirement: asyncio.Task[None] | None = None

    def running(self) -> None:
        loop = asyncio.get_running_loop()
        # In the place of mitmproxy's, which goes on accepting while requests come to their end.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.leave)
        loop.add_signal_handler(RETIRE_SIGNAL, self.retire)
        loop.add_reader(self.control.socket, self.hear)
        self.control.say_ready()

    def hear(self) -> None:
        """What the supervisor says, or its end."""
        forwarder = ctx.master.addons.get("forwarder")
        for message in self.control.hear():
            if not message:
                asyncio.get_running_loop().remove_reader(self.control.socket)
                self.leave()
            elif forwarder is None:
                pass  # the script failed to load: this process is about to end
            elif message == QUESTION:
                # One who does not read the answer is not owed it.
                with contextlib.suppress(OSError):
                    hand_over(self.control.socket, forwarder.readings())
            else:
                serving = json.loads(message)["serving"]
                self.page.places = tuple((host, port) for host, port in serving)
                forwarder.note_listeners()

    def leave(self) -> None:
        """What is in the queue of the sockets is for the other workers."""
        self._stop_listening()
        ctx.master.shutdown()

    def retire(self) -> None:
        """Another worker has taken over. Who has connected is served, and told to come anew for the
        next request; a client that stays on is waited for as long as one that is slow.
        """
        if self._retirement is None:
            self._stop_listening()
            logger.info("Another worker has taken over; this one leaves when its clients have.")
            self._retirement = asyncio.get_running_loop().create_task(self._leave_when_idle())

    async def _leave_when_idle(self) -> None:
        loop = asyncio.get_running_loop()
        proxyserver = ctx.master.addons.get("proxyserver")
        deadline = loop.time() + ctx.master.addons.get("forwarder").retire()
        idle = 0
        while idle < IDLE_CHECKS and loop.time() < deadline:
            await asyncio.sleep(IDLE_CHECK_SECONDS)
            idle = 0 if proxyserver.connections else idle + 1
        ctx.master.shutdown()

    def _stop_listening(self) -> None:
        for server in self.servers:
            server.close()


def use_sockets(addon: WorkerAddon) -> None:
    """Every TCP mode listens on what the supervisor holds; others cannot be shared."""

    async def listen(self: Any, host: str, port: int) -> list[asyncio.Server]:
        if self.mode.transport_protocol != "tcp":
            raise OSError(0, f"mode {self.mode.full_spec} cannot be served by several workers")
        handle = getattr(self, "handle_stream", None) or self.handle_tcp_connection
        servers = []
        sockets = addon.control.listen(host, port)
        asyncio.get_running_loop().call_soon(addon.hear)  # what came in between
        for sock in sockets:
            # One connection a turn, or one worker would take all that wait.
            servers.append(await asyncio.start_server(handle, sock=sock, backlog=1))
            sock.listen(BACKLOG)
        addon.servers += servers
        return servers

    mode_servers.AsyncioServerInstance.listen = listen  # type: ignore[method-assign, assignment]
