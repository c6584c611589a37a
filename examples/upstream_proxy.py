"""A small HTTP forward proxy, for demos and tests on machines without Squid or tinyproxy.

`http://` requests come in absolute form, everything else through CONNECT; with `--user` it wants
Basic credentials. Each connection it opens is reported as a JSON line with the local port, so
that a test can tell which of an origin's connections came through it. Not for the open internet:
it limits neither clients nor targets.

    python -m examples.upstream_proxy --port 3128 --user me:secret --log connections.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hmac
import json
import signal
import sys
from asyncio import StreamReader
from asyncio import StreamWriter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from examples.http1 import HEAD_LIMIT
from examples.http1 import Head
from examples.http1 import Malformed
from examples.http1 import copy_body
from examples.http1 import pump
from examples.http1 import read_head

CONNECT_TIMEOUT = 10.0
VIA = "1.1 upstream-proxy"

Stream = tuple[StreamReader, StreamWriter]
Report = Callable[[dict[str, Any]], None]


class Refused(Exception):
    """The request ends in an answer of our own."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason

    def answer(self) -> bytes:
        """The whole answer."""
        body = f"upstream proxy: {self.reason}\n"
        lines = [f"HTTP/1.1 {self.status} {self.reason}", "Connection: close"]
        lines += ["Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body)}"]
        if self.status == 407:
            lines.append('Proxy-Authenticate: Basic realm="upstream proxy"')
        return "\r\n".join([*lines, "", body]).encode()


class UpstreamProxy:
    """The server. `report` gets a dictionary for each event, before any byte is passed on."""

    def __init__(
        self, report: Report, *, user: str | None = None, source: str | None = None
    ) -> None:
        self._report = report
        self._source = source
        self._expected = None if user is None else base64.b64encode(user.encode())

    async def serve(self, host: str, port: int) -> asyncio.Server:
        """Start listening; port 0 takes a free one."""
        return await asyncio.start_server(self._handle, host, port, limit=HEAD_LIMIT)

    async def _handle(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while await self._one_request((reader, writer)):
                pass
        except Refused as error:
            self._report({"event": "refused", "status": error.status, "reason": error.reason})
            with contextlib.suppress(OSError):
                writer.write(error.answer())
                await writer.drain()
        except (OSError, Malformed) as error:
            self._report({"event": "broken", "reason": str(error)})
        finally:
            writer.close()

    async def _one_request(self, client: Stream) -> bool:
        """Serve a request; whether the connection can carry another."""
        try:
            head = await read_head(client[0])
            if head is None:
                return False
            method, target, version = head.start.split(" ")
            has_body = head.is_framed()
        except (Malformed, ValueError):
            raise Refused(400, "malformed request") from None
        if version not in ("HTTP/1.0", "HTTP/1.1"):
            raise Refused(400, "malformed request")
        self._check_credentials(head)
        if method == "CONNECT":
            await self._tunnel(client, target)
            return False
        scheme, _, rest = target.partition("://")
        if scheme.lower() != "http":
            raise Refused(400, "only http URLs and CONNECT")
        reusable = await self._forward(client, head, rest, has_body)
        return reusable and version == "HTTP/1.1" and "close" not in head.tokens("connection")

    def _check_credentials(self, head: Head) -> None:
        if self._expected is None:
            return
        scheme, _, given = (head.values("proxy-authorization") or [""])[0].partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self._expected)
        if scheme.lower() != "basic" or not right:
            raise Refused(407, "credentials required")

    async def _dial(self, method: str, authority: str, default_port: int | None) -> Stream:
        try:
            parts = urlsplit(f"//{authority}")
            host, port = parts.hostname, parts.port or default_port
        except ValueError:
            host = port = None
        if not host or not port:
            raise Refused(400, "malformed target")
        source = (self._source, 0) if self._source else None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                stream = await asyncio.open_connection(
                    host, port, local_addr=source, limit=HEAD_LIMIT
                )
        except TimeoutError:
            raise Refused(504, "the target does not answer") from None
        except (OSError, UnicodeError):
            raise Refused(502, "cannot reach the target") from None
        address, local_port = stream[1].get_extra_info("sockname")[:2]
        event = {"event": "connect", "method": method, "host": host, "port": port}
        self._report({**event, "local_address": address, "local_port": local_port})
        return stream

    async def _tunnel(self, client: Stream, authority: str) -> None:
        origin = await self._dial("CONNECT", authority, None)
        try:
            client[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(pump(client[0], origin[1]), pump(origin[0], client[1]))
        finally:
            origin[1].close()

    async def _forward(self, client: Stream, head: Head, rest: str, has_body: bool) -> bool:
        """Pass a request on over a connection of its own; whether the client's is reusable."""
        method, _, version = head.start.split(" ")
        # Cut by hand: the path goes on byte for byte.
        end = min(f"{rest}{mark}".index(mark) for mark in "/?#")
        authority, path = rest[:end].rpartition("@")[2], rest[end:].partition("#")[0]
        path = path if path.startswith("/") else f"/{path}"
        origin = await self._dial(method, authority, 80)
        upload = None
        try:
            extra = {"Host": authority, "Via": VIA, "Connection": "close"}
            origin[1].write(head.next_hop(f"{method} {path} {version}", extra))
            if has_body:
                # Beside the answer: with Expect: 100-continue the body waits for one.
                upload = asyncio.create_task(send_body(client[0], origin[1], head))
            framed = await relay_answer(origin[0], client[1], method)
            return framed and (upload is None or (upload.done() and upload.result()))
        finally:
            if upload is not None:
                upload.cancel()
                await asyncio.gather(upload, return_exceptions=True)
            origin[1].close()


async def send_body(reader: StreamReader, writer: StreamWriter, head: Head) -> bool:
    """Pass the request's body on; whether all of it went. If not, the origin is hung up on."""
    try:
        await copy_body(reader, writer, head)
        return True
    except (OSError, Malformed):
        writer.close()
        return False


async def relay_answer(reader: StreamReader, writer: StreamWriter, method: str) -> bool:
    """Pass the answer on; whether its end can be told without closing the connection."""
    status = "100"
    while status.startswith("1"):
        head, status = await read_answer(reader)
        bodiless = method == "HEAD" or status.startswith("1") or status in ("204", "304")
        can_go_on = bodiless or head.is_framed()
        extra = {"Via": VIA} if can_go_on else {"Via": VIA, "Connection": "close"}
        writer.write(head.next_hop(head.start, extra))
        await writer.drain()
    if not bodiless:
        await copy_body(reader, writer, head)
    return can_go_on


async def read_answer(reader: StreamReader) -> tuple[Head, str]:
    """The head of an answer and its status; 502 if it is none, or one we did not ask for (101)."""
    try:
        head = await read_head(reader)
        if head is not None and head.start.startswith("HTTP/1."):
            status = head.start.partition(" ")[2][:3]
            head.is_framed()
            if status.isdigit() and status != "101":
                return head, status
    except (Malformed, OSError):
        pass
    raise Refused(502, "unusable answer from the target")


async def run(host: str, port: int, proxy: UpstreamProxy) -> None:
    """Serve until SIGINT or SIGTERM; prints one line with the port when listening."""
    server = await proxy.serve(host, port)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    chosen = server.sockets[0].getsockname()[1]
    print(json.dumps({"event": "listening", "host": host, "port": chosen}), flush=True)
    await stop.wait()
    server.close()


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="A small HTTP forward proxy.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=3128, help="0 takes a free one (%(default)s)")
    parser.add_argument("--user", metavar="NAME:PASSWORD", help="credentials to ask for")
    parser.add_argument("--source", metavar="ADDRESS", help="local address of outgoing connections")
    parser.add_argument("--log", type=Path, help="file for the JSON lines (otherwise stderr)")
    args = parser.parse_args(argv)
    with args.log.open("a") if args.log else contextlib.nullcontext(sys.stderr) as log:

        def report(event: dict[str, Any]) -> None:
            print(json.dumps(event), file=log, flush=True)

        try:
            asyncio.run(
                run(args.host, args.port, UpstreamProxy(report, user=args.user, source=args.source))
            )
        except OSError as error:
            print(f"upstream proxy: {error.strerror or error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
