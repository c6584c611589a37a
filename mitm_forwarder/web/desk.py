"""A tiny HTTP/1.1 server of one page, which never blocks and needs no particular loop.

Whoever owns a Desk waits until its `fileno()` is readable, or until `deadline()`, and then calls
`step()`. `ask` is called when somebody waits for the page, and answered by `publish()`, at once or
later. Slow, silent and hostile clients cost a bounded time, a bounded number of bytes and a bounded
number of sockets; each connection is good for one request. One thread.
"""

from __future__ import annotations

import contextlib
import hmac
import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field

PATH = b"/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEAD_MAX_BYTES = 8192
CLIENTS_MAX = 8
CLIENT_SECONDS = 5.0
"""From the connection to the last byte of the answer."""
FRESH_SECONDS = 0.1
"""A page is not made anew before: whoever asks all the time must not cost the gateway much."""
ACCEPT_PAUSE_SECONDS = 1.0
"""After an accept that failed, for want of descriptors perhaps."""

Place = tuple[str, int]

_REQUEST_LINE = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.[01]")
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
}


def answer(status: int, body: bytes = b"", headers: str = "") -> bytes:
    """A whole response, the last of its connection."""
    text = body or f"{status} {_PHRASES[status]}\n".encode()
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(text)}\r\nCache-Control: no-store\r\n{headers}"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + text


def refusal(head: bytes, token: str | None) -> bytes | None:
    """What to answer to a request other than with the page; None: it is to have it."""
    request, *lines = head.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(request)
    if match is None:
        return answer(400)
    if token is not None and not _is_authorized(lines, token):
        return answer(401, headers='WWW-Authenticate: Bearer realm="mitm-forwarder"\r\n')
    if match[2].partition(b"?")[0] != PATH:
        return answer(404)
    return None if match[1] == b"GET" else answer(405, headers="Allow: GET\r\n")


def _is_authorized(lines: list[bytes], token: str) -> bool:
    values = []
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"authorization":
            values.append(value.strip())
    if len(values) != 1:
        return False
    scheme, _, given = values[0].partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())


def open_socket(place: Place) -> socket.socket:
    """Listening; OSError."""
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(CLIENTS_MAX)
    except OSError:
        sock.close()
        raise
    return sock


@dataclass(slots=True)
class _Client:
    sock: socket.socket
    due: float
    inbox: bytearray = field(default_factory=bytearray)
    outbox: memoryview | None = None
    waits: bool = False


class Desk:
    """`token` gives what a client must show; None: nothing."""

    def __init__(self, token: Callable[[], str | None], ask: Callable[[], None]) -> None:
        self._token = token
        self._ask = ask
        self._epoll = select.epoll()
        self._listener: socket.socket | None = None
        self._resume: float | None = None
        self._clients: dict[int, _Client] = {}  # oldest first
        self._page = b""
        self._page_until = 0.0

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where it listens."""
        return () if self._listener is None else (self._listener.getsockname()[:2],)

    def listen(self, place: Place | None) -> None:
        """There and nowhere else; on OSError nowhere at all."""
        if self._listener is not None:
            if self._resume is None:
                self._epoll.unregister(self._listener)
            self._listener.close()
            self._listener, self._resume = None, None
        if place is not None:
            self._listener = open_socket(place)
            self._epoll.register(self._listener, select.EPOLLIN)

    def close(self) -> None:
        """Nothing of it is left; also in a forked child, whose parent goes on."""
        for client in self._clients.values():
            client.sock.close()
        self._clients.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._epoll.close()

    def deadline(self) -> float | None:
        """When step() has something to do even if nothing happens (time.monotonic())."""
        dues = [client.due for client in self._clients.values()]
        return min([*dues, *([self._resume] if self._resume is not None else [])], default=None)

    def step(self) -> None:
        """Whatever can be done now."""
        now = time.monotonic()
        for fd, event in self._epoll.poll(0):
            if self._listener is not None and fd == self._listener.fileno():
                self._accept(now)
            elif fd in self._clients:
                self._serve(self._clients[fd], event, now)
        for client in list(self._clients.values()):
            if client.due <= now:
                self._drop(client)
        if self._resume is not None and self._resume <= now and self._listener is not None:
            self._resume = None
            self._epoll.register(self._listener, select.EPOLLIN)

    def publish(self, page: bytes) -> None:
        """For everybody who waits."""
        self._page = answer(200, page)
        self._page_until = time.monotonic() + FRESH_SECONDS
        for client in list(self._clients.values()):
            if client.waits:
                self._reply(client, self._page)

    # ---- one client

    def _accept(self, now: float) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:
            # It stays readable: without a pause this would be a busy loop.
            self._epoll.unregister(self._listener)
            self._resume = now + ACCEPT_PAUSE_SECONDS
            return
        if len(self._clients) >= CLIENTS_MAX:
            # A scraper is served at once: it is not the one who has been here for longest.
            self._drop(next(iter(self._clients.values())))
        sock.setblocking(False)
        self._clients[sock.fileno()] = _Client(sock, now + CLIENT_SECONDS)
        self._epoll.register(sock, select.EPOLLIN)

    def _serve(self, client: _Client, event: int, now: float) -> None:
        try:
            if client.outbox is not None:
                self._send(client)
            elif client.waits or not event & select.EPOLLIN:
                self._drop(client)  # only an error, or the end, is heard of then
            else:
                self._receive(client, now)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)

    def _receive(self, client: _Client, now: float) -> None:
        data = client.sock.recv(HEAD_MAX_BYTES)
        client.inbox += data
        head, end, _ = bytes(client.inbox).partition(b"\r\n\r\n")
        if len(head) > HEAD_MAX_BYTES:
            self._reply(client, answer(431))
        elif not end:
            if not data:
                self._drop(client)
        elif (refused := refusal(head, self._token())) is not None:
            self._reply(client, refused)
        elif now < self._page_until:
            self._reply(client, self._page)
        else:
            client.waits = True
            self._epoll.modify(client.sock, 0)
            self._ask()

    def _reply(self, client: _Client, response: bytes) -> None:
        client.waits = False
        client.outbox = memoryview(response)
        self._epoll.modify(client.sock, select.EPOLLOUT)

    def _send(self, client: _Client) -> None:
        assert client.outbox is not None
        client.outbox = client.outbox[client.sock.send(client.outbox) :]
        if not client.outbox:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.sock.fileno()]
        # Told and not left to close(): a child that was forked meanwhile may hold a copy.
        with contextlib.suppress(OSError):
            self._epoll.unregister(client.sock)
        client.sock.close()
