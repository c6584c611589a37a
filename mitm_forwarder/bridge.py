"""The engine's place in a mitmproxy process: made from a configuration, fed by the event loop,
stopped in order.

Loop thread only.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import signal
from collections.abc import Awaitable
from collections.abc import Iterator

from mitmproxy import connection
from mitmproxy import ctx
from mitmproxy import http

from . import _core
from . import errors
from . import logs
from . import options
from .routes import TUNNEL_TOKENS
from .routes import Route
from .web.desk import Place
from .web.page import authority

logger = logging.getLogger(__name__)

FLUSH_CHECK_SECONDS = 0.02
MEMORY_FLUSH_SECONDS = 2.0
SECRETS_CHECK_SECONDS = 5.0
"""How often the files of the tokens are looked at: a rotated token is in use after this time."""


def mask_secrets(secrets: options.Secrets) -> None:
    """From now on these tokens appear in no log line and in no flow dump."""
    dumper = ctx.master.addons.get("dumper")
    logs.install(secrets.values(), dumper)


class Bridge:
    """One engine and what it needs from the loop. The `Hooks` of the forwarding layers.

    RuntimeError when the engine cannot be made; its text says what to do.
    """

    def __init__(self, config: options.Config, secrets: options.Secrets) -> None:
        self.config = config
        self.connect_timeout = config.connect_timeout
        self.response_timeout = config.httpx_timeout
        self.stream_idle_timeout = config.stream_idle_timeout
        self.upstream_idle_timeout = config.upstream_idle_timeout
        self.max_connections = config.max_concurrent_requests
        self.secrets = secrets
        self._rotated = False
        self._loop = asyncio.get_running_loop()
        self._secrets_check: asyncio.TimerHandle | None = None
        self._listeners: tuple[Place, ...] = ()
        self._drained: asyncio.Future[None] | None = None
        self.draining = False
        """Leaving: no client should keep its connection."""
        self.engine = _core.Engine(
            config,
            loop=self._loop,
            server=connection.Server,
            route=Route,
            answer=self.answer,
            log=logger.log,
            tunnels=TUNNEL_TOKENS,
        )

    def start(self) -> None:
        """Start the threads. From now on the loop drains what they say."""
        self._loop.add_reader(self.engine.fileno(), self.engine.drain)
        self.engine.start()
        # However the process ends: after Python the libraries clean up, under the threads' feet.
        atexit.register(self.engine.stop, 0.0)
        self._check_secrets()

    def stop(self, timeout: float = 0.0) -> None:
        """Send what can be sent within `timeout` seconds, join the threads. Blocks the loop."""
        atexit.unregister(self.engine.stop)
        if self._secrets_check is not None:
            self._secrets_check.cancel()
        self._loop.remove_reader(self.engine.fileno())
        self.engine.stop(timeout)

    def hand_over(self) -> None:
        """Stop for another bridge, which adopts the records from the disk; those in memory have to
        be sent now. Blocks the loop.
        """
        self.stop(0.0 if self.config.activity_spool_dir else MEMORY_FLUSH_SECONDS)

    async def drain_and_stop(self) -> None:
        """Refuse what is new, let what runs come to its end, answer who still waits, record who
        never got an answer, send the records, then stop; all within SHUTDOWN_TIMEOUT, or at once
        after a second signal.
        """
        timeout = self.config.shutdown_timeout
        deadline = self._loop.time() + timeout
        self.draining = True
        self.engine.refuse()
        with self._second_signal() as hurry:
            # Half of the time is for the requests, the rest for their records.
            if not await self._drain(timeout / 2):
                self.engine.give_up()
                if not await self._drain(timeout / 8):
                    logger.warning("Some requests are still running and will be cut off.")
            self.engine.record_unfinished()
            # Not in engine.stop, where the loop could not hear a signal.
            while (
                not hurry.is_set()
                and self._loop.time() < deadline
                and self.engine.stats()["spool_depth"] > 0
            ):
                await asyncio.sleep(FLUSH_CHECK_SECONDS)
        self.stop()

    async def _drain(self, timeout: float) -> bool:
        """Wait until every request has ended, or a second signal; False when `timeout` seconds were
        not enough.
        """
        self._drained = self._loop.create_future()
        self._note_drained()
        try:
            await asyncio.wait_for(self._drained, timeout)
        except TimeoutError:
            return False
        return True

    @contextlib.contextmanager
    def _second_signal(self) -> Iterator[asyncio.Event]:
        """Whoever sends another SIGTERM or SIGINT does not want to wait."""
        hurry = asyncio.Event()

        def heard() -> None:
            hurry.set()
            if self._drained is not None and not self._drained.done():
                self._drained.set_result(None)

        # mitmproxy has handlers of its own only where the loop can have some.
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, heard)
        yield hurry

    def answer(
        self, reason: str, request_id: str, method: str, detail: str | None
    ) -> http.Response:
        """The engine's own answers; the signature is that of `_core.Engine`."""
        return errors.make_response(reason, request_id, method=method, detail=detail)

    def judge(self, flow: http.HTTPFlow) -> bool:
        return self.engine.judge(flow)

    def retry(self, flow: http.HTTPFlow, reason: str) -> Awaitable[None] | None:
        return self.engine.retry(flow)

    def leave(self, flow: http.HTTPFlow) -> None:
        self.engine.leave(flow)

    def finish(self, flow: http.HTTPFlow) -> None:
        """The flow has ended: the permit goes back, and the request line is logged, once."""
        summary = self.engine.finish(flow)
        if summary is not None:
            if logger.isEnabledFor(logging.INFO):
                logger.info(logs.request_line(*summary))
            self._note_drained()

    def note_listeners(self, others: tuple[Place, ...]) -> None:
        """Where mitmproxy listens now, and what listens besides: no target of anybody."""
        server = ctx.master.addons.get("proxyserver")
        places = (*(address[:2] for address in server.listen_addrs()), *others)
        if places != self._listeners:
            self._listeners = places
            self.engine.set_listeners(" ".join(map(authority, places)))

    def _note_drained(self) -> None:
        waiting = self._drained
        if waiting is not None and not waiting.done() and self.engine.stats()["running"] == 0:
            waiting.set_result(None)

    def _check_secrets(self) -> None:
        self._secrets_check = self._loop.call_later(SECRETS_CHECK_SECONDS, self._check_secrets)
        try:
            self._rotated = self.secrets.changed() or self._rotated
            if self._rotated:
                mask_secrets(self.secrets)
                self.engine.set_secrets(self.secrets.system_token, self.secrets.default_user_jwt)
                self._rotated = False
                logger.info("Tokens were read anew.")
        except (options.ConfigError, ValueError) as error:
            logger.error(f"{error} The token in use stays.")
