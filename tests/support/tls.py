"""Certificates for a backend on 127.0.0.1, and a small HTTP/2 server.

`make_pki` writes them into the given directory. `server_context()` is for a backend whose CA the
client is given, `server_context(client_ca=pki.ca)` for one that asks for a client certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated
from h2.events import RequestReceived
from h2.events import StreamEnded
from h2.exceptions import ProtocolError

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pki:
    """PEM files: a CA, a server's certificate for 127.0.0.1 and a client's, each with its key."""

    ca: Path
    server: Path
    client: Path
    client_key: Path

    def server_context(self, client_ca: Path | None = None, h2: bool = False) -> ssl.SSLContext:
        """For a listener; with `client_ca` nobody comes in without a certificate of it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        context.set_alpn_protocols(["h2", "http/1.1"] if h2 else ["http/1.1"])
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def make_pki(directory: Path, address: str = "127.0.0.1", days: int = 30) -> Pki:
    """A new CA and what it signs; `days` < 0 makes the server's certificate an expired one."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("Test CA")

    def sign(
        name: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime.datetime, *, is_ca: bool
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 60 * DAY)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    server_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pki = Pki(
        directory / "ca.pem",
        directory / "server.pem",
        directory / "client.pem",
        directory / "client.key",
    )
    pki.ca.write_bytes(sign(ca_name, ca_key, now + 30 * DAY, is_ca=True))
    server = sign(_name("backend"), server_key, now + days * DAY, is_ca=False)
    pki.server.write_bytes(server + _pem(server_key))
    pki.client.write_bytes(sign(_name("gateway"), client_key, now + 30 * DAY, is_ca=False))
    pki.client_key.write_bytes(_pem(client_key))
    return pki


# ---- HTTP/2


@dataclass
class H2Seen:
    """What an H2 server has seen."""

    connections: int = 0
    requests: int = 0


@contextlib.asynccontextmanager
async def h2_server(
    context: ssl.SSLContext, answers: dict[str, bytes], delay: float = 0.0
) -> AsyncIterator[tuple[str, H2Seen]]:
    """Answers 200 with the body of the path, `delay` seconds after the request's end."""
    seen = H2Seen()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        paths: dict[int, str] = {}
        tasks = []

        async def answer(stream: int) -> None:
            await asyncio.sleep(delay)
            body = answers[paths[stream].partition("?")[0]]
            with contextlib.suppress(ProtocolError):
                connection.send_headers(stream, [(":status", "200")])
                connection.send_data(stream, body, end_stream=True)
                writer.write(connection.data_to_send())

        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, RequestReceived):
                    paths[event.stream_id] = dict(event.headers)[b":path"].decode()
                elif isinstance(event, StreamEnded):
                    seen.requests += 1
                    tasks.append(asyncio.ensure_future(answer(event.stream_id)))
                elif isinstance(event, ConnectionTerminated):
                    break
            writer.write(connection.data_to_send())
        await asyncio.gather(*tasks)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
