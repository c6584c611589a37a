"""The forwarding layer on a real mitmproxy: what leaves, through whom, and what the client gets
when it cannot.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mitm_forwarder import layers
from mitm_forwarder import streams
from mitm_forwarder.errors import make_response
from tests.layers_rig import Client
from tests.layers_rig import Head
from tests.layers_rig import Rig
from tests.layers_rig import until


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates of all rigs: making a CA takes longer than most tests."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
async def rig(directory: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A running gateway; `@pytest.mark.parametrize("rig", [{option: value}], indirect=True)`."""
    rig = Rig(directory)
    await rig.start(**getattr(request, "param", {}))
    yield rig
    await rig.close()


def reason(answer: tuple[Head, bytes]) -> str:
    """The reason code of an error answer, after a look at all that such an answer must have."""
    head, body = answer
    error = json.loads(body)
    assert head.headers["content-type"] == "application/json"
    assert head.headers["proxy-status"].startswith("mitm-forwarder; error=")
    assert head.headers["x-request-id"] == error["request_id"]
    assert error["detail"]
    code: str = error["error"]
    return code


async def usable(client: Client, rig: Rig) -> bool:
    """Does the next request on the same connection succeed?"""
    rig.engine.routes = [rig.route()]
    head, body = await client.get(rig.url())
    return (head.status, body) == (200, b"ok")


# ---- the way through


async def test_http_goes_in_absolute_form(rig: Rig) -> None:
    rig.engine.routes = [rig.route(user="u")]
    client = await rig.client()
    head, body = await client.get(rig.url("/a?b=c"))
    assert (head.status, body) == (200, b"ok")
    (at_proxy,) = rig.proxy.heads
    assert at_proxy.first == ["GET", rig.url("/a?b=c"), "HTTP/1.1"]
    assert at_proxy.headers["proxy-authorization"] == "Basic dTpzZWNyZXQ="
    (_, flow) = rig.engine.ended[0]
    assert "proxy-authorization" not in flow.request.headers
    assert flow.request.authority == ""
    assert type(flow.copy().server_conn.via) is tuple
    await client.close()


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("tls", [False, True])
async def test_https_goes_through_a_tunnel(rig: Rig, version: str, tls: bool) -> None:
    route = await rig.failing("well", tls)
    rig.engine.routes = [rig.route(rig.listeners[-1], user="u")]  # type: ignore[arg-type]
    result = await rig.curl(version, rig.secure_url())
    assert (result.codes, result.returncode) == ([200], 0), result.err
    assert result.versions == ["2" if version == "--http2" else "1.1"]
    proxy = rig.listeners[-1]
    (connect,) = proxy.heads  # type: ignore[attr-defined]
    assert connect.first[:2] == ["CONNECT", f"origin.test:{rig.secure_origin.port}"]
    assert connect.headers["proxy-authorization"] == "Basic dTpzZWNyZXQ="
    assert route.kind == ("https" if tls else "http")
    assert "proxy-authorization" not in rig.secure_origin.heads[0].headers


async def test_an_ipv6_target_gets_brackets(rig: Rig) -> None:
    rig.engine.routes = [await rig.failing("403")]
    await rig.curl("https://[::1]:8443/")
    head = rig.listeners[-1].heads[0]  # type: ignore[attr-defined]
    assert head.first[1] == "[::1]:8443"
    assert head.headers.get("host", "[::1]:8443") == "[::1]:8443"  # <= 10.3 sends none
    client = await rig.client()
    rig.engine.routes = [await rig.failing("403")]
    await client.get("http://[::1]:8080/x")
    assert rig.listeners[-1].heads[0].first[1] == "http://[::1]:8080/x"  # type: ignore[attr-defined]
    await client.close()


async def test_websocket_is_tunnelled(rig: Rig) -> None:
    client = await rig.client()
    client.request(
        rig.url("/ws"),
        headers="Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    )
    assert (await client.head()).status == 101
    assert await asyncio.wait_for(client.reader.readexactly(7), 5) == b"\x82\x05hello"
    assert [h.first[0] for h in rig.proxy.heads] == ["CONNECT"]
    await client.close()


async def test_rotation_on_one_connection(rig: Rig) -> None:
    """Equal routes share a connection; another proxy or another credential never does."""
    other = await rig.failing("well")
    client = await rig.client()
    routes = [rig.route(), other, rig.route(user="a"), rig.route(user="b"), rig.route(), other]
    for route in routes:
        rig.engine.routes = [route]
        assert (await client.get(rig.url()))[0].status == 200
    assert rig.proxy.accepted == 3
    assert rig.listeners[-1].accepted == 1
    assert [h.headers.get("proxy-authorization") for h in rig.proxy.heads] == [
        None,
        "Basic YTpzZWNyZXQ=",
        "Basic YjpzZWNyZXQ=",
        None,
    ]
    await client.close()


async def test_more_hosts_than_mitmproxy_allows_per_address(rig: Rig) -> None:
    client = await rig.client()
    for i in range(12):
        assert (await client.get(rig.url(host=f"host{i}.test")))[0].status == 200
    assert rig.proxy.open == 12
    await client.close()


async def test_idle_upstream_is_closed(rig: Rig) -> None:
    rig.engine.upstream_idle_timeout = 0.2
    rig.engine.connect_timeout = rig.engine.response_timeout = 0.3
    client = await rig.client()
    assert await usable(client, rig)
    await until(lambda: rig.proxy.open == 0, "the idle connection is closed")
    assert await usable(client, rig)
    assert rig.proxy.accepted == 2
    await client.close()


async def test_client_replay_takes_a_route(rig: Rig) -> None:
    client = await rig.client()
    await client.get(rig.url("/again"))
    await client.close()
    (_, flow) = rig.engine.ended[0]
    await until(lambda: not flow.live, "the flow is over")
    rig.master.commands.call("replay.client", [flow])
    await until(lambda: len(rig.engine.ended) == 2, "the replay is over")
    assert rig.engine.ended[1][1].response.status_code == 200
    assert [h.first[1] for h in rig.proxy.heads] == [rig.url("/again")] * 2


async def test_a_replay_needs_a_plan_of_its_own(rig: Rig) -> None:
    client = await rig.client()
    await client.get(rig.url())
    await client.close()
    (_, flow) = rig.engine.ended[0]
    await until(lambda: not flow.live, "the flow is over")
    rig.engine.plans = False
    rig.master.commands.call("replay.client", [flow])
    await until(lambda: len(rig.engine.ended) == 2, "the replay is over")
    assert json.loads(rig.engine.ended[1][1].response.text)["error"] == "not_planned"
    assert rig.proxy.accepted == 1


# ---- nothing without a plan


async def refused_without_dial(rig: Rig) -> str:
    client = await rig.client()
    answer = await client.get(rig.url())
    assert rig.proxy.accepted == 0
    assert rig.origin.accepted == 0
    rig.engine.plans, rig.engine.verdict = True, True
    layers.use(rig.engine)
    assert await usable(client, rig)
    await client.close()
    return f"{answer[0].status} {reason(answer)}"


async def test_no_plan(rig: Rig) -> None:
    rig.engine.plans = False
    assert await refused_without_dial(rig) == "502 not_planned"


async def test_a_plan_without_a_route(rig: Rig) -> None:
    rig.engine.routes = []
    assert await refused_without_dial(rig) == "502 not_planned"


async def test_a_route_that_somebody_took_away(rig: Rig) -> None:
    def take_away(flow: Any) -> None:
        flow.server_conn = type(flow.server_conn)(address=flow.server_conn.address)

    rig.engine.on_requestheaders = take_away
    client = await rig.client()
    assert reason(await client.get(rig.url())) == "not_planned"
    assert rig.origin.accepted == rig.proxy.accepted == 0
    await client.close()


async def test_no_engine(rig: Rig) -> None:
    layers.use(None)
    assert await refused_without_dial(rig) == "502 not_planned"


async def test_a_url_that_was_not_judged(rig: Rig) -> None:
    rig.engine.verdict = False
    assert await refused_without_dial(rig) == "403 blacklisted"


async def test_an_engine_that_cannot_judge(rig: Rig) -> None:
    rig.engine.verdict = ValueError("broken")
    assert await refused_without_dial(rig) == "502 internal"
    assert "broken" in rig.crashes.messages.pop()


async def test_a_target_that_is_no_host_name(rig: Rig) -> None:
    def rename(flow: Any) -> None:
        flow.request.host = "a..b"

    rig.engine.on_requestheaders = rename
    client = await rig.client()
    assert reason(await client.get(rig.url())) == "bad_request"
    rig.engine.on_requestheaders = None
    assert await usable(client, rig)
    await client.close()


# ---- failures of the upstream proxy

FAILURES = [
    ("dead", "502 proxy_unreachable"),
    ("dying", "502 proxy_refused"),
    ("403", "502 proxy_refused"),
    ("407", "502 proxy_refused"),
    ("garbage", "502 proxy_refused"),
    ("silent", "504 connect_timeout"),
]


async def bad_route(rig: Rig, mood: str) -> Any:
    return rig.dead() if mood == "dead" else await rig.failing(mood)


@pytest.mark.parametrize(("mood", "expected"), FAILURES)
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
async def test_failing_tunnel(rig: Rig, mood: str, expected: str, version: str) -> None:
    """The answer is ours, and the same client connection (inside its CONNECT) goes on."""
    rig.engine.routes = [await bad_route(rig, mood)]
    result = await rig.curl(version, rig.secure_url("/1"), rig.secure_url("/2"))
    assert result.returncode == 0, result.err
    status, code = expected.split()
    assert result.codes == [int(status)] * 2
    assert [a["error"] for a in result.answers] == [code] * 2
    assert result.connects == [1, 0]
    assert [kind for kind, _ in rig.engine.ended] == ["response"] * 2


@pytest.mark.parametrize(
    ("mood", "expected"),
    [
        ("dead", "502 proxy_unreachable"),
        ("407", "502 proxy_refused"),
        ("dying", "502 upstream_failed"),
        ("garbage", "502 upstream_failed"),
        ("silent", "504 response_timeout"),
    ],
)
async def test_failing_absolute_form(rig: Rig, mood: str, expected: str) -> None:
    rig.engine.routes = [await bad_route(rig, mood)]
    client = await rig.client()
    answer = await client.get(rig.url())
    assert f"{answer[0].status} {reason(answer)}" == expected
    assert await usable(client, rig)
    assert [kind for kind, _ in rig.engine.ended] == ["response"] * 2
    await client.close()


async def test_tls_to_a_proxy_that_has_none(rig: Rig) -> None:
    plain = rig.route()
    rig.engine.routes = [layers.Route("https", *plain.address)]
    client = await rig.client()
    answer = await client.get(rig.url())
    assert reason(answer) in ("proxy_refused", "connect_timeout")
    assert f'next-hop="127.0.0.1:{rig.proxy.port}"' in answer[0].headers["proxy-status"]
    await client.close()


async def test_a_failed_handshake_is_not_remembered(rig: Rig) -> None:
    """mitmproxy would repeat the error for as long as the client stays."""
    rig.engine.routes = [await rig.failing("dies once")]
    result = await rig.curl("--http1.1", rig.secure_url("/1"), rig.secure_url("/2"))
    assert (result.codes, result.connects) == ([502, 200], [1, 0])
    assert result.answers[0]["error"] == "proxy_refused"


async def test_the_deadline_of_the_request_bounds_the_dial(rig: Rig) -> None:
    rig.engine.connect_timeout = 60
    rig.engine.budget = 0.5
    rig.engine.routes = [await rig.failing("silent")] * 9
    started = time.monotonic()
    result = await rig.curl(rig.secure_url())
    assert result.answers[0]["error"] == "connect_timeout"
    assert time.monotonic() - started < 5
    assert rig.engine.reasons == []  # nobody is asked when the time is over
    await until(lambda: rig.listeners[-1].open == 0, "the silent connection is closed")


async def test_head_gets_no_body(rig: Rig) -> None:
    rig.engine.routes = [rig.dead()]
    client = await rig.client()
    client.request(rig.url(), "HEAD")
    head, _ = await client.response(bodyless=True)
    assert head.status == 502
    assert head.length > 0
    assert await usable(client, rig)
    await client.close()


async def test_an_answer_that_a_hook_replaces(rig: Rig) -> None:
    """The record could not be written, so the client must not get what was not recorded."""

    def replace(flow: Any) -> None:
        flow.response = make_response("not_recorded", "id")

    rig.engine.on_response = replace
    rig.engine.routes = [rig.dead()]
    client = await rig.client()
    answer = await client.get(rig.url())
    assert (answer[0].status, reason(answer)) == (503, "not_recorded")
    await client.close()


async def test_a_late_kill(rig: Rig) -> None:
    """Killed in the response hook of our own answer: the client gets nothing, once."""
    rig.engine.on_response = lambda flow: flow.kill()
    rig.engine.routes = [rig.dead()]
    client = await rig.client()
    client.request(rig.url())
    assert await client.rest() == b""
    assert [kind for kind, _ in rig.engine.ended] == ["response"]
    await client.close()


# ---- failover


async def test_failover(rig: Rig) -> None:
    rig.engine.connect_timeout = 0.3
    rig.engine.routes = [
        rig.dead(),
        await rig.failing("403"),
        await rig.failing("silent"),
        rig.route(),
    ]
    result = await rig.curl(rig.secure_url())
    assert result.codes == [200], result.err
    assert rig.engine.reasons == ["proxy_unreachable", "proxy_refused", "connect_timeout"]


async def test_failover_to_the_same_proxy_is_a_try(rig: Rig) -> None:
    rig.engine.routes = [rig.dead()] * 3
    client = await rig.client()
    assert reason(await client.get(rig.url())) == "proxy_unreachable"
    assert rig.engine.reasons == ["proxy_unreachable"] * 3
    await client.close()


async def test_failover_that_breaks(rig: Rig) -> None:
    rig.engine.failing_retry = True
    rig.engine.routes = [rig.dead(), rig.route()]
    client = await rig.client()
    assert reason(await client.get(rig.url())) == "internal"
    assert rig.proxy.accepted == 0
    assert rig.crashes.messages.pop().startswith("The engine failed to choose another route.")
    await client.close()


async def test_failover_judges_again(rig: Rig) -> None:
    async def retry(flow: Any, why: str) -> None:
        rig.engine.verdict = False
        rig.engine.route(flow)

    rig.engine.retry = retry  # type: ignore[method-assign]
    rig.engine.routes = [rig.dead(), rig.route()]
    client = await rig.client()
    assert reason(await client.get(rig.url())) == "blacklisted"
    assert rig.proxy.accepted == 0
    await client.close()


# ---- failures behind the proxy

BEHIND = [
    ("/die", "502 upstream_failed"),
    ("/half", "502 upstream_failed"),
    ("/silent", "504 response_timeout"),
    ("/stall", "504 response_timeout"),
]


@pytest.mark.parametrize(("path", "expected"), BEHIND)
async def test_dying_origin(rig: Rig, path: str, expected: str) -> None:
    client = await rig.client()
    answer = await client.get(rig.url(path))
    assert f"{answer[0].status} {reason(answer)}" == expected
    assert [kind for kind, _ in rig.engine.ended] == ["response"]
    await until(lambda: rig.proxy.open == 0, "the upstream connection is closed")
    assert await usable(client, rig)
    await client.close()


@pytest.mark.parametrize(("path", "expected"), BEHIND)
async def test_dying_origin_for_an_h2_client(rig: Rig, path: str, expected: str) -> None:
    result = await rig.curl("--http2", rig.secure_url(path), rig.secure_url("/"))
    assert (result.codes, result.returncode) == ([int(expected[:3]), 200], 0), result.err
    assert result.answers[0]["error"] == expected[4:]
    assert result.connects == [1, 0]


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
async def test_streamed_answer_that_stalls(rig: Rig, version: str) -> None:
    """The client has the head: it is told that there is no more, as its protocol can."""
    for path in ("/stall?stream=1", "/half?stream=1"):
        rig.engine.ended.clear()
        result = await rig.curl(version, rig.secure_url(path))
        assert result.codes == [200]
        assert result.returncode in (18, 56, 92), result.err
        await until(lambda: rig.engine.ended, "the flow has ended")
        assert [kind for kind, _ in rig.engine.ended] == ["error"]
        await until(lambda: rig.secure_origin.open == 0, "the upstream connection is closed")


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


@pytest.mark.parametrize("rig", [{"stream_large_bodies": "1"}], indirect=True)
@pytest.mark.parametrize("waits_for", ["backend", "proxy"])
async def test_waiting_upload_is_not_buffered(rig: Rig, waits_for: str) -> None:
    rig.engine.connect_timeout = rig.engine.budget = 30
    if waits_for == "backend":
        rig.engine.delay = 2.0
    else:
        mute = await rig.failing("mute")  # it will never answer the TLS handshake
        rig.engine.routes = [layers.Route("https", *mute.address)]
    size = 64 << 20
    client = await rig.client()
    client.request(rig.url(), "POST", f"Content-Length: {size}\r\n")
    sent = 0
    while sent < size:
        client.send(bytes(1 << 20))
        sent += 1 << 20
        try:
            await asyncio.wait_for(client.writer.drain(), 1)
        except TimeoutError:
            break
    assert sent < 32 << 20, "the client was never stopped"
    if waits_for == "backend":
        while sent < size:
            client.send(bytes(1 << 20))
            await asyncio.wait_for(client.writer.drain(), 10)
            sent += 1 << 20
        assert (await client.response())[0].status == 200
        assert rig.origin.received == size
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
