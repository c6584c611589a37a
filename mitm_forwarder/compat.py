"""Every internal of mitmproxy that the forwarding layer relies on, and a check that it still is
what we rely on.

mitmproxy promises nothing about these names (its documented hooks are not listed here). An unknown
version that keeps the contract runs with a warning, one that breaks it must not run: call `check()`
before anything else of this package is imported, since an import may be the first thing to fail.
What differs between versions is bridged here and nowhere else.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mitmproxy import version

logger = logging.getLogger(__name__)

TESTED = ("10.1.5", "10.4.2", "11.0.2", "11.1.3", "12.0.1", "12.1.2", "12.2.3", "12.3.1")
"""Versions that the tests of forwarding have been run on."""

HTTP = "mitmproxy.proxy.layers.http"


@dataclass(frozen=True, slots=True)
class Reliance:
    """One thing we rely on. `name` is `module:attribute.path`; exactly one of the three others says
    what must hold.

    `since` (included) and `until` (excluded) bound the versions of mitmproxy that the row is about.
    """

    name: str
    signature: str | None = None
    source: str | None = None
    behaviour: Callable[[], bool] | None = None
    since: tuple[int, ...] = (0,)
    until: tuple[int, ...] = (9999,)


@dataclass(frozen=True, slots=True)
class Compat:
    """What `check` found, in words. Errors: do not start. Warnings: start, and say so."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.errors


# ---- version shims


def _code(name: str, status: int) -> Any:
    module = importlib.import_module(f"{HTTP}._events")
    codes = getattr(module, "ErrorCode", None)
    return getattr(codes, name) if codes is not None else status  # an enum since 12.0


def status_of(code: Any) -> int | None:
    """The HTTP status that a ResponseProtocolError stands for, if it stands for one."""
    status: int | None = code if isinstance(code, int) else code.http_status_code()
    return status


BAD_RESPONSE: Any = _code("GENERIC_SERVER_ERROR", 502)
"""The code of a ResponseProtocolError for an answer that cannot be read."""
CANCEL: Any = _code("CANCEL", 499)
"""The code of a Request-/ResponseProtocolError that resets an HTTP/2 stream with CANCEL, without an
error page.
"""


# ---- behaviours that neither a signature nor a line of source shows


def _classes_can_be_swapped() -> bool:
    http = importlib.import_module(HTTP)
    tunnel = importlib.import_module(f"{HTTP}._upstream_proxy").HttpUpstreamProxy
    return not any(
        "__slots__" in cls.__dict__
        for cls in (
            *(http.HttpLayer, http.HttpStream, http.Http1Client, tunnel),
            *(http.Http2Client, http.Http2Server),
        )
    )


def _servers_can_be_registered() -> bool:
    server = importlib.import_module("mitmproxy.connection").Server(address=("a.test", 1))
    return server in weakref.WeakSet([server])


def _copies_lose_credentials() -> bool:
    class Pair(tuple[Any, ...]):
        pass

    connection = importlib.import_module("mitmproxy.connection")
    server = connection.Server(address=("a.test", 1), via=Pair(("http", ("b.test", 2))))
    return type(server.copy().via) is tuple


def _scripts_precede_next_layer() -> bool:
    addons = importlib.import_module("mitmproxy.addons").default_addons()
    order = [type(addon).__name__ for addon in addons]
    return order.index("ScriptLoader") < order.index("NextLayer") and "Proxyserver" in order


# ---- the table

CONTRACT: tuple[Reliance, ...] = (
    # guard.py
    Reliance("mitmproxy.proxy.server:ConnectionHandler.open_connection", "(self, command)"),
    Reliance(
        "mitmproxy.proxy.server:ConnectionHandler.open_connection",
        source="if err := command.connection.error:",
    ),
    Reliance("mitmproxy.connection:Server", behaviour=_servers_can_be_registered),
    # routes.py
    Reliance("mitmproxy.connection:Server", behaviour=_copies_lose_credentials),
    Reliance(
        f"{HTTP}:GetHttpConnection.connection_spec_matches", source="self.via == connection.via"
    ),
    # layers.py: how we get in
    Reliance("mitmproxy.addons:default_addons", behaviour=_scripts_precede_next_layer),
    Reliance("mitmproxy.addons.next_layer:NextLayer.next_layer", "(self, nextlayer)"),
    Reliance("mitmproxy.addons.next_layer:NextLayer.next_layer", source="if nextlayer.layer:"),
    Reliance(f"{HTTP}:HttpLayer", behaviour=_classes_can_be_swapped),
    Reliance("mitmproxy.addons.clientplayback:ReplayHandler.__init__", "(self, flow, options)"),
    Reliance(
        "mitmproxy.addons.clientplayback:ReplayHandler.__init__",
        source="self.layer = layers.HttpLayer(context",
    ),
    Reliance(
        "mitmproxy.addons.clientplayback:ClientPlayback.playback",
        source="ReplayHandler(self.inflight",
    ),
    # layers.py: the limit of dials and the client's socket
    Reliance(
        "mitmproxy.proxy.server:ConnectionHandler.open_connection",
        source="self.max_conns[command.connection.address]",
    ),
    Reliance(
        "mitmproxy.proxy.server:ConnectionHandler.__init__", source="self.client = context.client"
    ),
    Reliance(
        "mitmproxy.proxy.server:ConnectionHandler.handle_connection",
        source="self.transports[connection].writer",
    ),
    Reliance(
        "mitmproxy.addons.proxyserver:Proxyserver.register_connection",
        source="self.connections[connection_id] = handler",
    ),
    Reliance(
        "mitmproxy.proxy.mode_servers:ServerInstance.handle_stream",
        source="self.manager.register_connection(handler.layer.context.client.id, handler)",
        since=(10, 2),
    ),
    Reliance(
        "mitmproxy.proxy.mode_servers:ServerInstance.handle_tcp_connection",
        source="self.manager.register_connection(handler.layer.context.client.id, handler)",
        until=(10, 2),
    ),
    Reliance(
        "asyncio.streams:StreamReader._maybe_resume_transport",
        source="if self._paused and len(self._buffer) <= self._limit:",
    ),
    # layers.py: streams and connections
    Reliance("mitmproxy.proxy.layer:Layer.handle_event", "(self, event)"),
    Reliance(f"{HTTP}:HttpLayer.__init__", "(self, context, mode)"),
    Reliance(f"{HTTP}:HttpLayer._handle_event", "(self, event)"),
    Reliance(f"{HTTP}:HttpLayer.event_to_child", "(self, child, event)"),
    Reliance(f"{HTTP}:HttpLayer.make_stream", "(self, stream_id)"),
    Reliance(f"{HTTP}:HttpLayer.make_stream", source="HttpStream(ctx, stream_id)"),
    Reliance(f"{HTTP}:HttpLayer.event_to_child", source="self.make_stream("),
    Reliance(f"{HTTP}:HttpLayer.event_to_child", source="self.streams.pop(command.stream_id"),
    Reliance(f"{HTTP}:HttpLayer.event_to_child", source="self.command_sources[command] = child"),
    Reliance(
        f"{HTTP}:HttpLayer.event_to_child", source="self.connections[command.connection] = child"
    ),
    Reliance(f"{HTTP}:HttpLayer.get_connection", "(self, event, *, reuse=True)"),
    Reliance(
        f"{HTTP}:HttpLayer.get_connection",
        source="_upstream_proxy.HttpUpstreamProxy.make(context, send_connect)",
    ),
    Reliance(
        f"{HTTP}:HttpLayer.get_connection",
        source="self.waiting_for_establishment[context.server].append(event)",
    ),
    Reliance(f"{HTTP}:HttpLayer.register_connection", "(self, command)"),
    Reliance(
        f"{HTTP}:HttpLayer.register_connection",
        source="self.waiting_for_establishment.pop(command.connection)",
    ),
    Reliance(f"{HTTP}:RegisterHttpConnection.__init__", "(self, connection, err)"),
    Reliance(
        f"{HTTP}:GetHttpConnection.__init__", "(self, address, tls, via, transport_protocol='tcp')"
    ),
    Reliance(f"{HTTP}:GetHttpConnectionCompleted.__init__", "(self, command, reply)"),
    Reliance(
        f"{HTTP}:HttpClient._handle_event",
        source="self._handle_event = self.child_layer.handle_event",
    ),
    Reliance(f"{HTTP}._upstream_proxy:HttpUpstreamProxy.make", "(ctx, send_connect)"),
    Reliance(
        f"{HTTP}._upstream_proxy:HttpUpstreamProxy.make",
        source="http_proxy = connection.Server(address=address)",
    ),
    Reliance(
        f"{HTTP}._upstream_proxy:HttpUpstreamProxy.start_handshake",
        source="if not self.send_connect:",
    ),
    Reliance(
        f"{HTTP}._upstream_proxy:HttpUpstreamProxy.start_handshake",
        source="yield HttpConnectUpstreamHook(flow)",
    ),
    Reliance(
        "mitmproxy.proxy.tunnel:TunnelLayer.__init__", "(self, context, tunnel_connection, conn)"
    ),
    Reliance(
        "mitmproxy.proxy.tunnel:TunnelLayer._handle_command",
        source="err = yield commands.OpenConnection(self.tunnel_connection)",
    ),
    Reliance(
        "mitmproxy.addons.tlsconfig:TlsConfig.tls_start_server",
        source="if not server.alpn_offers",
    ),
    Reliance("mitmproxy.proxy.commands:RequestWakeup.__init__", "(self, delay)"),
    Reliance("mitmproxy.proxy.commands:CloseConnection.__init__", "(self, connection)"),
    Reliance("mitmproxy.proxy.events:Wakeup.__init__", "(self, command)"),
    # streams.py
    Reliance("mitmproxy.proxy.layer:Layer.__init__", source="self._paused = None"),
    Reliance("mitmproxy.proxy.layer:Layer.handle_event", source="self._paused_event_queue.append"),
    Reliance(f"{HTTP}:HttpStream.__init__", "(self, context, stream_id)"),
    Reliance(f"{HTTP}:HttpStream._handle_event", "(self, event)"),
    Reliance(f"{HTTP}:HttpStream._handle_event", source="yield from self.server_state(event)"),
    Reliance(f"{HTTP}:HttpStream.state_wait_for_request_headers", "(self, event)"),
    Reliance(
        f"{HTTP}:HttpStream.state_wait_for_request_headers",
        source=(
            "yield HttpRequestHeadersHook(self.flow)\n"
            "        if (yield from self.check_killed(True)):"
        ),
    ),
    Reliance(
        f"{HTTP}:HttpStream.state_wait_for_request_headers",
        source="self.server_state = self.state_wait_for_response_headers",
    ),
    Reliance(
        f"{HTTP}:HttpStream.start_request_stream",
        source="ok = yield from self.make_server_connection()",
    ),
    Reliance(
        f"{HTTP}:HttpStream.state_consume_request_body",
        source="ok = yield from self.make_server_connection()",
    ),
    Reliance(f"{HTTP}:HttpStream.make_server_connection", "(self)"),
    Reliance(f"{HTTP}:HttpStream.check_killed", "(self, emit_error_hook)"),
    Reliance(f"{HTTP}:HttpStream.handle_protocol_error", "(self, event)"),
    Reliance(f"{HTTP}:HttpStream.state_wait_for_response_headers", "(self, event)"),
    Reliance(f"{HTTP}:HttpStream.state_consume_response_body", "(self, event)"),
    Reliance(f"{HTTP}:HttpStream.state_stream_response_body", "(self, event)"),
    Reliance(f"{HTTP}:HttpStream.state_errored", "(self, _)"),
    Reliance(f"{HTTP}:HttpResponseHook.__init__", "(self, flow)"),
    Reliance(f"{HTTP}:SendHttp.__init__", "(self, event, connection)"),
    Reliance(f"{HTTP}:DropStream.__init__", "(self, stream_id)"),
    Reliance(f"{HTTP}:HttpEvent.__init__", "(self, stream_id)"),
    Reliance(
        f"{HTTP}:RequestHeaders.__init__",
        "(self, stream_id, request, end_stream, replay_flow=None)",
    ),
    Reliance(f"{HTTP}:ResponseHeaders.__init__", "(self, stream_id, response, end_stream=False)"),
    Reliance(f"{HTTP}:ResponseData.__init__", "(self, stream_id, data)"),
    Reliance(f"{HTTP}:ResponseEndOfMessage.__init__", "(self, stream_id)"),
    Reliance(
        f"{HTTP}:RequestProtocolError.__init__", "(self, stream_id, message, code)", since=(12,)
    ),
    Reliance(
        f"{HTTP}:ResponseProtocolError.__init__", "(self, stream_id, message, code)", since=(12,)
    ),
    Reliance(
        f"{HTTP}:RequestProtocolError.__init__",
        "(self, stream_id, message, code=400)",
        until=(12,),
    ),
    Reliance(
        f"{HTTP}:ResponseProtocolError.__init__",
        "(self, stream_id, message, code=502)",
        until=(12,),
    ),
    # tunnels.py
    Reliance(f"{HTTP}._http1:Http1Client.send", "(self, event)"),
    Reliance(
        f"{HTTP}._http1:Http1Client.send", source="raw = http1.assemble_request_head(request)"
    ),
    Reliance("mitmproxy.proxy.commands:SendData.__init__", "(self, connection, data)"),
    # http2.py
    Reliance(f"{HTTP}._http2:Http2Client._handle_event", "(self, event)"),
    Reliance(f"{HTTP}._http2:Http2Client.__init__", source="self.stream_queue ="),
    Reliance(f"{HTTP}._http2:Http2Connection.close_connection", source="self.streams.clear()"),
    Reliance(
        f"{HTTP}._http_h2:BufferedH2Connection.send_data",
        source="self.stream_buffers[stream_id].append(SendH2Data(data, end_stream))",
    ),
    Reliance(
        f"{HTTP}._http_h2:BufferedH2Connection.stream_window_updated",
        source="del self.stream_buffers[stream_id]",
    ),
    Reliance(
        f"{HTTP}._http_h2:BufferedH2Connection.reset_stream",
        source="self.stream_buffers.pop(stream_id, None)",
    ),
    Reliance(f"{HTTP}._http2:Http2Server._handle_event", "(self, event)"),
    Reliance(
        f"{HTTP}:HttpLayer._handle_event", source="http_conn = Http2Server(self.context.fork())"
    ),
    # http1.py
    Reliance(f"{HTTP}:HttpLayer._handle_event", source="self.connections[self.context.client]"),
    Reliance(f"{HTTP}._http1:Http1Server.read_headers", "(self, event)"),
    Reliance(
        f"{HTTP}._http1:Http1Server.read_headers", source="yield commands.SendData(self.conn, "
    ),
    Reliance(f"{HTTP}._http1:Http1Server.read_headers", source="self.buf.maybe_extract_lines()"),
    Reliance(f"{HTTP}._http1:Http1Client.read_headers", "(self, event)"),
    Reliance(f"{HTTP}._http1:Http1Connection.start", source="self.state = self.read_headers"),
    Reliance(f"{HTTP}._http1:Http1Server.send", "(self, event)"),
    Reliance(
        f"{HTTP}._http1:Http1Server.send",
        source="make_error_response(",
    ),
    Reliance(
        f"{HTTP}._http1:Http1Server.read_headers",
        source="self.body_reader = make_body_reader(expected_body_size)",
    ),
    Reliance(
        f"{HTTP}._http1:Http1Connection.read_body", source="h11_event = self.body_reader(self.buf)"
    ),
    Reliance(f"{HTTP}._http1:Http1Connection.read_body", source="except h11.ProtocolError"),
    Reliance("h11._readers:ChunkedReader.__call__", "(self, buf)"),
    Reliance("h11._receivebuffer:ReceiveBuffer.__len__", "(self)"),
    Reliance(f"{HTTP}._events:ResponseTrailers.__init__", "(self, stream_id, trailers)"),
    Reliance(f"{HTTP}._events:RequestTrailers.__init__", "(self, stream_id, trailers)"),
    Reliance("mitmproxy.proxy.server:ConnectionHandler.server_event", "(self, event)"),
    # modes.py
    Reliance("mitmproxy.proxy.mode_specs:ProxyMode.__init_subclass__", source="cls.type_name ="),
    # socks.py
    Reliance("mitmproxy.proxy.tunnel:TunnelLayer.start_handshake", "(self)"),
    Reliance("mitmproxy.proxy.tunnel:TunnelLayer.receive_handshake_data", "(self, data)"),
    Reliance(
        "mitmproxy.proxy.tunnel:TunnelLayer._handle_event",
        source="done, err = yield from self.receive_handshake_data(event.data)",
    ),
    Reliance("mitmproxy.proxy.tunnel:TunnelLayer.on_handshake_error", "(self, err)"),
    Reliance("mitmproxy.proxy.tunnel:TunnelLayer._handshake_finished", "(self, err)"),
    Reliance("mitmproxy.proxy.tunnel:TunnelLayer.receive_data", "(self, data)"),
    # addon.py
    Reliance("mitmproxy.optmanager:_Option.__init__", source="self.value = unset"),
    Reliance("mitmproxy.optmanager:OptManager.__init__", source="self._options"),
    Reliance("mitmproxy.optmanager:OptManager.__init__", source="self.deferred"),
    # logs.py
    Reliance("mitmproxy.addons.dumper:Dumper.__init__", source="self.outfp"),
    # cli/run.py
    Reliance("mitmproxy.tools.main:run", "(master_cls, make_parser, arguments, extra=None)"),
    Reliance("mitmproxy.addonmanager:Loader.__init__", "(self, master)"),
    Reliance("mitmproxy.tools.cmdline:mitmdump", "(opts)"),
)


class Unsupported:
    """Stands in for the addon on a mitmproxy that breaks the contract: says why, and that is all.
    The guard stands, so nothing is dialled.
    """

    def __init__(self, errors: tuple[str, ...]) -> None:
        self.errors = errors

    def load(self, loader: object) -> None:
        """mitmproxy exits when an error is logged while it starts."""
        for line in self.errors:
            logger.error(line)


def check() -> Compat:
    """Compare this mitmproxy with the table. Takes a few dozen milliseconds, changes nothing."""
    numbers = _numbers(version.VERSION)
    errors = []
    for row in CONTRACT:
        if row.since <= numbers < row.until and (problem := _problem(row)):
            errors.append(f"mitmproxy {version.VERSION} is not supported: {row.name} {problem}")
    warnings = []
    if version.VERSION not in TESTED:
        warnings.append(
            f"mitmproxy {version.VERSION} has not been tested with mitm-forwarder"
            f" (tested: {', '.join(TESTED)})"
        )
    return Compat(tuple(errors), tuple(warnings))


def _numbers(text: str) -> tuple[int, ...]:
    """The release part of a version: (13, 0, 0) for 13.0.0.dev."""
    numbers = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _problem(row: Reliance) -> str | None:
    """What is wrong with one row, as the end of a sentence; None when it holds."""
    try:
        module, path = row.name.split(":")
        target = importlib.import_module(module)
        for part in path.split("."):
            target = getattr(target, part)
        if row.signature is not None:
            found = signature_of(target)
            return None if found == row.signature else f"is {found}, not {row.signature}"
        if row.source is not None:
            holds = row.source in inspect.getsource(target)
            return None if holds else f"no longer contains {row.source!r}"
        assert row.behaviour is not None
        return None if row.behaviour() else f"fails {row.behaviour.__name__.strip('_')}"
    except Exception as error:
        return f"cannot be examined: {error!r}"


def signature_of(function: Any) -> str:
    """Parameter names and defaults, without annotations."""
    parts = []
    for parameter in inspect.signature(function).parameters.values():
        star = "*, " if parameter.kind is parameter.KEYWORD_ONLY else ""
        has_default = parameter.default is not parameter.empty
        parts.append(f"{star}{parameter.name}" + (f"={parameter.default!r}" if has_default else ""))
    return f"({', '.join(parts)})"
