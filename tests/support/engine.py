"""The engine with its bridge, without mitmproxy around it: starts in milliseconds.

    async with Rig(backend.url, tmp_path) as rig:
        outcome = await rig.ask("http://example.test/")
        assert outcome.status == 502

For what the engine does with the backend. How it meets mitmproxy is tested in tests/e2e.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from typing import Self

from mitmproxy import http
from mitmproxy.test import tflow
from mitmproxy.test import tutils

from mitm_forwarder import options
from mitm_forwarder.bridge import Bridge

SYSTEM_TOKEN = "system-canary-7d1f"
USER_CANARY = "user-canary-93b2"


def make_token(**claims: Any) -> str:
    """An unsigned JWT: the core never looks at signatures, the backend does."""
    parts = [{"alg": "none"}, claims]
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts
    )
    return f"{head}.{body}.{USER_CANARY}"


USER_TOKEN = make_token(user_id=7)


@dataclass(frozen=True)
class Outcome:
    """What the engine decided; `status` 200 stands for a request that was routed."""

    status: int
    error: str | None
    seconds: float
    flow: http.HTTPFlow


class Rig:
    """Async context manager: a running engine on a loop of the test's own."""

    def __init__(self, url: str, directory: Path, *, timeout: float = 0.0, **env: str) -> None:
        self._stop_timeout = timeout
        self.environ = {
            "SYSTEM_TOKEN": SYSTEM_TOKEN,
            "FASTAPI_BASE_URL": url,
            "STATE_DIR": str(directory / "state"),
            "BLACKLIST_REFRESH_SECONDS": "0.2",
            "HTTPX_TIMEOUT": "0.5",
            "HOME": str(directory),
            **env,
        }
        config = options.load(None, self.environ, directory)
        self.bridge = Bridge(config, options.Secrets(self.environ, directory))
        self.recorded: dict[str, int] = {}
        """Request ids whose record the spool has taken, and the status."""

    async def __aenter__(self) -> Self:
        self.bridge.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bridge.stop(self._stop_timeout)

    @property
    def stats(self) -> dict[str, Any]:
        """All counters and gauges."""
        return self.bridge.engine.stats()

    async def wait_for(self, condition: Any, timeout: float = 10.0, what: str = "") -> float:
        """Until condition() is true; the seconds it took. AssertionError after `timeout`."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() - started < timeout, f"waited in vain for {what or condition}"
            await asyncio.sleep(0.01)
        return time.monotonic() - started

    async def wait_for_rules(self) -> None:
        """Until the first rule set is in place."""
        await self.wait_for(lambda: self.stats["rules"] > 0, what="the first rules")

    async def begin(self, url: str, token: str | None = USER_TOKEN) -> http.HTTPFlow:
        """A request as far as the engine's decision."""
        headers = [(b"Authorization", f"Bearer {token}".encode())] if token else []
        flow = tflow.tflow(req=tutils.treq(headers=http.Headers(headers)))
        flow.request.url = url
        pending = self.bridge.engine.begin(flow)
        if pending is not None:
            await pending
        return flow

    async def ask(self, url: str, token: str | None = USER_TOKEN) -> Outcome:
        """A request from its beginning to its record and its end."""
        started = time.monotonic()
        flow = await self.begin(url, token)
        seconds = time.monotonic() - started
        error = None
        if flow.response is None:
            flow.response = http.Response.make(200)
        else:
            error = json.loads(flow.response.content or b"{}").get("error")
        status = flow.response.status_code
        if self.bridge.engine.record(flow):
            self.recorded[flow._forwarder.id] = status  # type: ignore[attr-defined]
        self.bridge.finish(flow)
        return Outcome(status, error, seconds, flow)
