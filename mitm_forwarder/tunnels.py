"""What goes over the wire to the upstream proxy: request targets and the proxy's credentials.

Neither ever appears in `flow.request`, so a second proxy, a saved flow or a replay starts clean.
Loop thread only.
"""

from __future__ import annotations

from collections.abc import Iterator

from mitmproxy import connection
from mitmproxy import http
from mitmproxy.proxy import commands
from mitmproxy.proxy import events
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import RequestHeaders
from mitmproxy.proxy.layers.http._events import RequestTrailers
from mitmproxy.proxy.layers.http._events import ResponseProtocolError
from mitmproxy.proxy.layers.http._http1 import Http1Client
from mitmproxy.proxy.layers.http._upstream_proxy import HttpUpstreamProxy

from . import compat
from . import guard
from .http1 import HEAD_LIMIT
from .http1 import PatientBodies
from .routes import Form
from .routes import Route

Handshake = layer.CommandGenerator[tuple[bool, str | None]]
"""What a tunnel's handshake gives, as mitmproxy has it: done, and an error."""


def wire_host(host: str) -> bytes:
    """The host as it stands in a request target. UnicodeError when it is no host name."""
    if ":" in host:
        return b"[" + host.encode("ascii") + b"]"
    return host.encode("idna")


def authorize_connect(flow: http.HTTPFlow) -> None:
    """For the http_connect_upstream hook: the proxy's credentials, and brackets around an IPv6
    target.

    mitmproxy <= 12.2.3 forgets the brackets.
    """
    request = flow.request
    if ":" in request.host and not request.authority.startswith("["):
        request.authority = f"[{request.host}]:{request.port}"
        if request.host_header is not None:
            request.host_header = request.authority
    route = guard.KNOWN.get(flow.server_conn)
    if route is not None and (authorization := route.authorization()):
        request.headers["Proxy-Authorization"] = authorization


class RoutedTunnel(HttpUpstreamProxy):
    """mitmproxy's way through an HTTP proxy. Takes over an object that has not begun, by
    `__class__`.
    """

    opened = False
    """The proxy has done its part: whatever fails from here on is the target's."""

    def receive_handshake_data(self, data: bytes) -> Handshake:
        if self.send_connect and len(self.buf) + len(data) > HEAD_LIMIT:
            return False, "The upstream proxy's answer to CONNECT is too large."
        return (yield from super().receive_handshake_data(data))

    def _handshake_finished(self, err: str | None) -> layer.CommandGenerator[None]:
        self.opened = err is None
        yield from super()._handshake_finished(err)


class RoutedHttp1Client(PatientBodies, Http1Client):
    """mitmproxy's client side, with a request line that fits the route. Takes over a live object by
    `__class__`.
    """

    def send(self, event: HttpEvent) -> layer.CommandGenerator[None]:
        if isinstance(event, RequestTrailers):
            return iter(())  # type: ignore[return-value]
        if isinstance(event, RequestHeaders):
            event = framed(event)
            return self._send_head(event.request, super().send(event))
        return super().send(event)

    def read_headers(self, event: events.ConnectionEvent) -> layer.CommandGenerator[None]:
        if isinstance(event, events.DataReceived) and self.head_is_too_large():
            self.state = self.done
            yield commands.CloseConnection(self.conn)
            if self.stream_id is not None:
                message = "The head of the response is too large."
                yield ReceiveHttp(
                    ResponseProtocolError(self.stream_id, message, compat.BAD_RESPONSE)
                )
            return
        yield from super().read_headers(event)

    def _send_head(
        self, request: http.Request, stock: Iterator[commands.Command]
    ) -> layer.CommandGenerator[None]:
        assert isinstance(self.conn, connection.Server) and isinstance(self.conn.via, Route)
        for command in stock:
            if isinstance(command, commands.SendData):
                command.data = rewrite_head(command.data, request, self.conn.via)
            yield command


def framed(event: RequestHeaders) -> RequestHeaders:
    """HTTP/2 frames a body of unknown length, HTTP/1 needs a header for it. mitmproxy adds none,
    and the target would take the body for requests.
    """
    headers = event.request.headers
    if event.end_stream or "content-length" in headers or "transfer-encoding" in headers:
        return event
    request = event.request.copy()
    request.headers["Transfer-Encoding"] = "chunked"
    return RequestHeaders(event.stream_id, request, event.end_stream)


def rewrite_head(head: bytes, request: http.Request, route: Route) -> bytes:
    """The head that mitmproxy assembled, with the request target that the route needs.

    In a tunnel the target is always in origin-form, whatever the client sent.
    """
    line, rest = head.split(b"\r\n", 1)
    version = line.rpartition(b" ")[2]
    target = request.data.path
    if route.form is not Form.ABSOLUTE:
        return b"%s %s %s\r\n%s" % (request.data.method, target, version, rest)
    authority = wire_host(request.host)
    if request.port != 80:
        authority += b":%d" % request.port
    # OPTIONS * in absolute-form has an empty path (RFC 9112, 3.2.4).
    target = b"http://" + authority + (b"" if target == b"*" else target)
    if authorization := route.authorization():
        rest = b"Proxy-Authorization: " + authorization.encode() + b"\r\n" + rest
    return b"%s %s %s\r\n%s" % (request.data.method, target, version, rest)
