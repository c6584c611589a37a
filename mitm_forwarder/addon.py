"""The hooks: where mitmproxy's events meet the engine. Loop thread only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any
from typing import Protocol

from mitmproxy import connection
from mitmproxy import ctx
from mitmproxy import exceptions
from mitmproxy import http
from mitmproxy import optmanager
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy import layer

from . import compat
from . import errors
from . import layers
from . import modes
from . import options
from . import routes
from . import socks
from . import tunnels
from . import turbo
from .bridge import Bridge
from .bridge import mask_secrets
from .commands import Commands
from .web import metrics
from .web.desk import Place
from .web.page import Page

logger = logging.getLogger(__name__)


class Publisher(Protocol):
    """Who serves the metrics page: this process, or the supervisor of several."""

    @property
    def places(self) -> tuple[Place, ...]: ...

    def move(self, place: Place | None) -> None: ...

    def close(self) -> None: ...


class Forwarder:
    """Sends each request through the upstream proxy that the backend chooses for its user.

    Whatever goes wrong in here leaves a request without a plan, and the forwarding layer answers
    502 to those.
    """

    def __init__(self) -> None:
        self.bridge: Bridge | None = None
        self._running = False
        self._cuts: list[str] = []
        self._page: Publisher | None = None

    # ---- life

    def load(self, loader: Loader) -> None:
        options.add_options(loader)
        for line in compat.check().warnings:
            logger.warning(line)
        layers.install_replay()

    def configure(self, updated: set[str]) -> None:
        if self.bridge is None or any(name.startswith(options.PREFIX) for name in updated):
            self._reconfigure()
        if self.bridge is not None:
            _enforce_options(self.bridge.config)

    def running(self) -> None:
        self._running = True
        for name in ctx.options.deferred:
            if name.startswith(options.PREFIX):
                logger.error(f"{name}: there is no such option (secrets are variables only)")
        if self.bridge is not None:
            self.bridge.start()
            self._publish(self.bridge)
            _warn_of_port(self.bridge.config.mitm_listen_port)

    def done(self) -> Awaitable[None] | None:
        """At the end of the process mitmproxy awaits what this returns; at a hot reload it calls
        synchronously.
        """
        bridge, self.bridge = self.bridge, None
        self._running = False
        layers.uninstall_replay()
        if bridge is None:
            return None
        # Logs stay masked, as the guard stays: what comes after a failed reload may print anything.
        if ctx.master.should_exit.is_set():
            self.bridge = bridge  # requests that run go on
            return self._leave(bridge)
        self._unpublish()
        layers.use(None)
        turbo.uninstall(self._cuts)
        bridge.hand_over()
        return None

    async def _leave(self, bridge: Bridge) -> None:
        try:
            await bridge.drain_and_stop()
        finally:
            self._unpublish()

    def retire(self) -> float:
        """Serve as before, but let no client keep its connection: a new process has taken over.
        Returns how many seconds they have for that.
        """
        if self.bridge is None:
            return 0.0
        self.bridge.draining = True
        return self.bridge.config.shutdown_timeout

    def _reconfigure(self) -> None:
        """A new engine for a new configuration. A bad one is refused: at the start in one line, for
        which mitmproxy exits; later by keeping the old one.
        """
        old = self.bridge
        try:
            config, secrets = options.load(ctx.options), options.Secrets()
            if old is not None and config == old.config:
                return  # mitmproxy takes back a refused option by setting the old value
            mask_secrets(secrets)
            bridge = Bridge(config, secrets)
        except (options.ConfigError, RuntimeError) as error:
            if old is not None:
                raise exceptions.OptionsError(str(error)) from error
            for line in str(error).splitlines():
                logger.error(line)
            return
        self.bridge = bridge
        layers.use(bridge)
        # Under the launcher all of these are in place already.
        self._cuts = turbo.select(config.turbo, turbo.SAFE, self._cuts)
        if self._running:
            bridge.start()
        if old is not None:
            old.hand_over()
        if self._running:
            self._publish(bridge)

    # ---- metrics

    def readings(self) -> metrics.Readings:
        """What the metrics page says of this process."""
        return {} if self.bridge is None else metrics.read(self.bridge.engine)

    def _publish(self, bridge: Bridge) -> None:
        """The page is where this bridge's configuration wants it. A port that another process has
        is no reason not to proxy.
        """
        if self._page is None:
            worker = ctx.master.addons.get("forwarder_worker")
            self._page = Page(self.readings, self._metrics_token) if worker is None else worker.page
        self._page.move(bridge.config.metrics_listen)
        self.note_listeners()

    def _unpublish(self) -> None:
        page, self._page = self._page, None
        if page is not None:
            page.close()

    def _metrics_token(self) -> str | None:
        return None if self.bridge is None else self.bridge.secrets.metrics_token

    # ---- connections

    def client_connected(self, client: connection.Client) -> None:
        layers.lift_dial_limit(client)
        self.note_listeners()

    def note_listeners(self) -> None:
        """Whatever this gateway listens on is no target."""
        if self.bridge is not None:
            self.bridge.note_listeners(() if self._page is None else self._page.places)

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        layers.choose_layer(nextlayer)

    def http_connect(self, flow: http.HTTPFlow) -> None:
        bridge = self.bridge
        if bridge is None:
            return
        has_token = bridge.engine.connect(flow)
        config = bridge.config
        if not has_token and config.auth_challenge == 407 and config.require_user_jwt:
            if config.default_user_jwt is None:
                flow.response = bridge.answer("no_token", flow.id, flow.request.method, None)
                errors.ask_as_proxy(flow.response)
        if flow.response is None:
            routes.TUNNEL_TOKENS.setdefault(flow.client_conn, b"")

    def http_connect_upstream(self, flow: http.HTTPFlow) -> None:
        tunnels.authorize_connect(flow)

    # ---- requests

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        if self.bridge is None or not flow.live or flow.response or _is_onboarding(flow):
            return
        try:
            modes.name_target(flow)
            pending = self.bridge.engine.begin(flow)
            if pending is not None:
                await pending
            self._challenge(flow)
            _stream_upload(flow.request, self.bridge.config.stream_threshold_bytes)
            self._say_goodbye(flow)
        except (Exception, asyncio.CancelledError):
            # An exception that leaves a hook is lost, a cancellation leaves the stream waiting.
            logger.exception("The engine failed to decide about a request.")
            flow.response = errors.make_response("internal", flow.id, method=flow.request.method)

    async def forwarder_failover(self, flow: http.HTTPFlow) -> None:
        await layers.failover(flow)

    async def forwarder_resolve(self, resolution: socks.Resolution) -> None:
        await socks.resolve(resolution)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if self.bridge is None or routes.plan_of(flow) is None:
            return
        assert flow.response is not None
        self._say_goodbye(flow)
        if _is_unbounded(flow, self.bridge.config.stream_threshold_bytes):
            flow.response.stream = True
        if flow.response.stream and not self.bridge.engine.record(flow):
            flow.kill()  # no byte of it has left, and none may leave unrecorded

    def response(self, flow: http.HTTPFlow) -> None:
        plan = routes.plan_of(flow)
        if self.bridge is None or plan is None:
            return
        if not self.bridge.engine.record(flow):
            method = flow.request.method
            flow.response = errors.make_response("not_recorded", plan.id, method=method)
        if flow.websocket is None:
            self.bridge.finish(flow)

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        """mitmproxy would keep every message for as long as the connection lives."""
        if flow.websocket is not None:
            del flow.websocket.messages[:-1]

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        self._end(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        self._end(flow)

    def _challenge(self, flow: http.HTTPFlow) -> None:
        """AUTH_CHALLENGE=407 where the client asked a proxy. What it says to a target, inside its
        tunnel or because it knows of no proxy, is answered 401: 407 means nothing there.
        """
        if self.bridge is None or self.bridge.config.auth_challenge != 407:
            return
        if flow.response is not None and flow.response.status_code == 401:
            if modes.is_asked_as_proxy(flow.client_conn):
                errors.ask_as_proxy(flow.response)

    def _say_goodbye(self, flow: http.HTTPFlow) -> None:
        """While leaving: the client's next request is for somebody else. HTTP/2 has no such
        header.
        """
        if self.bridge is None or not self.bridge.draining or flow.response is None:
            return
        if flow.request.http_version.startswith("HTTP/1") and flow.response.status_code != 101:
            flow.response.headers["Connection"] = "close"

    def _end(self, flow: http.HTTPFlow) -> None:
        if self.bridge is not None and routes.plan_of(flow) is not None:
            if not self.bridge.engine.record(flow):
                logger.error("A request that nobody will be answered could not be recorded.")
            self.bridge.finish(flow)


def _enforce_options(config: options.Config) -> None:
    """mitmproxy's own settings without which requests could bypass the proxy; says so where a user
    had set something else.
    """
    wanted: dict[str, object] = {
        "connection_strategy": "lazy",  # eager dials the target before a request is seen
        "upstream_cert": False,
        "rawtcp": False,
    }
    if config.require_user_jwt:
        wanted["block_global"] = False  # who may come in is the token's matter
    for name, value in wanted.items():
        if name in ctx.options and getattr(ctx.options, name) != value:
            if ctx.options._options[name].value is not optmanager.unset:
                logger.warning(
                    f"{name} is set back to {value}: mitm-forwarder cannot work without."
                )
            ctx.options.update(**{name: value})


def _is_onboarding(flow: http.HTTPFlow) -> bool:
    """http://mitm.it is answered by mitmproxy itself, on the same condition; it dials nothing."""
    opts = ctx.options
    host = (flow.request.pretty_host, flow.request.port)
    return bool(opts.onboarding) and host == (opts.onboarding_host, 80)


def _stream_upload(request: http.Request, threshold_bytes: int) -> None:
    """A large body goes through without being kept; so does one of unknown size (streams.py)."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > threshold_bytes:
        request.stream = True


def _is_unbounded(flow: http.HTTPFlow, threshold_bytes: int) -> bool:
    """Large, or of a size that nobody knows yet (chunked, server-sent events, HTTP/2 without a
    length).
    """
    response = flow.response
    assert response is not None
    if flow.request.method == "HEAD" or response.status_code in (101, 204, 304):
        return False
    length: Any = response.headers.get("content-length", "")
    return not length.isdecimal() or int(length) > threshold_bytes


def _warn_of_port(port: int) -> None:
    listening = ctx.options.listen_port or 8080
    if port not in (8080, listening):
        logger.warning(
            f"MITM_LISTEN_PORT is {port}, but mitmproxy listens on {listening}: with -s, -p rules."
        )


forwarder = Forwarder()
addons = [forwarder, Commands(forwarder)]
