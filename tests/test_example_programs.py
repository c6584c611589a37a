"""The demo's upstream proxy and target, as the subprocesses that the demo and other tests run."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend import ROOT
from tests.support.backend import wait_until

TIMEOUT = 10.0
OriginScript = Callable[[socket.socket], None]


class Program:
    """A running example; `ready` is its line on stdout, `log()` the lines of its log."""

    def __init__(self, name: str, log: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", f"examples.{name}", "--log", str(log), *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.ready: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        self._log = log

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        rest, _ = self.process.communicate(timeout=TIMEOUT)
        assert (self.process.returncode, rest) == (0, "")


@contextlib.contextmanager
def running(name: str, log: Path, *arguments: str) -> Iterator[Program]:
    program = Program(name, log, *arguments)
    try:
        yield program
        program.stop()
    finally:
        program.process.kill()
        program.process.wait()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def target(directory: Path) -> Iterator[Program]:
    arguments = ["--ca-file", str(directory / "ca.pem"), "--name", "target.test"]
    with running("target", directory / "target.log", *arguments) as program:
        yield program


@pytest.fixture(scope="module")
def proxy(directory: Path) -> Iterator[Program]:
    with running("upstream_proxy", directory / "proxy.log", "--port", "0") as program:
        yield program


@pytest.fixture(scope="module")
def tls(directory: Path, target: Program) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    # The default from Python 3.13 on.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


@contextlib.contextmanager
def origin(script: OriginScript) -> Iterator[int]:
    """A server for one connection that does what the script says; yields its port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(TIMEOUT)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(TIMEOUT)
                script(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def connect(program: Program) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", program.ready["port"], timeout=TIMEOUT)


def raw(program: Program, request: str) -> bytes:
    """Everything that comes back for the bytes, until the proxy closes."""
    with closing(socket.create_connection(("127.0.0.1", program.ready["port"]), TIMEOUT)) as sock:
        sock.sendall(request.encode("latin-1"))
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while block := sock.recv(65536):
        data += block
    return bytes(data)


def read_head(sock: socket.socket) -> bytes:
    data = bytearray()
    while not data.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, data
        data += byte
    return bytes(data)


def echo(answer: http.client.HTTPResponse) -> Any:
    assert answer.status == 200
    return json.loads(answer.read())


def http_url(target: Program, path: str) -> str:
    return f"http://127.0.0.1:{target.ready['http_port']}{path}"


# -- upstream proxy -----------------------------------------------------------------------


def test_absolute_form_is_passed_on_in_origin_form(proxy: Program, target: Program) -> None:
    with closing(connect(proxy)) as client:
        headers = {
            "X-Kept": "yes",
            "X-Named": "no",
            "Connection": "X-Named",
            "Proxy-Connection": "keep-alive",
            "Proxy-Authorization": "Basic c2VjcmV0",
            "TE": "trailers",
            "Host": "other.test",
        }
        client.request("GET", http_url(target, "//a/%2e/b?c=/d?#e"), headers=headers)
        answer = client.getresponse()
        assert answer.getheader("Via") == "1.1 upstream-proxy"
        seen = echo(answer)
    assert seen["path"] == "//a/%2e/b?c=/d?"
    names = {name.lower(): value for name, value in seen["headers"]}
    assert names == {
        "accept-encoding": "identity",
        "x-kept": "yes",
        "host": f"127.0.0.1:{target.ready['http_port']}",
        "via": "1.1 upstream-proxy",
        "connection": "close",
    }


@pytest.mark.parametrize(("suffix", "path"), [("", "/"), ("?q", "/?q"), ("#f", "/")])
def test_empty_path_becomes_a_slash(
    proxy: Program, target: Program, suffix: str, path: str
) -> None:
    with closing(connect(proxy)) as client:
        client.request("GET", http_url(target, suffix))
        assert echo(client.getresponse())["path"] == path


def test_client_connection_is_reused(proxy: Program, target: Program) -> None:
    body = bytes(range(256)) * 1000
    digest = hashlib.sha256(body).hexdigest()
    with closing(connect(proxy)) as client:
        client.connect()
        first = client.sock
        client.request("POST", http_url(target, "/a"), body=body)
        assert echo(client.getresponse())["body_sha256"] == digest
        chunks = iter([body[:70_000], body[70_000:]])
        client.request("POST", http_url(target, "/b"), body=chunks, encode_chunked=True)
        assert echo(client.getresponse())["body_sha256"] == digest
        for method, path, size in (
            ("HEAD", "/bytes/10", 0),
            ("GET", "/status/204", 0),
            ("GET", "/status/304", 0),
            ("GET", "/stream?count=3&interval=0", 21),
            ("GET", "/bytes/300000", 300_000),
        ):
            client.request(method, http_url(target, path))
            assert len(client.getresponse().read()) == size, path
        assert client.sock is first


def test_log_tells_the_port_the_target_saw(proxy: Program, target: Program) -> None:
    before = len(proxy.log())
    with closing(connect(proxy)) as client:
        client.request("GET", http_url(target, "/"))
        peer = echo(client.getresponse())["peer"]
    (event,) = proxy.log()[before:]
    assert event == {
        "event": "connect",
        "method": "GET",
        "host": "127.0.0.1",
        "port": target.ready["http_port"],
        "local_address": peer["address"],
        "local_port": peer["port"],
    }


def test_tunnel_carries_tls(proxy: Program, target: Program, tls: ssl.SSLContext) -> None:
    before = len(proxy.log())
    with closing(connect(proxy)) as client:
        client.set_tunnel("localhost", target.ready["https_port"])
        client.connect()
        client.sock = tls.wrap_socket(client.sock, server_hostname="localhost")
        client.request("GET", "/x")
        seen = echo(client.getresponse())
    (event,) = proxy.log()[before:]
    assert (event["method"], event["local_port"]) == ("CONNECT", seen["peer"]["port"])
    assert (seen["scheme"], seen["path"]) == ("https", "/x")
    assert "Via" not in dict(seen["headers"])


def test_tunnel_passes_one_end_on_and_stays_open_the_other_way(proxy: Program) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(b"got " + read_all(connection))

    with origin(script) as port:
        sock = socket.create_connection(("127.0.0.1", proxy.ready["port"]), TIMEOUT)
        with closing(sock):
            sock.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
            assert read_head(sock).startswith(b"HTTP/1.1 200 ")
            sock.sendall(b"everything")
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b"got everything"


def test_tunnel_ends_when_the_origin_resets(proxy: Program) -> None:
    def script(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with origin(script) as port:
        sock = socket.create_connection(("127.0.0.1", proxy.ready["port"]), TIMEOUT)
        with closing(sock):
            sock.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
            read_head(sock)
            sock.sendall(b"x")
            assert read_all(sock) == b""


def test_answer_without_length_ends_with_the_connection(proxy: Program) -> None:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

    with origin(script) as port:
        answer = raw(proxy, f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"Connection: close" in answer
    assert answer.endswith(b"\r\n\r\nuntil the end")


def test_body_waits_for_100_continue(proxy: Program) -> None:
    def script(connection: socket.socket) -> None:
        assert b"Expect: 100-continue" in read_head(connection)
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert connection.recv(4) == b"body"
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with origin(script) as port:
        sock = socket.create_connection(("127.0.0.1", proxy.ready["port"]), TIMEOUT)
        with closing(sock):
            head = f"PUT http://127.0.0.1:{port}/ HTTP/1.1\r\nContent-Length: 4\r\n"
            sock.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert read_head(sock).startswith(b"HTTP/1.1 100 ")
            sock.sendall(b"body")
            assert read_head(sock).startswith(b"HTTP/1.1 204 ")


def test_early_answer_ends_the_upload_and_the_connection(proxy: Program) -> None:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    with origin(script) as port:
        head = f"PUT http://127.0.0.1:{port}/ HTTP/1.1\r\nContent-Length: 4000000\r\n\r\n"
        assert raw(proxy, f"{head}start").startswith(b"HTTP/1.1 413 ")


def test_origin_is_hung_up_on_when_the_client_breaks_off_an_upload(proxy: Program) -> None:
    received = []

    def script(connection: socket.socket) -> None:
        read_head(connection)
        received.append(read_all(connection))

    with origin(script) as port:
        sock = socket.create_connection(("127.0.0.1", proxy.ready["port"]), TIMEOUT)
        sock.sendall(f"PUT http://127.0.0.1:{port}/ HTTP/1.1\r\nContent-Length: 9\r\n\r\n".encode())
        sock.sendall(b"half")
        sock.close()
    assert received == [b"half"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
    ids=lambda answer: answer[:40].decode(),
)
def test_unusable_answer_is_502(proxy: Program, answer: bytes) -> None:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        with contextlib.suppress(OSError):
            connection.sendall(answer)

    with origin(script) as port:
        got = raw(proxy, f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 502 ")


def test_truncated_answer_stays_truncated(proxy: Program) -> None:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")

    with origin(script) as port:
        got = raw(proxy, f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n")
    assert got.endswith(b"5\r\nhel")


@pytest.mark.parametrize(
    "request_text",
    [
        "GET / HTTP/1.1\r\n\r\n",
        "GET ftp://x.test/ HTTP/1.1\r\n\r\n",
        "GET https://x.test/ HTTP/1.1\r\n\r\n",
        "GET http:///x HTTP/1.1\r\n\r\n",
        "GET http://x.test:99999/ HTTP/1.1\r\n\r\n",
        "GET  http://x.test/ HTTP/1.1\r\n\r\n",
        "GET http://x.test/ HTTP/2\r\n\r\n",
        "CONNECT x.test HTTP/1.1\r\n\r\n",
        "CONNECT :443 HTTP/1.1\r\n\r\n",
        "GET http://x.test/ HTTP/1.1\r\nno colon\r\n\r\n",
        "GET http://x.test/ HTTP/1.1\r\nSpace : x\r\n\r\n",
        "GET http://x.test/ HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
        "POST http://x.test/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST http://x.test/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST http://x.test/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "GET http://x.test/ HTTP/1.1\r\nX: " + "y" * 70_000 + "\r\n\r\n",
        "nonsense\r\n\r\n",
    ],
    ids=lambda text: text[:60].strip(),
)
def test_malformed_request_is_400(proxy: Program, request_text: str) -> None:
    before = len(proxy.log())
    assert raw(proxy, request_text).startswith(b"HTTP/1.1 400 ")
    assert [event["event"] for event in proxy.log()[before:]] == ["refused"]


def test_unreachable_target_is_502(proxy: Program) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        for request in (f"GET http://127.0.0.1:{port}/", f"CONNECT 127.0.0.1:{port}"):
            answer = raw(proxy, f"{request} HTTP/1.1\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 502 ")
    assert raw(proxy, "GET http://a..b/ HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 502 ")


def test_credentials_and_source_address(directory: Path, target: Program) -> None:
    arguments = ["--port", "0", "--user", "me:se:cret", "--source", "127.0.0.2"]
    with running("upstream_proxy", directory / "guarded.log", *arguments) as guarded:
        url = http_url(target, "/")
        for credentials in ("", "Basic bWU6d3Jvbmc=", "Bearer bWU6c2U6Y3JldA==", "Basic \xff"):
            header = f"Proxy-Authorization: {credentials}\r\n" if credentials else ""
            answer = raw(guarded, f"GET {url} HTTP/1.1\r\n{header}\r\n")
            assert answer.startswith(b"HTTP/1.1 407 ")
            assert b'Proxy-Authenticate: Basic realm="' in answer
        with closing(connect(guarded)) as client:
            headers = {"Proxy-Authorization": "basic bWU6c2U6Y3JldA=="}
            client.request("GET", url, headers=headers)
            seen = echo(client.getresponse())
        assert seen["peer"]["address"] == "127.0.0.2"
        assert "proxy-authorization" not in {name.lower() for name, _ in seen["headers"]}
        events = guarded.log()
    assert [event["event"] for event in events] == ["refused"] * 4 + ["connect"]
    assert "cret" not in json.dumps(events)


@pytest.mark.parametrize(
    ("name", "options"),
    [("upstream_proxy", ["--port"]), ("target", ["--ca-file", "/dev/null", "--http-port"])],
)
def test_port_in_use_is_one_line(name: str, options: list[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", f"examples.{name}", *options, port]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[0].endswith("ddress already in use")
    assert len(result.stderr.splitlines()) == 1


# -- target -------------------------------------------------------------------------------


def ask(target: Program, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    port = target.ready["http_port"]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as client:
        client.request(method, path)
        answer = client.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def test_target_answers_what_is_asked(target: Program) -> None:
    for status in (200, 204, 304, 404, 503):
        assert ask(target, f"/status/{status}")[0] == status
    assert ask(target, "/bytes/100000")[2] == b"x" * 100_000
    assert ask(target, "/bytes/100000", "HEAD")[1]["Content-Length"] == "100000"
    start = time.monotonic()
    assert json.loads(ask(target, "/delay/0.2")[2])["path"] == "/delay/0.2"
    assert time.monotonic() - start >= 0.2
    for path in ("/status/x", "/status/100", "/status/600", "/bytes/x", "/stream?count=x"):
        assert ask(target, path)[0] == 400


@pytest.mark.parametrize(
    ("kind", "media", "first"),
    [("stream", "text/plain", b"line 0\n"), ("sse", "text/event-stream", b"data: 0\n\n")],
)
def test_streams_come_bit_by_bit(target: Program, kind: str, media: str, first: bytes) -> None:
    _, headers, body = ask(target, f"/{kind}?count=2&interval=0")
    assert (headers["Content-Type"], headers["Transfer-Encoding"]) == (media, "chunked")
    assert body == first + first.replace(b"0", b"1")
    port = target.ready["http_port"]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as client:
        # The second bit is further away than the timeout.
        client.request("GET", f"/{kind}?count=2&interval={2 * TIMEOUT}")
        assert client.getresponse().read(len(first)) == first


def test_target_logs_requests(target: Program) -> None:
    ask(target, "/logged")
    entry = target.log()[-1]
    assert (entry["path"], entry["method"]) == ("/logged", "GET")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "target.test"])
def test_certificate_is_valid_for_its_names(
    target: Program, tls: ssl.SSLContext, name: str
) -> None:
    address = ("127.0.0.1", target.ready["https_port"])
    with (
        closing(socket.create_connection(address, TIMEOUT)) as plain,
        closing(tls.wrap_socket(plain, server_hostname=name)) as secure,
    ):
        assert secure.version() == "TLSv1.3"


def test_certificate_is_not_valid_for_others(target: Program, tls: ssl.SSLContext) -> None:
    address = ("127.0.0.1", target.ready["https_port"])
    with (
        closing(socket.create_connection(address, TIMEOUT)) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        tls.wrap_socket(plain, server_hostname="other.test")


def test_silent_tls_client_holds_up_nobody(target: Program, tls: ssl.SSLContext) -> None:
    port = target.ready["https_port"]
    with closing(socket.create_connection(("127.0.0.1", port), TIMEOUT)):
        client = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=tls)
        with closing(client):
            client.request("GET", "/")
            assert echo(client.getresponse())["scheme"] == "https"


def test_streams_end_when_the_client_is_gone(target: Program) -> None:
    """No thread may be left writing into nothing for the rest of a long stream."""
    path = Path(f"/proc/{target.process.pid}/task")
    if not path.exists():
        pytest.skip("counts threads in /proc")
    before = len(list(path.iterdir()))
    with closing(socket.create_connection(("127.0.0.1", target.ready["http_port"]))) as sock:
        sock.sendall(b"GET /stream?count=100000&interval=0.01 HTTP/1.1\r\n\r\n")
        sock.recv(1)
    wait_until(lambda: len(list(path.iterdir())) <= before, TIMEOUT, "the end of the stream")
