"""What a client gets whose request cannot even be read, and trailers, which HTTP/1 loses."""

from __future__ import annotations

import asyncio
import time

import pytest
from mitmproxy import http
from mitmproxy.proxy.layers.http._events import RequestTrailers
from mitmproxy.proxy.layers.http._events import ResponseTrailers

from mitm_forwarder import http1
from mitm_forwarder.tunnels import RoutedHttp1Client
from tests.forwarding.rig import Client
from tests.forwarding.rig import Rig
from tests.forwarding.rig import reason
from tests.forwarding.rig import until
from tests.forwarding.rig import usable


async def refused(client: Client) -> tuple[int, str]:
    """The answer, which must be the connection's last."""
    answer = await client.response()
    assert answer[0].headers["connection"] == "close"
    client.writer.write_eof()
    assert await client.rest() == b""
    return answer[0].status, reason(answer)


@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"a" * (65 << 10),
        b"GET /" + b"a" * (65 << 10),
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (11 << 10) + b"\r\n",
        b"a" * (1 << 20),
    ],
)
async def test_a_head_that_is_too_large(rig: Rig, head: bytes, before: int) -> None:
    client = await rig.client()
    for _ in range(before):
        assert await usable(client, rig)
    client.send(head)
    assert await refused(client) == (431, "headers_too_large")
    assert rig.proxy.accepted == before


async def test_a_large_head_within_the_limit(rig: Rig) -> None:
    """With so much body behind it that both together are beyond."""
    client = await rig.client()
    large = f"X: {'a' * (60 << 10)}\r\n"
    body = b"b" * (200 << 10)
    client.request(rig.url(), "POST", f"{large}Content-Length: {len(body)}\r\n")
    client.send(body)
    assert (await client.response())[0].status == 200
    assert rig.origin.received == len(body)
    assert await usable(client, rig)
    await client.close()


@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
async def test_a_slow_head(rig: Rig, before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.5)
    client = await rig.client()
    for _ in range(before):
        assert await usable(client, rig)
    started = time.monotonic()

    async def drip() -> None:
        for byte in b"GET / HTTP/1.1\r\nX: " + b"y" * 100:
            client.send(bytes([byte]))
            await asyncio.sleep(0.05)

    dripping = asyncio.ensure_future(drip())
    answer = await client.response()
    dripping.cancel()
    assert (answer[0].status, reason(answer)) == (408, "request_timeout")
    assert 0.4 < time.monotonic() - started < 4
    await client.close()


async def test_an_idle_client_is_left_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.1)
    client = await rig.client()
    client.send(b"GET")
    await asyncio.sleep(0.01)
    client.send(b" " + rig.url().encode() + b" HTTP/1.1\r\n\r\n")
    assert (await client.response())[0].status == 200
    await asyncio.sleep(0.5)
    assert await usable(client, rig)
    await client.close()


async def test_a_refused_client_that_never_closes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "LINGER_SECONDS", 0.3)
    client = await rig.client()
    client.send(b"nonsense\r\n\r\n")
    assert (await client.response())[0].status == 400
    assert await client.rest() == b""
    await client.close()


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/9.1\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST http://a.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET http://a.test:99999/ HTTP/1.1\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\n\r\n",
        b"CONNECT a.test HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_malformed_head(rig: Rig, head: bytes) -> None:
    client = await rig.client()
    client.send(head)
    assert await refused(client) == (400, "bad_request")
    assert rig.engine.ended == []
    assert rig.proxy.accepted == 0


# ---- trailers


@pytest.mark.parametrize("stream", ["", "?stream=1"])
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
async def test_response_trailers_are_dropped(rig: Rig, stream: str, version: str) -> None:
    for url in (rig.url(f"/trailers{stream}"), rig.secure_url(f"/trailers{stream}")):
        result = await rig.curl(version, url, url)
        assert result.codes == [200, 200], result.err
        assert result.out.count("body") == 2
        assert result.connects == [1, 0]


@pytest.mark.parametrize("rig", [{}, {"stream_large_bodies": "1"}], indirect=True)
async def test_request_trailers_are_dropped(rig: Rig) -> None:
    client = await rig.client()
    client.request(rig.url("/chunked"), "POST", "Transfer-Encoding: chunked\r\nTrailer: X\r\n")
    client.send(b"4\r\nbody\r\n0\r\nX: y\r\n\r\n")
    assert (await client.response())[0].status == 200
    assert await usable(client, rig)
    await client.close()


@pytest.mark.parametrize("rig", [{}, {"stream_large_bodies": "1"}], indirect=True)
async def test_an_h2_body_of_unknown_length_is_framed(rig: Rig) -> None:
    """The target speaks HTTP/1.1; without a header it would take the body for a request."""
    arguments = ["--http2", "-H", "Content-Length:", "-d", "GET /smuggled HTTP/1.1"]
    result = await rig.curl(*arguments, rig.secure_url("/chunked"))
    assert result.codes == [200], result.err
    (head,) = (h for h in rig.secure_origin.heads if h.first[1] == "/chunked")
    assert head.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in head.headers
    assert "transfer-encoding" not in rig.engine.ended[0][1].request.headers


async def test_trailers_that_http1_cannot_carry() -> None:
    server = object.__new__(http1.ForwarderHttp1Server)
    assert list(server.send(ResponseTrailers(1, http.Headers(x="y")))) == []
    client = object.__new__(RoutedHttp1Client)
    assert list(client.send(RequestTrailers(1, http.Headers(x="y")))) == []


@pytest.mark.parametrize("path", ["/endless-trailers", "/endless-chunk", "/endless-head"])
async def test_lines_without_an_end(rig: Rig, path: str) -> None:
    client = await rig.client()
    answer = await client.get(rig.url(path))
    assert (answer[0].status, reason(answer)) == (502, "upstream_failed")
    await until(lambda: rig.proxy.open == 0, "the upstream connection is closed")
    assert await usable(client, rig)
    await client.close()
