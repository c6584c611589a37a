"""ASGI middleware around the real backend: records every call and disturbs those it is told to.

`tests.support.backend` runs it in a subprocess and talks to it by two files, which work as well
while the backend is down: `faults.json` (written by the test, read at each call) and
`calls.jsonl` (appended here before any byte of an answer leaves, read by the test).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp
from starlette.types import Message
from starlette.types import Receive
from starlette.types import Scope
from starlette.types import Send

from examples.proxy_manager.factory import create_app
from examples.proxy_manager.settings import load_settings

# Calls of the test itself are neither recorded nor disturbed.
TEST_HEADER = b"x-backend-test"


class FaultMiddleware:
    """Wraps the application; `directory` holds the two files."""

    def __init__(self, app: ASGIApp, directory: Path) -> None:
        self._app = app
        self._faults_path = directory / "faults.json"
        self._calls_path = directory / "calls.jsonl"
        self._used: dict[str, int] = {}
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] != "http" or TEST_HEADER in dict(scope["headers"]):
            await self._app(scope, receive, send)
            return
        body = await _read_body(receive)
        call_id = self._record_request(scope, body)

        async def recording_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._append({"id": call_id, "status": message["status"]})
            await send(message)

        replay = _replay(body, receive)
        fault = self._take_fault(scope["path"])
        if fault is None:
            await self._app(scope, replay, recording_send)
            return
        await asyncio.sleep(fault["delay"])
        if fault["handled"] or fault["status"] is None:
            answer = await _collect(self._app, scope, replay)
        else:
            answer = _Answer(fault["status"])
        answer.disturb(fault)
        await answer.send(recording_send, fault["truncate"])

    def _record_request(self, scope: Scope, body: bytes) -> str:
        self._count += 1
        call_id = f"{os.getpid()}-{self._count}"
        call = {
            "id": call_id,
            "time": time.time(),
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode("latin-1"),
            "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in scope["headers"]],
            "body": base64.b64encode(body).decode(),
            "client_port": scope["client"][1],
        }
        self._append(call)
        return call_id

    def _append(self, entry: dict[str, Any]) -> None:
        with self._calls_path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _take_fault(self, path: str) -> dict[str, Any] | None:
        faults: list[dict[str, Any]] = json.loads(self._faults_path.read_text())
        for fault in faults:
            used = self._used.get(fault["id"], 0)
            if fault["path"] == path and (fault["times"] is None or used < fault["times"]):
                self._used[fault["id"]] = used + 1
                return fault
        return None


class _Answer:
    """A whole answer that has not been sent yet."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    def disturb(self, fault: dict[str, Any]) -> None:
        """Replace what the fault names and keep the rest."""
        if fault["status"] is not None:
            self.status = fault["status"]
        if fault["body"] is not None:
            self.body = base64.b64decode(fault["body"])
        replaced = {b"content-length", *(name.lower().encode() for name in fault["headers"])}
        self.headers = [(name, value) for name, value in self.headers if name not in replaced]
        self.headers += [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in fault["headers"].items()
        ]

    async def send(self, send: Send, truncate: bool) -> None:
        """Send it; truncated means that the connection closes before the announced end."""
        if self.status not in (204, 304):
            length = len(self.body) + (1 if truncate else 0)
            self.headers.append((b"content-length", str(length).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": truncate})


async def _collect(app: ASGIApp, scope: Scope, receive: Receive) -> _Answer:
    """Let the application do its work and keep the answer back."""
    answer = _Answer(500)

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = list(message.get("headers", []))
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    await app(scope, receive, keep)
    return answer


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive() that gives the body again and then whatever comes (a disconnect)."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def create() -> ASGIApp:
    """Factory for uvicorn; the directory comes in BACKEND_TEST_DIR."""
    app = create_app(load_settings(os.environ))
    return FaultMiddleware(app, Path(os.environ["BACKEND_TEST_DIR"]))
