"""Data goes from the socket to the layers without a buffer and a task switch in between.

Replaces the waiting part of `StreamReader.read`, by a subclass that the readers of a connection
get: while mitmproxy's loop waits in `read`, what arrives is handed to the layers on the spot, and
`read` returns at the end of the stream. All else (the loop, its end, half-closed connections,
everything about writing) stays mitmproxy's.

Back-pressure: after each piece the write buffers are looked at. As long as one of them is above its
low-water mark the socket is not read, and mitmproxy's own `drain_writers` says when it is again.
What changes: pieces may be as large as asyncio reads them (256 KiB), where stock cuts at 64 KiB.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mitmproxy.connection import Connection
from mitmproxy.proxy import events

from .cut import Cut
from .cut import Undo
from .inline import HANDLER_SOURCE
from .inline import HANDLER_VERSIONS
from .inline import InlineHandler
from .inline import use_handler


class PushReader(asyncio.StreamReader):
    """Made of a StreamReader by `__class__`: the transport's protocol holds that object."""

    _transport: Any
    _exception: Any
    _buffer: bytearray
    _eof: bool
    handler: InlineHandler
    connection: Connection
    pushing: bool
    ended: asyncio.Future[None]
    draining: asyncio.Task[None] | None

    def attach(self, handler: InlineHandler, conn: Connection) -> None:
        self.handler = handler
        self.connection = conn
        self.pushing = False
        self.draining = None

    async def read(self, n: int = -1) -> bytes:
        """What is buffered; then nothing more until the stream ends, since all else is pushed."""
        if not (self._buffer or self._eof or self._exception):
            self._maybe_resume_transport()  # type: ignore[attr-defined]
            self.ended = asyncio.get_running_loop().create_future()
            self.pushing = True
            try:
                await self.ended
            finally:
                self.pushing = False
                if self.draining is not None:
                    self.draining.cancel()
        return await super().read(n)

    def feed_data(self, data: Any) -> None:
        if not self.pushing or self._buffer or not data:
            super().feed_data(data)
            return
        self.handler.push_event(events.DataReceived(self.connection, bytes(data)))
        if self.draining is not None or self._is_congested():
            self._hold_back()

    def feed_eof(self) -> None:
        super().feed_eof()
        self._end()

    def set_exception(self, exc: BaseException) -> None:
        super().set_exception(exc)  # type: ignore[arg-type]
        self._end()

    def _end(self) -> None:
        if self.pushing and not self.ended.done():
            self.ended.set_result(None)

    # ---- back-pressure

    def _is_congested(self) -> bool:
        for io in self.handler.transports.values():
            transport = getattr(io.writer, "transport", None)
            if transport is not None and (size := transport.get_write_buffer_size()):
                if size > transport.get_write_buffer_limits()[0]:
                    return True
        return False

    def _hold_back(self) -> None:
        """Again for each piece: others may have resumed the transport meanwhile."""
        self._transport.pause_reading()
        if self.draining is None:
            self.draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        try:
            await self.handler.drain_writers()  # type: ignore[no-untyped-call]
        finally:
            self.draining = None
            if not self._transport.is_closing():
                self._transport.resume_reading()


class PushHandler(InlineHandler):
    async def handle_connection(self, connection: Connection) -> None:
        reader: Any = self.transports[connection].reader
        is_stock = type(reader) is asyncio.StreamReader
        if is_stock:
            reader.__class__ = PushReader
            reader.attach(self, connection)
        await super().handle_connection(connection)


def _install() -> Undo:
    return use_handler(PushHandler)


CUT = Cut(
    name="push",
    safe=False,
    replaces=HANDLER_SOURCE,
    sources=HANDLER_VERSIONS,
    install=_install,
    needs=("inline", "malloc"),
)
