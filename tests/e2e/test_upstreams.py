"""Real upstream proxies with a configuration like that of their packages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.world import World
from tests.support.proxies import ExampleProxy
from tests.support.proxies import Squid
from tests.support.proxies import Tap
from tests.support.proxies import Tinyproxy

HTTP_AND_HTTPS = pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])


@pytest.fixture(scope="module", params=[Squid, Tinyproxy], ids=lambda kind: kind.name)
def program(request: pytest.FixtureRequest, session_world: World) -> Iterator[Any]:
    """The proxy, running."""
    kind = request.param
    if kind.path() is None:
        pytest.skip(f"{kind.name} is not installed (make test does so)")
    with kind(session_world.origin.https_port) as proxy:
        session_world.openers.append(proxy)
        yield proxy


@HTTP_AND_HTTPS
def test_request(world: World, program: Any, tls: bool) -> None:
    proxy_id = world.give(program.port)
    with world.client(tls=tls) as client:
        for _ in range(3):
            url = world.url(tls=tls)
            answer = client.request("GET", url, token=world.token)
            assert answer.status == 200
            seen = {name.lower(): value for name, value in answer.json()["headers"]}
            assert not seen.keys() & {"authorization", "proxy-authorization"}
            # Plain requests were passed on by the proxy, which says so; tunnels were not looked at.
            assert ("via" in seen) == (not tls)
            world.record(url, 200, proxy_id=proxy_id)


@HTTP_AND_HTTPS
def test_large_bodies(world: World, program: Any, tls: bool) -> None:
    world.give(program.port)
    body = os.urandom(2 << 20)
    with world.client(tls=tls) as client:
        answer = client.request("POST", world.url(tls=tls), token=world.token, body=body)
        assert answer.json()["body_sha256"] == hashlib.sha256(body).hexdigest()
        answer = client.request("GET", world.url("/bytes/3000000", tls=tls), token=world.token)
        assert len(answer.body) == 3_000_000


def test_refused_port(world: World, program: Any) -> None:
    """CONNECT to a port that such a proxy does not allow."""
    proxy_id = world.give(program.port)
    url = f"https://127.0.0.1:{world.origin.http_port}/{world.url()[-32:]}"
    with world.tunnel("127.0.0.1", world.origin.http_port) as client:
        answer = client.request("GET", url, token=world.token)
    assert answer.status == 502
    assert answer.json()["error"] == "proxy_refused"
    world.record(url, 502, proxy_id=proxy_id)


@HTTP_AND_HTTPS
@pytest.mark.parametrize("named", ["address", "ip"])
def test_proxy_by_ipv6_address(world: World, tls: bool, named: str) -> None:
    with ExampleProxy() as proxy, Tap(proxy.port, "::1") as tap:
        world.openers.append(proxy)
        address = f"[::1]:{tap.port}" if named == "address" else None
        proxy_id = world.give(tap.port, ip="::1", address=address)
        url = world.url(tls=tls)
        assert world.get(url).status == 200
        world.record(url, 200, proxy_id=proxy_id)
        assert tap.connections == 1
