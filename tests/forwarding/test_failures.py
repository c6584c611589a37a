"""What the client gets when the upstream proxy, or what lies behind it, fails."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mitm_forwarder import layers
from mitm_forwarder.errors import make_response
from tests.forwarding.rig import Rig
from tests.forwarding.rig import reason
from tests.forwarding.rig import until
from tests.forwarding.rig import usable

# ---- failures of the upstream proxy

FAILURES = [
    ("dead", "502 proxy_unreachable"),
    ("dying", "502 proxy_refused"),
    ("403", "502 proxy_refused"),
    ("407", "502 proxy_refused"),
    ("garbage", "502 proxy_refused"),
    ("endless", "502 proxy_refused"),
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
    assert result.answers[0]["error"] == "target_tls_failed"


async def test_the_deadline_of_the_request_bounds_the_dial(rig: Rig) -> None:
    rig.engine.connect_timeout = 60
    rig.engine.budget = 0.5
    rig.engine.routes = [await rig.failing("silent")] * 9
    started = time.monotonic()
    result = await rig.curl(rig.secure_url())
    assert result.answers[0]["error"] == "connect_timeout"
    assert time.monotonic() - started < 5
    # Told once, so that nobody gets this route from a lease, and chooses none when time is over.
    assert rig.engine.reasons == ["connect_timeout"]
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


# ---- connections that die when they are used again


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_reused_connection_that_dies(rig: Rig, method: str) -> None:
    """As if the target had closed it at the very moment: sent again, once, to the same proxy."""
    client = await rig.client()
    assert await usable(client, rig)
    client.request(rig.url("/once"), method)
    head, _ = await client.response(bodyless=method == "HEAD")
    assert head.status == 200
    assert [h.first[:2] for h in rig.origin.heads[1:]] == [[method, "/once"]] * 2
    assert rig.proxy.accepted == 2
    assert rig.engine.reasons == []
    assert len(rig.engine.ended) == 2
    await client.close()


async def test_it_is_sent_again_only_once(rig: Rig) -> None:
    client = await rig.client()
    assert await usable(client, rig)
    assert reason(await client.get(rig.url("/die"))) == "upstream_failed"
    assert len(rig.origin.heads) == 3
    await client.close()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/once", ""), ("PUT", "/once", "body"), ("GET", "/once-half", "")],
)
async def test_what_is_not_sent_again(rig: Rig, method: str, path: str, body: str) -> None:
    """Not idempotent, with a body, or after a byte of the answer."""
    client = await rig.client()
    assert await usable(client, rig)
    client.request(rig.url(path), method, f"Content-Length: {len(body)}\r\n" if body else "")
    client.send(body.encode())
    assert reason(await client.response()) == "upstream_failed"
    assert len(rig.origin.heads) == 2
    await client.close()


async def test_a_fresh_connection_that_dies(rig: Rig) -> None:
    client = await rig.client()
    assert reason(await client.get(rig.url("/die"))) == "upstream_failed"
    assert len(rig.origin.heads) == 1
    await client.close()
