"""HTTP/1 as clients see us, and what both sides must survive: heads without end, and trailers.

Objects of mitmproxy's become ours by `__class__` before their first byte. Loop thread only.
"""

from __future__ import annotations

import logging
import math
import re
import time
import uuid
from typing import TYPE_CHECKING
from typing import Any

import h11
from h11._readers import ChunkedReader
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands
from mitmproxy.proxy import events
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._events import ResponseProtocolError
from mitmproxy.proxy.layers.http._events import ResponseTrailers
from mitmproxy.proxy.layers.http._http1 import Http1Connection
from mitmproxy.proxy.layers.http._http1 import Http1Server

from . import compat
from .errors import make_response

if TYPE_CHECKING:
    from .layers import ForwarderLayer

logger = logging.getLogger(__name__)
clock = time.monotonic

HEAD_LIMIT = 64 << 10
"""Bytes of a request's or response's head, of a chunk's first line, or of trailers."""

HEAD_SECONDS = 10.0
"""How long a client may take for a head, from its first byte."""

LINGER_SECONDS = 5.0
"""How long we read on after an answer that ends the connection: a reset would overtake it."""

REASONS = {400: "bad_request", 413: "request_too_large"}
"""Reason codes of what mitmproxy itself refuses, by status; the rest is 502."""

_BLANK_LINE = re.compile(rb"\n\r?\n")


class _Patient:
    """h11's reader of chunked bodies, without trailers (mitmproxy would never go on) and without
    lines that do not end.
    """

    def __init__(self, reader: ChunkedReader, connection: Http1Connection) -> None:
        self.reader = reader
        self.connection = connection

    def __call__(self, buf: Any) -> Any:
        try:
            event = self.reader(buf)
            if event is None and len(buf) > HEAD_LIMIT:
                raise h11.RemoteProtocolError("a chunk's head, or the trailers, are too large")
        except h11.ProtocolError:
            # Or mitmproxy closes the connection again for each event that still comes, and the
            # second cancellation can leave the socket open.
            self.connection.state = self.connection.done
            raise
        if isinstance(event, h11.EndOfMessage) and event.headers:
            return h11.EndOfMessage()
        return event

    def read_eof(self) -> Any:
        return self.reader.read_eof()


class PatientBodies(Http1Connection):
    """Whatever `body_reader` is set to is made patient."""

    @property
    def body_reader(self) -> Any:
        return self.__dict__["_patient_reader"]

    @body_reader.setter
    def body_reader(self, reader: Any) -> None:
        patient = _Patient(reader, self) if isinstance(reader, ChunkedReader) else reader
        self.__dict__["_patient_reader"] = patient

    def head_is_too_large(self) -> bool:
        """Is what has been received the beginning of a head beyond the limit?"""
        if len(self.buf) <= HEAD_LIMIT:
            return False
        return _BLANK_LINE.search(bytes(self.buf), 0, HEAD_LIMIT) is None


def become(connection: Http1Connection, kind: type[PatientBodies]) -> None:
    """Make a connection of mitmproxy's one of ours, in place. Its state is a method of its old
    class.
    """
    connection.__class__ = kind
    connection.state = getattr(connection, connection.state.__name__)


class HeadOverdue(events.Event):
    """The time that `ForwarderHttp1Server.due` named has passed."""


class ForwarderHttp1Server(PatientBodies, Http1Server):
    """What a client talks to. Every answer about a head is ours."""

    top: ForwarderLayer
    due = math.inf
    """When the client has taken too long, for a head or for closing after its last answer."""
    refused = False

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, HeadOverdue):
            return self._overdue()
        if self.refused and isinstance(event, events.DataReceived):
            return self.discard(event)
        stock: layer.CommandGenerator[None] = super()._handle_event(event)
        return stock

    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        if isinstance(event, ResponseProtocolError):
            return self._send_error(event)
        if isinstance(event, ResponseTrailers):
            return iter(())  # type: ignore[return-value]
        stock: layer.CommandGenerator[None] = super().send(event)
        return stock

    def _send_error(self, event: ResponseProtocolError) -> layer.CommandGenerator[None]:
        """Where mitmproxy would send a page of its own and close."""
        for command in super().send(event):
            if isinstance(command, commands.SendData):
                reason = REASONS.get(compat.status_of(event.code) or 0, "upstream_failed")
                yield from self._refuse(reason, event.message)
                return
            yield command

    def read_headers(self, event: events.ConnectionEvent) -> layer.CommandGenerator[None]:
        if isinstance(event, events.DataReceived) and self.head_is_too_large():
            yield from self._refuse("headers_too_large", None)
            return
        for command in super().read_headers(event):
            if isinstance(command, commands.SendData):  # mitmproxy's page about a bad head
                yield from self._refuse("bad_request", None)
                return
            yield command
        if self.state == self.read_headers and self.buf:
            if self.due == math.inf:
                self.due = clock() + HEAD_SECONDS
                yield from self.top.arm(self.due)
        else:
            self.due = math.inf

    def _overdue(self) -> layer.CommandGenerator[None]:
        if self.due > clock():
            return
        self.due = math.inf
        if self.refused:
            yield commands.CloseConnection(self.conn)
        else:
            yield from self._refuse("request_timeout", "The head of the request was too slow.")

    def _refuse(self, reason: str, detail: str | None) -> layer.CommandGenerator[None]:
        """There is no request that a flow could be made of: answer here, read on a while, close."""
        request_id = str(uuid.uuid4())
        response = make_response(reason, request_id, detail=detail)
        response.headers["connection"] = "close"
        logger.info(f"A request that cannot be read: {response.status_code} id={request_id}")
        self.refused = True
        self.state = self.discard
        self.buf = type(self.buf)()
        self.due = clock() + LINGER_SECONDS
        yield commands.SendData(
            self.conn, http1.assemble_response_head(response) + (response.raw_content or b"")
        )
        yield from self.top.arm(self.due)

    def discard(self, event: events.Event) -> layer.CommandGenerator[None]:
        """After such an answer: wait for the client to close."""
        if isinstance(event, events.ConnectionClosed):
            self.due = math.inf
            yield commands.CloseConnection(self.conn)
