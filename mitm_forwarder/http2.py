"""HTTP/2 with back-pressure: what one side does not take makes the other side wait.

mitmproxy takes whatever comes and queues it for the other side's windows without a limit. An object
of mitmproxy's becomes ours by `__class__` before the first byte of a request. Loop thread only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import connection
from mitmproxy.proxy import events
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http._events import RequestData
from mitmproxy.proxy.layers.http._events import ResponseData
from mitmproxy.proxy.layers.http._events import ResponseEndOfMessage
from mitmproxy.proxy.layers.http._events import ResponseProtocolError
from mitmproxy.proxy.layers.http._http2 import Http2Client
from mitmproxy.proxy.layers.http._http2 import Http2Server

if TYPE_CHECKING:
    from .layers import ForwarderLayer

QUEUE_LIMIT = 1 << 20
"""Bytes that may wait for one HTTP/2 connection, to a target or to a client, before the socket that
they come from is no longer read.
"""

PIECE_COST = 128
"""What a piece in a queue costs besides its bytes, about: pieces of one byte must count, too."""

WEIGH_EVERY = QUEUE_LIMIT // 16
"""Weighing takes a look at each piece, so it is not done for each piece."""


class RoutedHttp2Client(Http2Client):
    """gRPC cannot be given HTTP/1 instead (routes.py): the client's connection has to wait."""

    top: ForwarderLayer
    holding = False

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        """A plain function: what is received pays for no extra frame."""
        stock: layer.CommandGenerator[None] = super()._handle_event(event)
        if self.holding or type(event) is RequestData:
            return self._weighed(stock)
        return stock

    def _weighed(self, stock: layer.CommandGenerator[None]) -> layer.CommandGenerator[None]:
        yield from stock
        if self._queued() > QUEUE_LIMIT:
            self.holding = True
            self.top.hold(self)  # again for each piece: turbo/push.py may have resumed
        else:
            self.let_go()

    def let_go(self) -> None:
        if self.holding:
            self.holding = False
            self.top.release(self)

    def _queued(self) -> int:
        if not self.streams:  # closed: what is queued will never leave
            return 0
        pieces = (piece for queue in self.h2_conn.stream_buffers.values() for piece in queue)
        waiting = (event for queue in self.stream_queue.values() for event in queue)
        return sum(len(piece.data) for piece in pieces) + sum(
            len(event.data) for event in waiting if isinstance(event, RequestData)
        )


class ForwarderHttp2Server(Http2Server):
    """What an HTTP/2 client talks to. The upstream connection of a stream waits while that stream
    has a queue and all queues of the client together are above the limit: a stream that the client
    reads goes on beside one that it does not.
    """

    top: ForwarderLayer
    held: dict[int, connection.Server]
    """Upstream connections that are not read, by the stream for whose sake."""
    unweighed = 0

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        """A plain function: an answer that the client takes pays for no extra frame."""
        stock: layer.CommandGenerator[None] = super()._handle_event(event)
        if type(event) is ResponseData:
            if event.stream_id in self.h2_conn.stream_buffers:
                return self._queue(stock, event)
        elif self.held:
            return self._drain(stock, event)
        return stock

    def _queue(
        self, stock: layer.CommandGenerator[None], event: ResponseData
    ) -> layer.CommandGenerator[None]:
        yield from stock
        self.unweighed += len(event.data) + PIECE_COST
        if event.stream_id not in self.held:
            if self.unweighed < WEIGH_EVERY or self._queued() <= QUEUE_LIMIT:
                return
            self.unweighed = 0
        server = self.top.server_of(event.stream_id)
        if server is not None:
            self.held[event.stream_id] = server
            self.top.set_reading(server, False)  # again for each piece, as for uploads

    def _drain(
        self, stock: layer.CommandGenerator[None], event: events.Event
    ) -> layer.CommandGenerator[None]:
        yield from stock
        if isinstance(event, ResponseEndOfMessage | ResponseProtocolError):
            self._release(event.stream_id)  # its connection is for the next request now
        elif isinstance(event, events.ConnectionEvent):  # windows, resets, the end
            below = self._queued() <= QUEUE_LIMIT
            for stream_id in list(self.held):
                if below or stream_id not in self.h2_conn.stream_buffers:
                    self._release(stream_id)

    def _release(self, stream_id: int) -> None:
        server = self.held.pop(stream_id, None)
        if server is not None and server not in self.held.values():
            self.top.set_reading(server, True)

    def _queued(self) -> int:
        if not self.streams:  # closed: what is queued will never leave
            return 0
        pieces = (piece for queue in self.h2_conn.stream_buffers.values() for piece in queue)
        return sum(len(piece.data) + PIECE_COST for piece in pieces)
