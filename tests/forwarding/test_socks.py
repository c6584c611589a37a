"""Requests through SOCKS proxies of every version."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from mitm_forwarder import socks
from mitm_forwarder.routes import Route
from tests.forwarding.rig import Rig
from tests.forwarding.rig import reason
from tests.forwarding.rig import until
from tests.forwarding.rig import usable
from tests.forwarding.socks import SocksProxy

KINDS = ["socks4", "socks4a", "socks5", "socks5h"]


async def socks_route(rig: Rig, kind: str, mood: str = "well", user: str | None = None) -> Route:
    proxy = await rig.add(SocksProxy(mood))
    password = "secret" if user and kind.startswith("socks5") else None
    return Route(kind, "127.0.0.1", proxy.port, user, password, 7)


def proxy_of(rig: Rig) -> SocksProxy:
    proxy = rig.listeners[-1]
    assert isinstance(proxy, SocksProxy)
    return proxy


def host_of(kind: str) -> str:
    """A name that everybody can resolve, for the kind that cannot leave it to the proxy."""
    return "localhost" if kind == "socks4" else "origin.test"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mood", ["well", "in pieces"])
async def test_http(rig: Rig, kind: str, mood: str) -> None:
    rig.engine.routes = [await socks_route(rig, kind, mood)]
    client = await rig.client()
    for _ in range(2):
        head, body = await client.get(rig.url("/a?b", host_of(kind)))
        assert (head.status, body) == (200, b"ok")
    assert [h.first[1] for h in rig.origin.heads] == ["/a?b"] * 2
    host = "127.0.0.1" if kind == "socks4" else "origin.test"
    assert proxy_of(rig).targets == [(host, rig.origin.port)]  # one tunnel for both
    await client.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
async def test_https(rig: Rig, kind: str, version: str) -> None:
    rig.engine.routes = [await socks_route(rig, kind)]
    url = rig.secure_url().replace("origin.test", host_of(kind))
    result = await rig.curl(version, url)
    assert result.codes == [200], result.err
    assert proxy_of(rig).targets[0][1] == rig.secure_origin.port


@pytest.mark.parametrize("kind", KINDS)
async def test_websocket(rig: Rig, kind: str) -> None:
    rig.engine.routes = [await socks_route(rig, kind)]
    client = await rig.client()
    client.request(
        rig.url("/ws", host_of(kind)),
        headers="Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    )
    assert (await client.head()).status == 101
    assert await asyncio.wait_for(client.reader.readexactly(7), 5) == b"\x82\x05hello"
    await client.close()


@pytest.mark.parametrize(
    ("kind", "user", "expected"),
    [("socks4", "me", "me"), ("socks4a", "me", "me"), ("socks5", "me", "me:secret")],
)
async def test_credentials(rig: Rig, kind: str, user: str, expected: str) -> None:
    mood = "wants password" if kind == "socks5" else "well"
    rig.engine.routes = [await socks_route(rig, kind, mood, user)]
    client = await rig.client()
    assert (await client.get(rig.url("/", host_of(kind))))[0].status == 200
    assert proxy_of(rig).users == [expected]
    await client.close()


async def test_credentials_are_offered_but_not_forced(rig: Rig) -> None:
    rig.engine.routes = [await socks_route(rig, "socks5", user="me"), rig.route()]
    client = await rig.client()
    assert (await client.get(rig.url()))[0].status == 200
    assert proxy_of(rig).offers == [b"\x02\x00"]
    await client.close()


async def test_no_user_gets_the_tunnel_of_another(rig: Rig) -> None:
    first = await socks_route(rig, "socks5", "wants password", "one")
    second = Route("socks5", *first.address, "two", "secret", 7)
    third = Route("socks5", *first.address, "two", "other", 7)
    client = await rig.client()
    for route in (first, second, third, first, second, third):
        rig.engine.routes = [route]
        assert (await client.get(rig.url()))[0].status == 200
    assert proxy_of(rig).users == ["one:secret", "two:secret", "two:other"]
    await client.close()


@pytest.mark.parametrize("kind", ["socks5", "socks5h"])
async def test_addresses_go_as_addresses(rig: Rig, kind: str) -> None:
    rig.engine.routes = [await socks_route(rig, kind)]
    client = await rig.client()
    for host, expected in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")):
        assert (await client.get(rig.url("/", host)))[0].status == 200
        assert proxy_of(rig).targets[-1] == (expected, rig.origin.port)
    await client.close()


@pytest.mark.parametrize("kind", ["socks4", "socks4a"])
async def test_an_ipv6_target_needs_version_5(rig: Rig, kind: str) -> None:
    rig.engine.routes = [await socks_route(rig, kind)]
    client = await rig.client()
    answer = await client.get(rig.url("/", "[::1]"))
    assert (answer[0].status, reason(answer)) == (502, "proxy_refused")
    assert "IPv6" in answer[1].decode()
    await until(lambda: proxy_of(rig).open == 0, "the connection is closed")
    assert await usable(client, rig)
    await client.close()


async def test_a_name_without_an_address(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    rig.engine.routes = [await socks_route(rig, "socks4")]
    client = await rig.client()
    answer = await client.get(rig.url("/", "nowhere.test"))
    assert "no IPv4 address" in answer[1].decode()
    assert proxy_of(rig).targets == []
    await client.close()


async def test_resolve() -> None:
    for host, address in (("127.0.0.1", "127.0.0.1"), ("a..b", None), ("x" * 64, None)):
        resolution = socks.Resolution(host)
        await socks.resolve(resolution)
        assert resolution.address == address


FAILURES = [
    ("socks4", "refuses", "proxy_refused", "code 91"),
    ("socks4a", "garbage", "proxy_refused", "does not speak SOCKS4"),
    ("socks4a", "dying", "proxy_refused", "closed"),
    ("socks4a", "mute", "connect_timeout", "in time"),
    ("socks5", "refuses", "proxy_refused", "connection refused by the target"),
    ("socks5", "garbage", "proxy_refused", "does not speak SOCKS5"),
    ("socks5", "dying", "proxy_refused", "closed"),
    ("socks5", "mute", "connect_timeout", "in time"),
    ("socks5", "wants password", "proxy_refused", "wants credentials"),
    ("socks5h", "strange reply", "proxy_refused", "cannot be read"),
]


@pytest.mark.parametrize(("kind", "mood", "expected", "text"), FAILURES)
@pytest.mark.parametrize("tls", [False, True])
async def test_failures(
    rig: Rig, kind: str, mood: str, expected: str, text: str, tls: bool
) -> None:
    """Our answer, and the client's connection goes on; then with somebody to fail over to."""
    bad = await socks_route(rig, kind, mood)
    url = (rig.secure_url() if tls else rig.url()).replace("origin.test", host_of(kind))
    rig.engine.routes = [bad]
    result = await rig.curl("--http1.1", url, url)
    assert result.connects == [1, 0], result.err
    for answer in result.answers:
        assert answer["error"] == expected
        assert text in answer["detail"]
    assert result.codes == [504 if expected == "connect_timeout" else 502] * 2
    rig.engine.routes = [bad, rig.route()]
    result = await rig.curl("--http1.1", url)
    assert result.codes == [200]
    assert rig.engine.reasons[-1] == expected


async def test_wrong_password(rig: Rig) -> None:
    rig.engine.routes = [await socks_route(rig, "socks5", "wrong password", "me")]
    client = await rig.client()
    answer = await client.get(rig.url())
    assert reason(answer) == "proxy_refused"
    assert "refused its credentials" in answer[1].decode()
    assert "secret" not in answer[1].decode()
    await client.close()
