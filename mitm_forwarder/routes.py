"""What a request brings into the forwarding layer: its route, its plan, and the engine that made
both.

The lowest module of forwarding: `guard`, `tunnels`, `streams` and `layers` build on it. Loop thread
only.
"""

from __future__ import annotations

import base64
import enum
import weakref
from collections.abc import Awaitable
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol
from typing import cast

from mitmproxy import connection
from mitmproxy import http

if TYPE_CHECKING:
    from typing import Self


class Form(enum.Enum):
    """How a request travels through its proxy."""

    TUNNEL = "tunnel"
    TUNNEL_HTTP1 = "tunnel, HTTP/1.1 to the target"
    ABSOLUTE = "absolute-form, no tunnel"


class Route(tuple[str, tuple[str, int]]):
    """The value of `flow.server_conn.via`: the pair that mitmproxy unpacks, and what it does not
    know of.

    mitmproxy reuses an upstream connection when the `via` are equal. So the user, the credentials,
    the proxy's id and the form belong to equality: no user ever gets the tunnel of another. They do
    not belong to what is copied or saved: copies, pickles and flow files hold the plain pair.
    """

    kind: str
    username: str | None
    password: str | None
    proxy_id: int | str | None
    tls_name: str | None
    user: int | None
    """A mark of the user token: equal for equal ones."""
    form: Form

    def __new__(
        cls,
        kind: str,
        host: str,
        port: int,
        username: str | None = None,
        password: str | None = None,
        proxy_id: int | str | None = None,
        tls_name: str | None = None,
        user: int | None = None,
        *,
        form: Form = Form.TUNNEL,
    ) -> Self:
        self = tuple.__new__(cls, ("https" if kind == "https" else "http", (host, port)))
        self.kind = kind
        self.username = username
        self.password = password
        self.proxy_id = proxy_id
        self.tls_name = tls_name
        self.user = user
        self.form = form
        return self

    def _key(self) -> tuple[object, ...]:
        who = (self.username, self.password, self.proxy_id)
        return (tuple(self), self.kind, *who, self.tls_name, self.user, self.form)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Route) and self._key() == other._key()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)

    @property
    def address(self) -> tuple[str, int]:
        """Where the proxy listens: the only address that may be dialled for this route."""
        return self[1]

    @property
    def is_socks(self) -> bool:
        return self.kind.startswith("socks")

    @property
    def next_hop(self) -> str:
        """`host:port` of the proxy, for people and for `Proxy-Status`."""
        host, port = self[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def authorization(self) -> str | None:
        """The value of Proxy-Authorization for this proxy (RFC 7617, UTF-8), or None."""
        if self.username is None:
            return None
        pair = f"{self.username}:{self.password or ''}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def for_request(self, request: http.Request) -> Route:
        """This route in the form that fits the request.

        http:// goes to an HTTP proxy in absolute-form: Squid refuses CONNECT to port 80, many plain
        proxies know no CONNECT at all. SOCKS knows nothing but tunnels, and a WebSocket needs one.
        An upload that an HTTP/2 client streams gets an HTTP/1.1 connection of its own, because
        mitmproxy's HTTP/2 to the target has no back-pressure; gRPC cannot live without HTTP/2 and
        keeps it.
        """
        headers = request.headers
        if request.scheme == "http":
            upgrade: str = headers.get("upgrade", "")
            needs_tunnel = self.is_socks or upgrade.lower() == "websocket"
            form = Form.TUNNEL if needs_tunnel else Form.ABSOLUTE
        elif request.stream and not request.is_http11 and not _needs_http2(headers):
            form = Form.TUNNEL_HTTP1
        else:
            form = Form.TUNNEL
        return Route(
            self.kind,
            *self[1],
            self.username,
            self.password,
            self.proxy_id,
            self.tls_name,
            self.user,
            form=form,
        )


def _needs_http2(headers: http.Headers) -> bool:
    trailers: str = headers.get("te", "")
    content: str = headers.get("content-type", "")
    return trailers.lower() == "trailers" or content.startswith("application/grpc")


class Plan(Protocol):
    """What the engine knows of a request; it hangs at the flow as `_forwarder`."""

    @property
    def id(self) -> str:
        """The request id, UUID text."""

    @property
    def deadline(self) -> float:
        """time.monotonic() by which queue, backend, dials and retries together must be done."""

    @property
    def routed(self) -> bool:
        """True once a route was chosen."""


class Hooks(Protocol):
    """The engine, as the layers see it. Times are in seconds."""

    connect_timeout: float
    response_timeout: float
    stream_idle_timeout: float
    upstream_idle_timeout: float
    max_connections: int

    def judge(self, flow: http.HTTPFlow) -> bool:
        """Is the URL that is about to leave the one that was judged, or judged again and allowed?

        False means that `flow.response` has been set.
        """

    def leave(self, flow: http.HTTPFlow) -> None:
        """The client of a flow that may still wait for its turn has gone."""

    def finish(self, flow: http.HTTPFlow) -> None:
        """The flow has ended. Does nothing the second time."""

    def retry(self, flow: http.HTTPFlow, reason: str) -> Awaitable[None] | None:
        """Ask for another route after a dial failed for `reason` (a code of errors.ANSWERS).

        Done, `flow.server_conn` is another Server, or `flow.response` is set, or neither: there is
        nothing left to try, or no time.
        """


TUNNEL_TOKENS: weakref.WeakKeyDictionary[connection.Client, bytes] = weakref.WeakKeyDictionary()
"""Client connection that has become a tunnel -> the Proxy-Authorization of its CONNECT, empty where
there was none. The process's and not an engine's: a tunnel outlives a change of the configuration.
"""

_engine: Hooks | None = None


def use(hooks: Hooks | None) -> None:
    """Put an engine behind the layers; None takes it away, and every request from then on is
    refused.
    """
    global _engine
    _engine = hooks


def engine() -> Hooks | None:
    return _engine


def plan_of(flow: http.HTTPFlow) -> Plan | None:
    """The plan of a flow; None when `engine.begin` never saw it."""
    return cast("Plan | None", flow.__dict__.get("_forwarder"))


def forget_plan(flow: http.HTTPFlow) -> None:
    """A flow that lives a second time (client replay) must be planned a second time."""
    flow.__dict__.pop("_forwarder", None)
