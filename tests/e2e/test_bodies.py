"""Methods and bodies: nothing is lost, nothing waits, nothing is kept that should flow."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import statistics
import subprocess
import time
from collections.abc import Iterator

import pytest
from wsproto import ConnectionType
from wsproto import WSConnection
from wsproto import events as ws

from tests.e2e.world import Client
from tests.e2e.world import World
from tests.support.origin import TICKS

HTTP_AND_HTTPS = pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
LARGE = 5 << 20


@HTTP_AND_HTTPS
def test_methods(world: World, tls: bool) -> None:
    with world.client(tls=tls) as client:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            url = world.url("/method", tls=tls)
            body = b"a body" if method in ("POST", "PUT", "PATCH") else None
            answer = client.request(method, url, token=world.token, body=body)
            assert answer.status == 200
            assert answer.json()["method"] == method
            assert answer.json()["body_bytes"] == len(body or b"")
            world.record(url, 200, method=method, proxy_id=world.proxy_id)


@HTTP_AND_HTTPS
def test_head(world: World, tls: bool) -> None:
    with world.client(tls=tls) as client:
        url = world.url("/bytes/1000", tls=tls)
        answer = client.request("HEAD", url, token=world.token)
        assert (answer.status, answer.header("content-length")) == (200, "1000")
        assert answer.body == b""
        assert client.request("GET", world.url(tls=tls), token=world.token).status == 200
    world.record(url, 200, method="HEAD", proxy_id=world.proxy_id)


@pytest.mark.parametrize("status", [204, 304, 404, 418, 500])
def test_statuses_pass_unchanged(world: World, status: int) -> None:
    url = world.url(f"/status/{status}")
    answer = world.get(url)
    assert (answer.status, answer.body) == (status, b"")
    world.record(url, status, proxy_id=world.proxy_id)


def test_query_and_path_pass_byte_for_byte(world: World) -> None:
    path = "/a/%7euser/../b//c;d=1?x=%2F&y=a+b&z=%C3%A9"
    url = world.url(path)
    with world.client() as client:
        answer = client.request("GET", url, token=world.token)
    assert answer.json()["path"] == url[len(world.origin.url("")) :]
    world.record(url, 200, proxy_id=world.proxy_id)
    assert world.proxy_calls(url) == 1


def in_pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 60_000):
        yield body[start : start + 60_000]


@pytest.mark.smoke
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
@HTTP_AND_HTTPS
def test_large_upload(world: World, tls: bool, chunked: bool) -> None:
    body = os.urandom(LARGE)
    url = world.url("/upload", tls=tls)
    with world.client(tls=tls) as client:
        answer = client.request(
            "POST",
            url,
            token=world.token,
            body=in_pieces(body) if chunked else body,
            encode_chunked=chunked,
        )
        assert answer.json()["body_bytes"] == LARGE
        assert answer.json()["body_sha256"] == hashlib.sha256(body).hexdigest()
        assert client.request("GET", world.url(tls=tls), token=world.token).status == 200
    world.record(url, 200, method="POST", proxy_id=world.proxy_id)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, LARGE])
@HTTP_AND_HTTPS
def test_download(world: World, tls: bool, size: int) -> None:
    """Around the border from which bodies are streamed, too."""
    url = world.url(f"/bytes/{size}", tls=tls)
    with world.client(tls=tls) as client:
        answer = client.request("GET", url, token=world.token)
        assert (answer.status, len(answer.body)) == (200, size)
        assert client.request("GET", world.url(tls=tls), token=world.token).status == 200
    world.record(url, 200, proxy_id=world.proxy_id)


def test_expect_continue(world: World) -> None:
    url = world.url("/expect")
    done = world.curl(
        "-H",
        f"Authorization: Bearer {world.token}",
        "-H",
        "Expect: 100-continue",
        "-d",
        "body",
        url,
    )
    assert json.loads(done.stdout)["body_bytes"] == 4


@pytest.mark.smoke
@pytest.mark.parametrize("path", ["/sse", "/stream"])
@HTTP_AND_HTTPS
def test_stream_arrives_as_it_is_sent(world: World, tls: bool, path: str) -> None:
    """The first event is here, and the record is written, long before the last is sent."""
    url = world.url(f"{path}?count=3&interval=1.5", tls=tls)
    with world.client(tls=tls) as client:
        started = time.monotonic()
        headers = {"Authorization": f"Bearer {world.token}"}
        response = client.send("GET", url, headers)
        first = response.readline()
        assert first.strip().endswith(b"0")
        assert time.monotonic() - started < 1.5
        rest = response.read()
        assert rest.strip().endswith(b"2")
        assert time.monotonic() - started >= 3.0
    world.record(url, 200, proxy_id=world.proxy_id)


@pytest.mark.parametrize("media", ["event-stream", "plain"])
@pytest.mark.parametrize(
    ("tls", "version"), [(False, "--http1.1"), (True, "--http1.1"), (True, "--http2")]
)
def test_each_piece_arrives_at_once(world: World, tls: bool, version: str, media: str) -> None:
    """Less than 50 ms after the origin wrote it: half of them, as the machine may be busy."""
    url = world.url(f"/ticks/{media}", tls=tls)
    command = world.curl_command(version, "-N", "-H", f"Authorization: Bearer {world.token}", url)
    late = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, env={}) as curl:
        assert curl.stdout is not None
        for line in curl.stdout:
            late.append(time.monotonic() - float(line.removeprefix(b"data: ")))
    assert (curl.returncode, len(late)) == (0, TICKS)
    assert statistics.median(late) < 0.05, late


def test_client_leaves_a_stream(world: World) -> None:
    """The one record says what the client had got: a status."""
    url = world.url("/sse?count=1000&interval=0.05")
    with world.client() as client:
        response = client.send("GET", url, {"Authorization": f"Bearer {world.token}"})
        assert response.readline()
    world.record(url, 200, proxy_id=world.proxy_id)


def test_client_leaves_before_an_answer(world: World) -> None:
    url = world.url("/gate/left")
    client = world.client()
    try:
        client.socket.sendall(
            f"GET {url} HTTP/1.1\r\nHost: 127.0.0.1:{world.origin.http_port}\r\n"
            f"Authorization: Bearer {world.token}\r\n\r\n".encode()
        )
        world.wait_for_arrival("left")
    finally:
        client.close()
    try:
        world.record(url, 499, proxy_id=world.proxy_id)
    finally:
        world.origin.open_gate("left")


def test_answer_that_breaks_off(world: World) -> None:
    """The client notices, since less arrives than was announced; the status had been 200."""
    url = world.url("/drops", tls=True)
    done = world.curl("-H", f"Authorization: Bearer {world.token}", url)
    assert done.returncode != 0 or "upstream_failed" in done.stdout
    assert len(world.records(url)) <= 1


# ---- WebSocket


class WebSocket:
    """A client's end over a connection to the gateway."""

    def __init__(self, world: World, client: Client, url: str) -> None:
        self._socket = client.socket
        self._wire = WSConnection(ConnectionType.CLIENT)
        host, _, target = url.partition("://")[2].partition("/")
        headers = [(b"Authorization", f"Bearer {world.token}".encode())]
        request = self._wire.send(ws.Request(host=host, target=f"/{target}", extra_headers=headers))
        if not isinstance(self._socket, ssl.SSLSocket):
            request = request.replace(b"GET /", f"GET {url}"[: -len(target)].encode(), 1)
        self._socket.sendall(request)
        self.first = self.receive()

    def receive(self) -> ws.Event:
        while True:
            for event in self._wire.events():
                return event
            data = self._socket.recv(65536)
            self._wire.receive_data(data or None)

    def send(self, event: ws.Event) -> None:
        self._socket.sendall(self._wire.send(event))


@pytest.mark.smoke
@HTTP_AND_HTTPS
def test_websocket(world: World, tls: bool) -> None:
    url = world.url("/ws", tls=tls)
    with world.client(tls=tls) as client:
        socket = WebSocket(world, client, url)
        assert isinstance(socket.first, ws.AcceptConnection), socket.first
        world.record(url, 101, proxy_id=world.proxy_id)  # while it is open
        for text in ("one", "two", "x" * 100_000):
            socket.send(ws.TextMessage(text))
            received = ""
            while len(received) < len(text):
                event = socket.receive()
                assert isinstance(event, ws.TextMessage)
                received += event.data
            assert received == text
        socket.send(ws.BytesMessage(b"\0\1"))
        event = socket.receive()
        assert isinstance(event, ws.BytesMessage) and event.data == b"\0\1"
        socket.send(ws.TextMessage("close"))
        assert isinstance(socket.receive(), ws.CloseConnection)
    world.settle()
    assert len(world.records(url)) == 1


def test_websocket_without_token(world: World) -> None:
    url = world.url("/ws", tls=True)
    with world.client(tls=True) as client:
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        headers["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        assert client.request("GET", url, headers=headers).status == 401
    world.record(url, 401, user_id=None)
