"""A target to send requests to: plain and TLS, echoing what arrived and from where.

    python -m examples.target --http-port 0 --https-port 0 --ca-file ca.pem

answers every path with a JSON description of the request (method, path, headers, body, the
address and port of the peer), except for

    /status/N                      an empty answer with status N
    /bytes/N                       N bytes
    /delay/S                       the description, after S seconds
    /stream?count=N&interval=S     N lines, chunked, one every S seconds
    /sse?count=N&interval=S        the same as server-sent events

The certificate for localhost, 127.0.0.1 and each `--name` is made at start and signed by a CA
made at start, whose certificate goes to `--ca-file`. Streams end early when the client is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import signal
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from typing import TextIO
from urllib.parse import parse_qs
from urllib.parse import urlsplit

from examples.certificates import make_tls

BLOCK = b"x" * 65536
HANDSHAKE_TIMEOUT = 10.0


class Target(ThreadingHTTPServer):
    """One listener; `tls` makes it https. Each request becomes a JSON line in `log`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        log: TextIO | None = None,
    ) -> None:
        super().__init__((host, port), Handler)
        self.tls = tls
        self._log = log
        self._log_lock = threading.Lock()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Runs in the connection's own thread, so a slow handshake holds up nobody else."""
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(HANDSHAKE_TIMEOUT)
        with self.tls.wrap_socket(request, server_side=True) as wrapped:
            wrapped.settimeout(None)
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is no news; anything else is a bug here and is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def record(self, entry: dict[str, Any]) -> None:
        """Write a log line, if there is a log."""
        if self._log is not None:
            with self._log_lock:
                print(json.dumps(entry), file=self._log, flush=True)


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: Target
    protocol_version = "HTTP/1.1"
    # Head and body are two writes, which Nagle's algorithm would hold apart for 40 ms.
    disable_nagle_algorithm = True

    def answer(self) -> None:
        """Every method ends up here."""
        body = self._read_body()
        echo = {
            "method": self.command,
            "scheme": "http" if self.server.tls is None else "https",
            # Not self.path: the base class shortens a leading "//".
            "path": self.requestline.split()[1],
            "headers": self.headers.items(),
            "body_bytes": len(body),
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "peer": {"address": self.client_address[0], "port": self.client_address[1]},
        }
        self.server.record(echo)
        try:
            self._dispatch(json.dumps(echo, indent=2).encode())
        except ValueError:
            self._send(400, "text/plain", [b"not a number\n"])

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def _dispatch(self, echo: bytes) -> None:
        """Choose the answer; ValueError if a number in the URL is none."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match url.path.strip("/").split("/"):
            case ["status", status]:
                self._send(self._final_status(status), "text/plain", [])
            case ["bytes", text]:
                whole, rest = divmod(int(text), len(BLOCK))
                blocks = [BLOCK] * whole + [BLOCK[:rest]]
                self._send(200, "application/octet-stream", blocks)
            case ["delay", seconds]:
                time.sleep(float(seconds))
                self._send(200, "application/json", [echo])
            case ["stream" | "sse" as kind]:
                count, interval = int(query.get("count", 5)), float(query.get("interval", 0.2))
                self._stream(count, interval, is_sse=kind == "sse")
            case _:
                self._send(200, "application/json", [echo])

    @staticmethod
    def _final_status(text: str) -> int:
        status = int(text)
        if not 200 <= status <= 599:
            raise ValueError(text)
        return status

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = bytearray()
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return bytes(body)

    def _send(self, status: int, media: str, blocks: list[bytes]) -> None:
        self.send_response(status)
        if status not in (204, 304):
            self.send_header("Content-Type", media)
            self.send_header("Content-Length", str(sum(map(len, blocks))))
        self.end_headers()
        if self.command != "HEAD":
            for block in blocks:
                self.wfile.write(block)

    def _stream(self, count: int, interval: float, *, is_sse: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if is_sse else "text/plain")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        for number in range(count):
            if number:
                time.sleep(interval)
            line = f"data: {number}\n\n" if is_sse else f"line {number}\n"
            self.wfile.write(f"{len(line):x}\r\n{line}\r\n".encode())
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Silence the base class; the log has its own form."""


def main(argv: list[str] | None = None) -> int:
    """The command line; serves until SIGINT or SIGTERM and returns the exit status."""
    parser = argparse.ArgumentParser(description="A target that echoes requests.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--http-port", type=int, default=0, help="0 takes a free one (%(default)s)")
    parser.add_argument("--https-port", type=int, default=0, help="same for https (%(default)s)")
    parser.add_argument("--ca-file", type=Path, required=True, help="where the CA is written")
    parser.add_argument("--name", action="append", default=[], help="one more name to be valid for")
    parser.add_argument("--log", type=Path, help="file for a JSON line for each request")
    args = parser.parse_args(argv)
    names = ["localhost", "127.0.0.1", *args.name]
    # Blocked before the threads start, so that only sigwait() below takes them.
    stop = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    with args.log.open("a") if args.log else contextlib.nullcontext() as log:
        try:
            http = Target(args.host, args.http_port, log=log)
            https = Target(args.host, args.https_port, tls=make_tls(names, args.ca_file), log=log)
        except OSError as error:
            print(f"target: {error.strerror or error}", file=sys.stderr)
            return 1
        for server in (http, https):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        ports = {"http_port": http.server_address[1], "https_port": https.server_address[1]}
        print(json.dumps({"event": "listening", "host": args.host, **ports}), flush=True)
        signal.sigwait(stop)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
