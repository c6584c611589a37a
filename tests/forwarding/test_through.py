"""What leaves, and through whom."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from mitmproxy import connection

from mitm_forwarder import layers
from tests.forwarding.h2client import H2Client
from tests.forwarding.peers import Proxy
from tests.forwarding.rig import Rig
from tests.forwarding.rig import reason
from tests.forwarding.rig import until
from tests.forwarding.rig import usable

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


async def test_streams_of_one_client_go_their_own_ways(rig: Rig) -> None:
    """All at once on one HTTP/2 connection, each through the proxy that it was given."""
    proxies = [rig.proxy, await rig.add(Proxy())]
    client = await H2Client.connect(rig, rig.secure_url()[8:-1])

    def choose(flow: Any) -> None:
        address = (flow.request.host, flow.request.port)
        via: Any = rig.route(proxies[int(flow.request.path[-1])])
        flow.server_conn = connection.Server(address=address, via=via)

    rig.engine.on_requestheaders = choose
    streams = [client.streams[client.request(rig.secure_url(f"/{i}-{i % 2}"))] for i in range(6)]
    await until(lambda: all(stream.ended for stream in streams), "all answers")
    assert [(stream.status, bytes(stream.data)) for stream in streams] == [(200, b"ok")] * 6
    heads = rig.secure_origin.heads
    assert sorted(head.first[1] for head in heads) == [f"/{i}-{i % 2}" for i in range(6)]
    for head in heads:
        assert head.peer in proxies[int(head.first[1][-1])].opened
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
    """In its time, whatever the other deadlines are, and not while it is in use."""
    rig.engine.upstream_idle_timeout = 1.2
    rig.engine.connect_timeout = rig.engine.response_timeout = 60
    rig.engine.stream_idle_timeout = 60
    client = await rig.client()
    assert await usable(client, rig)
    started = time.monotonic()
    await until(lambda: rig.proxy.open == 0, "the idle connection is closed")
    assert 0.8 < time.monotonic() - started < 2
    client.request(rig.url("/silent"))
    await asyncio.sleep(2)
    assert rig.proxy.open == 1
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
