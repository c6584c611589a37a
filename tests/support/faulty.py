"""A backend of raw sockets whose every answer a test can spoil, in a thread of the test's process.

    with FaultyBackend() as backend:
        ...  # a gateway, or an engine alone, on backend.url
        backend.spoil("/proxy", faults.reset_in_body)
        assert backend.records() == {...}

It counts what it was asked and keeps the activity records by their Idempotency-Key, as the contract
wants. `tests.support.backend` is the real application; this one is for what no application does. A
request in absolute-form is answered as by an upstream proxy that reached its target.
Calls from any thread; one instance belongs to one test.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from typing import Self
from urllib.parse import parse_qs
from urllib.parse import urlsplit

PROXY = {
    "id": 42,
    "ip": "127.0.0.1",
    "port": 3128,
    "address": "127.0.0.1:3128",
    "protocol": "http",
    "is_working": True,
    "user_id": 7,
}
RULES = [
    {
        "id": 1,
        "pattern": r"^https?://([^/]*\.)?blocked\.test[:/]",
        "description": None,
        "created_at": "2024-01-01T00:00:00",
        "created_by": 1,
    }
]


@dataclass(frozen=True)
class Asked:
    """A call as it arrived; header names in lower case."""

    time: float
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class Exchange:
    """One call, and the connection that it came on."""

    asked: Asked
    writer: asyncio.StreamWriter
    backend: FaultyBackend

    async def answer(
        self, status: int, body: Any = b"", headers: dict[str, str] | None = None
    ) -> None:
        """A whole answer; anything but bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        await self.write(_head(status, head | (headers or {})) + data)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """The connection dies with a RST instead of a FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Spoiler = Callable[[Exchange], Awaitable[None]]


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class FaultyBackend:
    """Context manager: listens from entry to exit, always on the same port."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, bookkeeping: bool = True) -> None:
        self.asked: list[Asked] = []
        self.proxy: dict[str, Any] = dict(PROXY)
        self.headers: dict[str, dict[str, str]] = {}
        """Added to the good answers of a path."""
        self.connections = 0
        self._tls = tls
        self._bookkeeping = bookkeeping
        self._stored: dict[str, bytes] = {}
        self._spoilers: dict[str, Spoiler] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        # Bound but not listening: keeps the port ours, and connections are refused meanwhile.
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(("127.0.0.1", 0))
        self.port: int = self._reservation.getsockname()[1]

    @property
    def url(self) -> str:
        """For FASTAPI_BASE_URL."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.refuse()
        asyncio.run_coroutine_threadsafe(self._end_tasks(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reservation.close()

    # -- what it does ----------------------------------------------------------------------

    def listen(self) -> None:
        """Accept connections (again)."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def refuse(self) -> None:
        """Refuse connections from now on; those that are open die."""
        asyncio.run_coroutine_threadsafe(self._refuse(), self._loop).result(10)

    def spoil(self, path: str, spoiler: Spoiler | None) -> None:
        """Every call of the path ends so, until told otherwise; None: well again."""
        if spoiler is None:
            self._spoilers.pop(path, None)
        else:
            self._spoilers[path] = spoiler

    def calls(self, path: str) -> list[Asked]:
        """What was asked of a path so far."""
        return [asked for asked in list(self.asked) if asked.path == path]

    def records(self) -> dict[str, dict[str, Any]]:
        """The activity records that were accepted, by key."""
        return {key: json.loads(body) for key, body in list(self._stored.items())}

    def stored(self) -> int:
        """How many those are."""
        return len(self._stored)

    # -- the loop's thread -----------------------------------------------------------------

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve,
                "127.0.0.1",
                self.port,
                ssl=self._tls,
                reuse_address=True,
                limit=1 << 20,
                backlog=512,
            )

    async def _refuse(self) -> None:
        if self._server is not None:
            # A connection that asyncio has accepted and not yet begun to serve would be lost by
            # close(), open and silent.
            for sock in self._server.sockets:
                self._loop.remove_reader(sock.fileno())
            await asyncio.sleep(0.01)
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while not writer.transport.is_closing():
                asked = await _read_request(reader)
                if asked is None:
                    break
                if self._bookkeeping:
                    self.asked.append(asked)
                spoiler = self._spoilers.get(asked.path, _well)
                await spoiler(Exchange(asked, writer, self))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def respond(self, exchange: Exchange) -> None:
        """What a well backend does."""
        asked, headers = exchange.asked, self.headers.get(exchange.asked.path)
        if asked.path == "/activity":
            self._stored.setdefault(asked.headers["idempotency-key"], asked.body)
            await exchange.answer(201, b"{}", headers)
        elif asked.path == "/blacklist":
            await exchange.answer(200, RULES, headers)
        elif asked.path == "/proxy":
            await exchange.answer(200, self.proxy, headers)
        elif asked.path.startswith("http://"):
            await exchange.answer(200, b"from the target", headers)
        else:
            await exchange.answer(404, b"{}", headers)


async def _well(exchange: Exchange) -> None:
    await exchange.backend.respond(exchange)


async def _read_request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    line, *fields = head.split("\r\n")
    method, target, _ = line.split(" ")
    headers = {
        name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields if f)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    if not target.startswith("/"):
        return Asked(time.time(), method, target, {}, headers, body)
    parts = urlsplit(target)
    return Asked(time.time(), method, parts.path, parse_qs(parts.query), headers, body)


# ---- faults


def status(code: int, body: Any = b"{}", headers: dict[str, str] | None = None) -> Spoiler:
    """A whole answer of this status."""

    async def spoil(exchange: Exchange) -> None:
        await exchange.answer(code, body, headers)

    return spoil


def late(seconds: float) -> Spoiler:
    """The good answer, after a while."""

    async def spoil(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await _well(exchange)

    return spoil


def together(count: int, spoiler: Spoiler) -> Spoiler:
    """The first so many calls wait for each other, then all end so."""
    arrived = 0
    complete = asyncio.Event()

    async def spoil(exchange: Exchange) -> None:
        nonlocal arrived
        arrived += 1
        if arrived >= count:
            complete.set()
        await complete.wait()
        await spoiler(exchange)

    return spoil


async def silent(exchange: Exchange) -> None:
    """Never an answer; the connection stays until the other side has had enough of it."""
    while not exchange.writer.transport.is_closing():
        await asyncio.sleep(0.05)


async def dribble(exchange: Exchange) -> None:
    """A head, and then a byte now and then: something always moves."""
    await exchange.write(_head(200, {"Content-Length": "1000"}))
    while not exchange.writer.transport.is_closing():
        await exchange.write(b" ")
        await asyncio.sleep(0.05)


async def reset_before_answer(exchange: Exchange) -> None:
    """RST where the answer should begin."""
    exchange.reset()


async def reset_in_head(exchange: Exchange) -> None:
    """RST after half of the head."""
    await exchange.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    exchange.reset()


async def reset_in_body(exchange: Exchange) -> None:
    """RST after half of the body."""
    await exchange.write(_head(200, {"Content-Length": "100"}) + b'{"id": 42, "ip"')
    exchange.reset()


async def close_in_body(exchange: Exchange) -> None:
    """FIN before the announced end."""
    await exchange.write(_head(200, {"Content-Length": "100"}) + b'{"id": 42, "ip"')
    exchange.writer.close()


async def close_after_answer(exchange: Exchange) -> None:
    """A good answer that promises to keep the connection, which is then gone."""
    await _well(exchange)
    exchange.writer.close()


async def not_http(exchange: Exchange) -> None:
    """Something else speaks on this port."""
    await exchange.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    exchange.writer.close()


async def huge(exchange: Exchange) -> None:
    """100 MB without an announcement."""
    await exchange.write(_head(200, {"Transfer-Encoding": "chunked"}))
    for _ in range(100):
        await exchange.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
    await exchange.write(b"0\r\n\r\n")


async def huge_announced(exchange: Exchange) -> None:
    """100 MB that Content-Length tells of."""
    await exchange.write(_head(200, {"Content-Length": "104857600"}))
    for _ in range(100):
        await exchange.write(b" " * 0x100000)


GZIP_BOMB = gzip.compress(b" " * 10_000_000)


async def gzip_bomb(exchange: Exchange) -> None:
    """Compressed although nobody allowed it, and large when it is not."""
    await exchange.answer(200, GZIP_BOMB, {"Content-Encoding": "gzip"})


async def redirect(exchange: Exchange) -> None:
    """To a path that must never be asked."""
    await exchange.answer(302, b"", {"Location": f"{exchange.backend.url}/stolen"})


html = status(200, b"<html><body>It works!</body></html>", {"Content-Type": "text/html"})
deep_json = status(200, b"[" * 100_000 + b"]" * 100_000)
duplicate_keys = status(200, b'{"id": 1, "id": 2, "ip": "127.0.0.1", "port": 3128}')
wrong_types = status(200, {"id": [], "ip": 7, "port": "x", "pattern": {}})


@dataclass
class Fault:
    """A spoiler, and how the three endpoints' callers must take it."""

    name: str
    spoiler: Spoiler | None
    """None: connections are refused."""
    proxy: tuple[int, str] | None
    """Status and error code of a request's answer; None: it is routed all the same."""
    activity_accepts: bool = False
    """A 2xx is a 2xx, whatever its body says."""
    waits: bool = False
    """The answer comes when HTTPX_TIMEOUT is over."""


UNREACHABLE = (502, "backend_unreachable")
TIMEOUT = (504, "backend_timeout")
UNUSABLE = (502, "bad_answer")
ERROR = (502, "backend_error")

FAULTS = [
    Fault("refused", None, UNREACHABLE),
    Fault("no answer", silent, TIMEOUT, waits=True),
    Fault("slower than the deadline", late(60), TIMEOUT, waits=True),
    Fault("a byte now and then", dribble, TIMEOUT, waits=True),
    Fault("reset before the answer", reset_before_answer, UNREACHABLE),
    Fault("reset in the head", reset_in_head, UNREACHABLE),
    Fault("reset in the body", reset_in_body, UNREACHABLE),
    Fault("closed in the body", close_in_body, UNREACHABLE),
    Fault("keep-alive closed under us", close_after_answer, None, activity_accepts=True),
    Fault("another protocol", not_http, UNREACHABLE),
    Fault("500", status(500), ERROR),
    Fault("429 with Retry-After", status(429, b"{}", {"Retry-After": "1"}), ERROR),
    Fault("HTML for JSON", html, UNUSABLE, activity_accepts=True),
    Fault("100 MB", huge, UNUSABLE, activity_accepts=True),
    Fault("100 MB, announced", huge_announced, UNUSABLE, activity_accepts=True),
    Fault("deep JSON", deep_json, UNUSABLE, activity_accepts=True),
    Fault("duplicate keys", duplicate_keys, UNUSABLE, activity_accepts=True),
    Fault("wrong types", wrong_types, UNUSABLE, activity_accepts=True),
    Fault("redirect", redirect, ERROR),
    Fault("gzip bomb", gzip_bomb, UNUSABLE, activity_accepts=True),
]
