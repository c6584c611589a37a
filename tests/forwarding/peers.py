"""Scripted origins and upstream proxies on real sockets, in this process.

Every origin notes the port each connection came from, every proxy the ports it opened.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import itertools
import re
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

CHUNK = 65536


def make_certificate(directory: Path) -> Path:
    """A self-signed certificate and its key for everything on loopback, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "origin.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("*.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = directory / "origin.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


class Head:
    """A request or response head off the wire."""

    peer = 0
    """The port that a request came from."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        first, *rest = raw.decode("latin-1").split("\r\n")
        self.first = first.split(" ", 2)
        self.headers = {
            k.strip().lower(): v.strip()
            for k, _, v in (line.partition(":") for line in rest if line)
        }

    @property
    def status(self) -> int:
        return int(self.first[1])

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length", 0))


class Listener:
    """A TCP (or TLS) server whose `serve` runs for each connection and is cancelled at the end."""

    protocols = ("http/1.1",)
    """What TLS offers (ALPN)."""

    def __init__(self, tls: Path | None = None) -> None:
        self.tls = tls
        self.tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.open = 0

    async def start(self) -> None:
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.tls)
            context.set_alpn_protocols(self.protocols)
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=context)
        self.port: int = self.server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._run(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.open += 1
        try:
            await self.serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n"
ENDINGS = {
    "/trailers": CHUNKED + b"0\r\nX-Trailer: yes\r\nServer-Timing: 1\r\n\r\n",
    "/endless-trailers": CHUNKED + b"0\r\nX-Trailer: ",
    "/endless-chunk": CHUNKED + b"1;",
    "/endless-head": b"X-Head: ",
}
"""Heads and bodies after a status line of 200, by path."""


class Origin(Listener):
    """A web server that does what the path says."""

    def __init__(self, tls: Path | None = None) -> None:
        super().__init__(tls)
        self.peers: list[int] = []
        self.heads: list[Head] = []
        self.received = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.peers)
        self.peers.append(writer.get_extra_info("peername")[1])
        for served in itertools.count():
            head = Head(await reader.readuntil(b"\r\n\r\n"))
            head.peer = self.peers[number]
            self.heads.append(head)
            path = head.first[1].partition("?")[0]
            if path == "/die":
                return
            if path == "/silent":
                await reader.read()  # until the other side gives up
                return
            if path == "/once" and served > 0:  # not for a connection that was used before
                return
            if path == "/once-half" and served > 0:
                writer.write(b"HTTP/1.1 2")
                await writer.drain()
                return
            if path == "/half":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
                await writer.drain()
                return
            if path == "/stall":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
                await reader.read()
                return
            if path in ENDINGS:
                writer.write(b"HTTP/1.1 200 OK\r\n" + ENDINGS[path])
                while path.startswith("/endless"):
                    writer.write(bytes(CHUNK))
                    await writer.drain()
                continue
            if path == "/chunked":
                await reader.readuntil(b"\r\n0\r\n\r\n")
            if path == "/ws":
                writer.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                    b"\x82\x05hello"
                )
                await reader.read()
                return
            end = self.received + head.length
            while self.received < end:
                self.received += len(await reader.readexactly(min(CHUNK, end - self.received)))
            body = b"" if head.first[0] == "HEAD" else b"ok"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)
            await writer.drain()


class Proxy(Listener):
    """An upstream proxy: CONNECT and absolute-form, every name is loopback. `mood` says how it
    fails.
    """

    def __init__(self, tls: Path | None = None, mood: str = "well") -> None:
        super().__init__(tls)
        self.mood = mood
        self.heads: list[Head] = []
        self.opened: list[int] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mood == "mute":
            await asyncio.Event().wait()
        head = Head(await reader.readuntil(b"\r\n\r\n"))
        self.heads.append(head)
        if self.mood == "silent":
            await reader.read()  # until the other side gives up
            return
        if self.mood == "dying":
            return
        if self.mood == "endless":
            while True:
                writer.write(b"HTTP/1.1 200 OK" + bytes(CHUNK))
                await writer.drain()
        if self.mood in ("403", "407", "garbage"):
            answer = b"HTTP/1.1 %s No\r\nContent-Length: 0\r\n\r\n" % self.mood.encode()
            writer.write(b"\x15\x03\x01 what?\r\n\r\n" if self.mood == "garbage" else answer)
            await writer.drain()
            await reader.read()
            return
        if self.mood == "dies once":
            self.mood = "well"
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await writer.drain()
            return
        method, target, _ = head.first
        authority = target if method == "CONNECT" else target.split("/")[2]
        port = authority.rpartition(":")[2]
        inner = await asyncio.open_connection("127.0.0.1", int(port) if port.isdigit() else 80)
        self.opened.append(inner[1].get_extra_info("sockname")[1])
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            inner[1].write(
                head.raw.replace(target.encode(), b"/" + target.split("/", 3)[3].encode(), 1)
            )
        try:
            await self._relay(reader, writer, *inner, plain=method != "CONNECT")
        finally:
            inner[1].close()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        inner_reader: asyncio.StreamReader,
        inner_writer: asyncio.StreamWriter,
        plain: bool,
    ) -> None:
        async def up() -> None:
            while data := await reader.read(CHUNK):
                if plain and re.match(rb"[A-Z]+ http://", data):
                    head = Head(data)
                    self.heads.append(head)
                    data = data.replace(
                        head.first[1].encode(), b"/" + head.first[1].split("/", 3)[3].encode(), 1
                    )
                inner_writer.write(data)
                await inner_writer.drain()

        async def down() -> None:
            while data := await inner_reader.read(CHUNK):
                writer.write(data)
                await writer.drain()

        both = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
