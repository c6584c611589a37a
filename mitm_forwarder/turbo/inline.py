"""Hooks that end at once run at once: no turn of the event loop, no lock.

Replaces `ConnectionHandler.server_event` and `handle_hook`, by a subclass that new client
connections get. Stock mitmproxy makes a task for each hook, waits for the loop to start it, and
takes a lock around each event. Here a hook's task is started eagerly: its handlers run inside the
call, as a task of their own, and only one that really waits becomes a scheduled task. An event that
arrives while the layers handle another one (the re-entrancy for which stock has its lock,
mitmproxy issue 7027) waits in a queue.

What stays the same: the order of hooks of a connection, and of what is sent between them; a hook
starts after its event was handled to the end; its completion is handled before the next hook
starts; `asyncio.current_task()` is the hook's own task; an exception ends up where it did. What
changes: other connections get no turn between a hook that does not wait and its completion.

Needs eager tasks, which Python has since 3.12.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import sys
import time
from typing import Any

from mitmproxy import flow
from mitmproxy.proxy import commands
from mitmproxy.proxy import events
from mitmproxy.proxy import mode_servers
from mitmproxy.proxy import server
from mitmproxy.utils import asyncio_utils

from mitm_forwarder.dispatch import arguments

from .cut import Cut
from .cut import Undo

WAITING: set[asyncio.Task[None]] = set()
"""Hooks that did not end at once: the loop itself keeps no strong reference."""


class InlineHandler(mode_servers.ProxyConnectionHandler):
    """One client connection. Everything here is synchronous but for hooks that wait."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)  # type: ignore[no-untyped-call]
        self._work: collections.deque[events.Event | commands.StartHook] = collections.deque()
        self._handling = False
        self._working = False
        self._loop = asyncio.get_running_loop()

    async def server_event(self, event: events.Event) -> None:
        self.push_event(event)

    def push_event(self, event: events.Event) -> None:
        """Handle an event and the hooks that it starts, or queue it when it comes in the middle of
        another.
        """
        if self._handling:
            self._work.append(event)
            return
        self._handle(event)
        if not self._working:
            self._working = True
            try:
                while self._work:
                    item = self._work.popleft()
                    if isinstance(item, commands.StartHook):
                        self._start_hook(item)
                    else:
                        self._handle(item)
            finally:
                self._working = False

    def _start_hook(self, hook: commands.StartHook) -> None:
        task = asyncio.Task(self.hook_task(hook), loop=self._loop, eager_start=True)  # type: ignore[call-arg]
        if not task.done():
            asyncio_utils.set_task_debug_info(
                task, name=f"handle_hook({hook.name})", client=self.client.peername
            )
            WAITING.add(task)
            task.add_done_callback(WAITING.discard)

    async def handle_hook(self, hook: commands.StartHook) -> None:
        (data,) = arguments(hook)
        watchdog = self.timeout_watchdog
        # disarm(), without its context manager
        watchdog.can_timeout.clear()
        watchdog.blocker += 1
        try:
            await self.master.addons.handle_lifecycle(hook)
            if isinstance(data, flow.Flow) and data.intercepted:
                await data.wait_for_resume()
        finally:
            watchdog.blocker -= 1
            if watchdog.blocker == 0:
                watchdog.register_activity()
                watchdog.can_timeout.set()

    def _handle(self, event: events.Event) -> None:
        self._handling = True
        self.timeout_watchdog.last_activity = time.time()
        try:
            for command in self.layer.handle_event(event):
                self._execute(command)
        except Exception:
            self.log("mitmproxy has crashed!", logging.ERROR, exc_info=True)
        finally:
            self._handling = False
            self.flush()

    def _execute(self, command: commands.Command) -> None:
        if isinstance(command, commands.StartHook):
            self._work.append(command)
        elif isinstance(command, commands.SendData):
            io = self.transports.get(command.connection)
            if io is not None:
                assert io.writer
                self.send(io.writer, command.data)
        elif isinstance(command, commands.OpenConnection):
            self._open(command)
        elif isinstance(command, commands.CloseConnection):
            if command.connection in self.transports:
                self.flush()
                half = isinstance(command, commands.CloseTcpConnection) and command.half_close
                self.close_connection(command.connection, half)
        elif isinstance(command, commands.RequestWakeup):
            task = self._create_task(self.wakeup(command), f"wakeup timer ({command.delay:.1f}s)")
            self.wakeup_timer.add(task)
        elif isinstance(command, commands.Log):
            self.log(command.message, command.level)
        elif not isinstance(command, commands.ConnectionCommand):
            raise RuntimeError(f"Unexpected command: {command}")
        elif command.connection in self.transports:
            raise RuntimeError(f"Unexpected command: {command}")

    def _open(self, command: commands.OpenConnection) -> None:
        assert command.connection not in self.transports
        handler = self._create_task(
            self.open_connection(command),
            f"server connection handler {command.connection.address}",
        )
        self.transports[command.connection] = server.ConnectionIO(handler=handler)

    def _create_task(self, coroutine: Any, name: str) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        asyncio_utils.set_task_debug_info(task, name=name, client=self.client.peername)
        return task

    def send(self, writer: Any, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)

    def flush(self) -> None:
        """An event has been handled, or a connection is about to be closed: see coalesce.py."""


def use_handler(mixin: type[InlineHandler]) -> Undo:
    """From now on new client connections get `mixin` on top of what they would get."""
    stock = mode_servers.ProxyConnectionHandler
    bases = (mixin,) if issubclass(mixin, stock) else (mixin, stock)
    handler: Any = type(f"Turbo{mixin.__name__}", bases, {})
    mode_servers.ProxyConnectionHandler = handler  # type: ignore[misc]

    def undo() -> None:
        mode_servers.ProxyConnectionHandler = stock  # type: ignore[misc]

    return undo


HANDLER_SOURCE = ("mitmproxy.proxy.server", "mitmproxy.proxy.mode_servers")
HANDLER_VERSIONS = {
    "9e7aee8af076fb6d": "10.4.2",
    "97c62288ec653536": "11.0.2",
    "5ba5756bb3dcfd29": "11.1.3",
    "ab140ef43f4389ce": "12.0.1 and 12.1.2",
    "0504ed8ce62db692": "12.2.3 and 12.3.1",
}

CUT = Cut(
    name="inline",
    safe=False,
    replaces=HANDLER_SOURCE,
    sources=HANDLER_VERSIONS,
    install=lambda: use_handler(InlineHandler),
    problem=lambda: None if sys.version_info >= (3, 12) else "eager tasks need Python 3.12",
    needs=("dispatch",),
)
