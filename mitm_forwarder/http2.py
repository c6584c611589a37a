"""HTTP/2 to a target: an upload that the target does not take makes its client wait.

mitmproxy takes from the client whatever comes and queues it for the target without a limit. gRPC
cannot be given HTTP/1 instead (routes.py). An object of mitmproxy's becomes ours by `__class__`
when its connection is ready. Loop thread only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy.proxy import events
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http._events import RequestData
from mitmproxy.proxy.layers.http._http2 import Http2Client

if TYPE_CHECKING:
    from .layers import ForwarderLayer

QUEUE_LIMIT = 1 << 20
"""Bytes of uploads that may wait for the target before the client's connection is no longer
read.
"""


class RoutedHttp2Client(Http2Client):
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
            self.top.hold(self)  # again for each piece: asyncio's reader may have resumed
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
