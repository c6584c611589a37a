"""The connections of one client: mitmproxy's HttpLayer, with routes, deadlines and tidiness.

A client connection (or the inside of one CONNECT) is one layer; each request in it is a stream
(streams.py). Here: how our layer gets in, how an upstream connection comes to be and ends, and the
one timer. Loop thread only.
"""

from __future__ import annotations

import asyncio
import collections
import math
import time
import weakref
from collections.abc import Iterator
from typing import Any

from mitmproxy import connection
from mitmproxy import ctx
from mitmproxy import http
from mitmproxy import options
from mitmproxy.addons import clientplayback
from mitmproxy.proxy import commands
from mitmproxy.proxy import events
from mitmproxy.proxy import layer
from mitmproxy.proxy import server
from mitmproxy.proxy.layers.http import GetHttpConnection
from mitmproxy.proxy.layers.http import GetHttpConnectionCompleted
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.http import RegisterHttpConnection
from mitmproxy.proxy.layers.http._http1 import Http1Client
from mitmproxy.proxy.layers.http._http1 import Http1Server
from mitmproxy.proxy.layers.http._http2 import Http2Client
from mitmproxy.proxy.layers.http._http2 import Http2Server
from mitmproxy.proxy.layers.http._upstream_proxy import HttpUpstreamProxy

from . import guard
from . import streams
from .dials import Dial
from .dials import DialError
from .dials import ForwarderFailoverHook
from .dials import failover
from .http1 import ForwarderHttp1Server
from .http1 import HeadOverdue
from .http1 import become
from .http2 import ForwarderHttp2Server
from .http2 import RoutedHttp2Client
from .routes import Form
from .routes import Hooks
from .routes import Plan
from .routes import Route
from .routes import engine
from .routes import forget_plan
from .routes import use
from .socks import take_over
from .streams import ForwarderStream
from .streams import Overdue
from .tunnels import RoutedHttp1Client
from .tunnels import RoutedTunnel

__all__ = [
    "ForwarderFailoverHook",
    "ForwarderLayer",
    "Hooks",
    "Plan",
    "Route",
    "adopt",
    "choose_layer",
    "failover",
    "install_replay",
    "lift_dial_limit",
    "uninstall_replay",
    "use",
]

clock = time.monotonic

LOOKS_PER_IDLE_TIME = 4
"""An upstream connection is closed when it has been idle for its time, less at most the part of it
between two looks.
"""

RECHECK_SECONDS = 0.25
"""Shortest time between two looks at deadlines: a stream inside a hook cannot be told that its time
is over.
"""


# ---- how our layers get in


def choose_layer(nextlayer: layer.NextLayer) -> None:
    """For the next_layer hook: let mitmproxy decide, then take over what it built."""
    _addon("nextlayer").next_layer(nextlayer)
    adopt(nextlayer.layer)


def adopt(top: layer.Layer | None) -> None:
    """Turn each HttpLayer of a fresh stack into ours.

    By class and in place: a second object would stay in context.layers, where mitmproxy looks for
    its own.
    """
    while top is not None:
        if type(top) is HttpLayer:
            top.__class__ = ForwarderLayer
            assert isinstance(top, ForwarderLayer)
            top.adopted()
        top = getattr(top, "child_layer", None)


class ForwarderReplay(clientplayback.ReplayHandler):
    """A replayed request is planned and routed like any other."""

    def __init__(self, flow: http.HTTPFlow, opts: options.Options) -> None:
        super().__init__(flow, opts)
        forget_plan(flow)
        adopt(self.layer)


_stock_replay = clientplayback.ReplayHandler


def install_replay() -> None:
    """At load. Without it a replay is refused by the guard."""
    clientplayback.ReplayHandler = ForwarderReplay  # type: ignore[misc, assignment]


def uninstall_replay() -> None:
    """At done. The guard stays."""
    clientplayback.ReplayHandler = _stock_replay  # type: ignore[misc]


def _handler_of(client: connection.Client) -> server.ConnectionHandler | None:
    """The handler that owns a live client connection; None for a replay, whose client is a copy."""
    handler: server.ConnectionHandler | None = _addon("proxyserver").connections.get(client.id)
    return handler if handler is not None and handler.client is client else None


def _addon(name: str) -> Any:
    return ctx.master.addons.get(name)


def lift_dial_limit(client: connection.Client) -> None:
    """For the client_connected hook: mitmproxy's five connections per address would be five per
    proxy.
    """
    hooks, handler = engine(), _handler_of(client)
    if hooks is not None and handler is not None:
        limit = hooks.max_connections
        handler.max_conns = collections.defaultdict(lambda: asyncio.Semaphore(limit))


class ForwarderLayer(HttpLayer):
    dials: dict[Dial, float]
    """Streams that wait for a connection, and until when."""
    timers: dict[commands.RequestWakeup, float]
    used_at: dict[connection.Connection, float]
    """Upstream connections, and when a look last saw them in use."""
    forgotten: weakref.WeakSet[connection.Connection]
    """Connections given up: mitmproxy will still tell of their end."""
    holders: set[ForwarderStream | RoutedHttp2Client]
    """For whose sake the client is not read."""

    def adopted(self) -> None:
        """In place of __init__, which ran before the object was ours."""
        self.dials = {}
        self.timers = {}
        self.used_at = {}
        self.forgotten = weakref.WeakSet()
        self.holders = set()

    def make_stream(self, stream_id: int) -> layer.CommandGenerator[None]:
        stream = ForwarderStream(self.context.fork(), stream_id)
        stream.top = self
        self.streams[stream_id] = stream
        yield from self.event_to_child(stream, events.Start())

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            return self._start(event)
        if isinstance(event, events.Wakeup) and event.command in self.timers:
            return self._wake(event.command)
        if isinstance(event, events.ConnectionEvent) and event.connection in self.forgotten:
            return _nothing()
        stock: layer.CommandGenerator[None] = super()._handle_event(event)
        return stock

    def _start(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield from super()._handle_event(event)
        face = self.connections[self.context.client]
        if type(face) is Http1Server and streams.UNROUTED == "refuse":
            become(face, ForwarderHttp1Server)
            assert isinstance(face, ForwarderHttp1Server)
            face.top = self
        elif type(face) is Http2Server:
            face.__class__ = ForwarderHttp2Server
            assert isinstance(face, ForwarderHttp2Server)
            face.top, face.held = self, {}

    # ---- an upstream connection: wanted, prepared, ready

    def get_connection(
        self, event: GetHttpConnection, *, reuse: bool = True
    ) -> layer.CommandGenerator[None]:
        if not isinstance(event, Dial):
            yield from super().get_connection(event, reuse=reuse)
            return
        self._prune()
        for command in super().get_connection(event, reuse=reuse and event.reuse):
            if isinstance(command, commands.OpenConnection):
                self._prepare(command.connection, event)
            yield command
        if event in self.command_sources:  # not served from a connection at hand
            event.fresh = True
            self.dials[event] = event.deadline
            yield from self.arm(event.deadline)

    def _prepare(self, proxy: connection.Server, dial: Dial) -> None:
        """The stack is built and asks for its socket; no byte has been produced yet."""
        route = dial.via
        assert isinstance(route, Route)
        (tunnel,) = (x for x in self._stack(proxy) if isinstance(x, HttpUpstreamProxy))
        take_over(tunnel, route)
        tunnel.send_connect = route.form is not Form.ABSOLUTE
        if route.tls_name is not None:
            proxy.sni = route.tls_name
        if route.form is Form.TUNNEL_HTTP1:
            tunnel.conn.alpn_offers = [b"http/1.1"]
        guard.permit(proxy, route)

    def register_connection(self, command: RegisterHttpConnection) -> layer.CommandGenerator[None]:
        conn = command.connection
        if conn not in self.waiting_for_establishment:  # our deadline was faster
            return _nothing()
        if isinstance(conn, connection.Server) and isinstance(conn.via, Route):
            if command.err:
                command.err = self._dial_error(conn, command.err)
            else:
                *_, last = self._stack(conn)
                if type(last) is Http1Client:
                    become(last, RoutedHttp1Client)
                elif type(last) is Http2Client:
                    last.__class__ = RoutedHttp2Client
                    assert isinstance(last, RoutedHttp2Client)
                    last.top = self
                return self._ready(conn, command)
        return super().register_connection(command)

    def _ready(
        self, conn: connection.Server, command: RegisterHttpConnection
    ) -> layer.CommandGenerator[None]:
        self.used_at[conn] = clock()
        yield from super().register_connection(command)
        yield from self.arm(clock() + _idle_limit() / LOOKS_PER_IDLE_TIME)

    def _dial_error(self, conn: connection.Server, text: str) -> DialError:
        """Who failed: the proxy could not be reached, refused, or had opened a tunnel already."""
        tunnel = self._tunnel(conn)
        if tunnel is None or tunnel.tunnel_connection.peername is None:
            return DialError("proxy_unreachable", text)
        if tunnel.opened:
            return DialError("target_tls_failed", f"TLS with the target failed: {text}")
        return DialError("proxy_refused", text)

    def _stack(self, conn: connection.Connection) -> Iterator[layer.Layer]:
        """The layers of an upstream connection, from the socket inwards."""
        this: layer.Layer | None = self.connections.get(conn)
        while this is not None:
            yield this
            this = getattr(this, "child_layer", None)

    def _tunnel(self, conn: connection.Connection) -> RoutedTunnel | None:
        return next((x for x in self._stack(conn) if isinstance(x, RoutedTunnel)), None)

    def _outer(self, conn: connection.Server) -> connection.Server:
        """The connection to the proxy that carries `conn`."""
        tunnel = self._tunnel(conn)
        return tunnel.tunnel_connection if tunnel is not None else conn

    def has_received(self, conn: connection.Connection) -> bool:
        """Is there a piece of an answer that nobody has read yet?"""
        *_, last = self._stack(conn)
        return isinstance(last, RoutedHttp1Client) and len(last.buf) > 0

    # ---- its end

    def _routed(self) -> list[connection.Server]:
        """Inner connections, one for each upstream connection of ours."""
        return [
            c
            for c in self.connections
            if isinstance(c, connection.Server) and isinstance(c.via, Route)
        ]

    def _used(self) -> set[connection.Connection]:
        used: set[connection.Connection] = {s.context.server for s in self.streams.values()}
        return used.union(self.waiting_for_establishment)

    def _forget(self, conn: connection.Server) -> connection.Server:
        outer = self._outer(conn)
        *_, last = [None, *self._stack(conn)]
        if isinstance(last, RoutedHttp2Client):
            last.let_go()
        for gone in (conn, outer):
            self.connections.pop(gone, None)
            self.forgotten.add(gone)
        self.used_at.pop(conn, None)
        return outer

    def _prune(self) -> None:
        """Drop what is closed: mitmproxy keeps it, scans it for each request, and repeats its old
        errors.
        """
        closed = [c for c in self._routed() if not c.connected]
        if closed:
            used = self._used()
            for conn in closed:
                if conn not in used:
                    self._forget(conn)

    # ---- the timer

    def arm(self, due: float) -> layer.CommandGenerator[None]:
        """Look at all deadlines at `due` (monotonic seconds), unless a look is planned earlier
        anyway.

        mitmproxy's timers cannot be cancelled: one for each request would pile up.
        """
        if due < min(self.timers.values(), default=math.inf):
            command = commands.RequestWakeup(max(0.0, due - clock()))
            self.timers[command] = due
            yield command

    def _wake(self, command: commands.RequestWakeup) -> layer.CommandGenerator[None]:
        del self.timers[command]
        self.command_sources.pop(command, None)
        now = clock()
        due = yield from self._expire_head(now)
        due = min(due, (yield from self._expire_dials(now)))
        due = min(due, (yield from self._expire_streams(now)))
        due = min(due, (yield from self._close_idle(now)))
        yield from self.arm(max(due, now + RECHECK_SECONDS))

    def _expire_head(self, now: float) -> layer.CommandGenerator[float]:
        face = self.connections.get(self.context.client)
        if not isinstance(face, ForwarderHttp1Server):
            return math.inf
        if face.due <= now:
            yield from self.event_to_child(face, HeadOverdue())
        return face.due

    def _expire_dials(self, now: float) -> layer.CommandGenerator[float]:
        for dial, due in list(self.dials.items()):
            if dial not in self.command_sources:  # served meanwhile
                del self.dials[dial]
            elif due <= now:
                del self.dials[dial]
                yield from self._give_up(dial)
        return min(self.dials.values(), default=math.inf)

    def _give_up(self, dial: Dial) -> layer.CommandGenerator[None]:
        for conn, waiting in list(self.waiting_for_establishment.items()):
            if dial in waiting:
                waiting.remove(dial)
                if not waiting:  # nobody else wants it
                    del self.waiting_for_establishment[conn]
                    assert isinstance(conn, connection.Server)
                    yield commands.CloseConnection(self._forget(conn))
        error = DialError("connect_timeout", "The upstream connection was not ready in time.")
        stream = self.command_sources.pop(dial)
        yield from self.event_to_child(stream, GetHttpConnectionCompleted(dial, (None, error)))

    def _expire_streams(self, now: float) -> layer.CommandGenerator[float]:
        for stream in list(self.streams.values()):
            if isinstance(stream, ForwarderStream) and stream.due() <= now:
                if stream._paused is None:
                    yield from self.event_to_child(stream, Overdue(stream.stream_id))
        return min(
            (s.due() for s in self.streams.values() if isinstance(s, ForwarderStream)),
            default=math.inf,
        )

    def _close_idle(self, now: float) -> layer.CommandGenerator[float]:
        """Close upstream connections that nobody has used for their time."""
        used, due = self._used(), math.inf
        for conn in self._routed():
            if conn in used:
                self.used_at[conn] = now
            if not conn.connected:
                continue
            closes = self.used_at.setdefault(conn, now) + _idle_limit()
            if closes <= now:
                # Forgotten first: a request in this very moment must not get a dying connection.
                yield commands.CloseConnection(self._forget(conn))
            else:
                due = min(due, closes, now + _idle_limit() / LOOKS_PER_IDLE_TIME)
        return due

    # ---- sockets that are not read for a while

    def hold(self, holder: ForwarderStream | RoutedHttp2Client) -> None:
        """Stop reading the client until `release`. Siblings on HTTP/2 wait too, at most until a
        deadline ends what they wait for.
        """
        self.holders.add(holder)
        self.set_reading(self.context.client, False)

    def release(self, holder: ForwarderStream | RoutedHttp2Client) -> None:
        self.holders.discard(holder)
        if not self.holders:
            self.set_reading(self.context.client, True)

    def server_of(self, stream_id: int) -> connection.Server | None:
        """The connection whose socket brings the answer of a stream."""
        stream = self.streams.get(stream_id)
        return self._outer(stream.context.server) if stream is not None else None

    def set_reading(self, conn: connection.Connection, on: bool) -> None:
        handler = _handler_of(self.context.client)
        io: Any = handler.transports.get(conn) if handler is not None else None
        transport = getattr(io.writer, "transport", None) if io is not None else None
        if transport is None or transport.is_closing():
            return
        if on:
            transport.resume_reading()
        else:
            transport.pause_reading()
            # A reader that had paused it by itself would resume it at its next `read`.
            io.reader._paused = False


def _idle_limit() -> float:
    hooks = engine()
    return hooks.upstream_idle_timeout if hooks is not None else 0.0


def _nothing() -> layer.CommandGenerator[None]:
    yield from ()
