"""Uploads that are answered early, that stall or must wait; clients that leave."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mitm_forwarder import layers
from mitm_forwarder import streams
from mitm_forwarder.errors import make_response
from tests.forwarding.h2client import H2Client
from tests.forwarding.rig import Client
from tests.forwarding.rig import Rig
from tests.forwarding.rig import reason
from tests.forwarding.rig import until
from tests.forwarding.rig import usable

# ---- uploads


def reject(flow: Any) -> None:
    flow.response = make_response("blacklisted", "id")


STREAMED = pytest.mark.parametrize("rig", [{}, {"stream_large_bodies": "1"}], indirect=True)


@STREAMED
@pytest.mark.parametrize(
    "headers",
    ["Content-Length: 1000000000\r\n", "Transfer-Encoding: chunked\r\n"],
)
@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
async def test_early_reject(rig: Rig, headers: str, expect: str) -> None:
    rig.engine.on_requestheaders = reject
    client = await rig.client()
    client.request(rig.url(), "POST", headers + expect)
    answer = await client.response()  # not a byte of the body has been sent, and none ever will
    assert (answer[0].status, reason(answer)) == (403, "blacklisted")
    assert answer[0].headers["connection"] == "close"
    assert [kind for kind, _ in rig.engine.ended] == ["response"]
    await client.close()
    assert rig.proxy.accepted == 0


@STREAMED
async def test_early_reject_is_read_to_the_end_when_small(rig: Rig) -> None:
    rig.engine.on_requestheaders = reject
    client = await rig.client()
    client.request(rig.url(), "POST", "Content-Length: 4\r\n")
    assert (await client.response())[0].status == 403
    client.send(b"body")
    rig.engine.on_requestheaders = None
    assert await usable(client, rig)
    await client.close()


async def test_early_reject_does_not_wait_for_ever(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "DISCARD_SECONDS", 0.3)
    rig.engine.on_requestheaders = reject
    client = await rig.client()
    client.request(rig.url(), "POST", "Content-Length: 4\r\n")
    assert (await client.response())[0].status == 403
    assert await client.rest() == b""
    assert [kind for kind, _ in rig.engine.ended] == ["response"]
    await client.close()


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
async def test_early_reject_of_a_large_file(rig: Rig, version: str, tmp_path: Path) -> None:
    upload = tmp_path / "large"
    with upload.open("wb") as file:
        file.truncate(1 << 30)
    rig.engine.on_requestheaders = reject
    result = await rig.curl(version, "-T", str(upload), rig.secure_url())
    assert result.codes == [403]
    assert result.answers[0]["error"] == "blacklisted"


@STREAMED
async def test_failed_dial_of_an_upload(rig: Rig) -> None:
    rig.engine.routes = [rig.dead()]
    client = await rig.client()
    client.request(rig.url(), "POST", "Content-Length: 4\r\n")
    client.send(b"body")
    assert reason(await client.response()) == "proxy_unreachable"
    assert await usable(client, rig)
    await client.close()


@STREAMED
async def test_stalled_upload(rig: Rig) -> None:
    client = await rig.client()
    client.request(rig.url(), "POST", "Content-Length: 4000000\r\n")
    client.send(b"a bit")
    answer = await client.response()
    assert (answer[0].status, reason(answer)) == (408, "request_timeout")
    await until(lambda: rig.proxy.open == 0, "the upstream connection is closed")
    await client.close()


@STREAMED
async def test_silence_after_an_upload(rig: Rig) -> None:
    client = await rig.client()
    client.request(rig.url("/silent"), "POST", "Content-Length: 4\r\n")
    client.send(b"body")
    assert reason(await client.response()) == "response_timeout"
    assert await usable(client, rig)
    await client.close()


async def stopped(client: Client | H2Client, size: int, send: Any) -> int:
    """Upload until the gateway takes no more. How much was it?"""
    sent = 0
    while sent < size:
        try:
            await asyncio.wait_for(send(bytes(1 << 20)), 1)
        except TimeoutError:
            return sent + (1 << 20)  # the piece is in the client's own buffer
        sent += 1 << 20
    raise AssertionError("the client was never stopped")


@pytest.mark.parametrize("rig", [{"stream_large_bodies": "1"}], indirect=True)
@pytest.mark.parametrize("waits_for", ["backend", "proxy"])
@pytest.mark.parametrize("version", ["h1", "h2"])
async def test_waiting_upload_is_not_buffered(rig: Rig, waits_for: str, version: str) -> None:
    rig.engine.connect_timeout = rig.engine.budget = rig.engine.response_timeout = 30
    go = asyncio.Event()
    if waits_for == "backend":
        decide = rig.engine.requestheaders

        async def wait_for_the_backend(flow: Any) -> None:
            await go.wait()
            await decide(flow)

        rig.engine.requestheaders = wait_for_the_backend  # type: ignore[method-assign]
    else:
        mute = await rig.failing("mute")  # it will never answer the TLS handshake
        rig.engine.routes = [layers.Route("https", *mute.address)]
    size = 64 << 20
    origin = rig.origin if version == "h1" else rig.secure_origin
    if version == "h1":
        client: Any = await rig.client()
        client.request(rig.url(), "POST", f"Content-Length: {size}\r\n")

        async def send(data: bytes) -> None:
            client.send(data)
            await client.writer.drain()
    else:
        client = await H2Client.connect(rig, rig.secure_url()[8:-1])
        stream_id = client.request(rig.secure_url(), "POST", size)

        async def send(data: bytes) -> None:
            await client.send(stream_id, data)

    sent = await stopped(client, size, send)
    assert sent < 32 << 20, "the client was stopped too late"
    if waits_for == "backend":
        go.set()
        for _ in range(sent, size, 1 << 20):
            await asyncio.wait_for(send(bytes(1 << 20)), 30)
        if version == "h1":
            assert (await client.response())[0].status == 200
        else:
            client.end(stream_id)
            stream = client.streams[stream_id]
            await until(lambda: stream.ended, "the answer", 30)
            assert stream.status == 200
        assert origin.received == size
    client.writer.transport.abort()  # what the gateway did not take is still in the buffer


# ---- clients that leave, flows that are killed


async def test_killed(rig: Rig) -> None:
    rig.engine.on_requestheaders = lambda flow: flow.kill()
    client = await rig.client()
    client.request(rig.url())
    assert await client.rest() == b""
    assert rig.proxy.accepted == 0
    assert [kind for kind, _ in rig.engine.ended] == ["error"]
    await client.close()


async def test_killed_during_failover(rig: Rig) -> None:
    async def retry(flow: Any, why: str) -> None:
        flow.kill()

    rig.engine.retry = retry  # type: ignore[method-assign]
    rig.engine.routes = [rig.dead()]
    client = await rig.client()
    client.request(rig.url())
    assert await client.rest() == b""
    assert [kind for kind, _ in rig.engine.ended] == ["error"]
    await client.close()


async def test_client_that_leaves(rig: Rig) -> None:
    client = await rig.client()
    client.request(rig.url("/silent"))
    await until(lambda: rig.origin.heads, "the request has arrived")
    await client.close()
    await until(lambda: rig.engine.ended, "the flow has ended")
    assert [kind for kind, _ in rig.engine.ended] == ["error"]
    await until(lambda: rig.proxy.open == 0, "the upstream connection is closed")


async def test_client_that_leaves_after_its_rejected_upload(rig: Rig) -> None:
    rig.engine.on_requestheaders = reject
    client = await rig.client()
    client.request(rig.url(), "POST", "Content-Length: 1000000000\r\n")
    await client.response()
    await client.close()
    handlers = rig.master.addons.get("proxyserver").connections
    await until(lambda: not handlers, "the client connection is gone")
    assert [kind for kind, _ in rig.engine.ended] == ["response"]


@pytest.mark.parametrize("stream", ["", "?stream=1"])
async def test_killed_in_responseheaders(rig: Rig, stream: str) -> None:
    """An HTTP/2 client loses this stream only, and the upstream is told."""
    rig.engine.on_responseheaders = lambda flow: (
        flow.kill() if "stall" in flow.request.path else None
    )
    result = await rig.curl("--http2", rig.secure_url(f"/stall{stream}"), rig.secure_url("/"))
    assert result.codes == [0, 200], result.err
    assert result.connects == [1, 0]
    assert [kind for kind, _ in rig.engine.ended] == ["error", "response"]
    assert [flow.live for _, flow in rig.engine.ended] == [False, False]
    await until(lambda: rig.secure_origin.open == 0, "the upstream connection is closed")
    client = await rig.client()
    client.request(rig.url(f"/stall{stream}"))
    assert await client.rest() == b""
    await until(lambda: rig.origin.open == 0, "the upstream connection is closed")
    await client.close()


async def test_killed_while_an_h2_upstream_waits(rig: Rig) -> None:
    """The client resets its stream while a hook runs: nothing of it stays."""
    rig.engine.delay = 0.5
    result = await rig.curl("--http2", "-m", "0.3", rig.secure_url("/silent"))
    assert result.returncode == 28
    await until(lambda: rig.engine.ended, "the flow has ended")
    assert [kind for kind, _ in rig.engine.ended] == ["error"]
    assert rig.proxy.accepted == 0


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
async def test_client_that_leaves_while_a_hook_waits(rig: Rig, version: str) -> None:
    """The engine hears of it at once, and may end what the hook waits for."""
    decide, gone = rig.engine.requestheaders, asyncio.Event()

    async def wait_for_a_turn(flow: Any) -> None:
        await decide(flow)
        await gone.wait()

    def leave(flow: Any) -> None:
        rig.engine.left.append(flow)
        gone.set()

    rig.engine.requestheaders = wait_for_a_turn  # type: ignore[method-assign]
    rig.engine.leave = leave  # type: ignore[method-assign]
    assert (await rig.curl(version, "-m", "1", rig.secure_url())).returncode == 28
    await until(lambda: rig.engine.ended, "the flow has ended")
    assert [kind for kind, _ in rig.engine.ended] == ["error"]
    assert rig.engine.left == [rig.engine.ended[0][1]]
    assert rig.proxy.accepted == 0
