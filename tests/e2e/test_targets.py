"""Addresses that are never a target, and the variables that add to them or allow them."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import Start
from tests.e2e.world import Answer
from tests.e2e.world import World
from tests.e2e.world import error_of
from tests.support.gateway import Gateway
from tests.support.gateway import GatewayError

Around = Callable[[Gateway], World]


def get(world: World, url: str) -> Answer:
    parts = urlsplit(url)
    assert parts.hostname
    if parts.scheme == "http":
        return world.get(url)
    with world.tunnel(parts.hostname, parts.port or 443) as client:
        return client.request("GET", url, token=world.token)


@pytest.mark.smoke
def test_gateway_and_backend(world: World) -> None:
    assert world.get(world.url()).status == 200  # the backend has accepted the token
    backend = urlsplit(world.backend.url).port
    for port in (world.gateway.port, backend):
        for host in ("127.0.0.1", "localhost", "127.1", "2130706433"):
            url = f"http://{host}:{port}/{world.url()[-32:]}"
            assert error_of(world.get(url)) == "target_denied"
            assert world.proxy_calls(url) == 0
        url = f"https://localhost:{port}/{world.url()[-32:]}"
        answer = get(world, url)
        assert (answer.status, error_of(answer)) == (403, "target_denied")
        world.record(url, 403)


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "0xa9fea9fe", "[fe80::1]", "[::ffff:169.254.169.254]",
     "metadata.google.internal", "[64:ff9b::a9fe:a9fe]", "0.0.0.0"],
)  # fmt: skip
def test_metadata(world: World, host: str) -> None:
    for url in (f"http://{host}/latest/meta-data/", f"http://{host}:8080/"):
        assert error_of(world.get(url)) == "target_denied"


def test_what_users_deny_and_allow(start: Start, around: Around, world: World) -> None:
    deny = {"DENY_PRIVATE_TARGETS": "true"}
    here = around(start(env=deny))
    for host in ("127.0.0.1", "localhost"):
        assert error_of(here.get(here.url(host=host))) == "target_denied"
    allow = {"ALLOW_TARGETS": f"127.0.0.1:{world.origin.http_port}"}
    there = around(start(env=deny | allow))
    assert there.get(there.url()).status == 200
    assert error_of(there.get(there.url(host="localhost"))) == "target_denied"
    assert error_of(get(there, there.url(tls=True))) == "target_denied"
    literals = around(start(env={"DENY_IP_LITERALS": "true"}))
    assert error_of(literals.get(literals.url())) == "target_denied"
    assert literals.get(literals.url(host="localhost")).status == 200


def test_a_bad_variable(start: Start) -> None:
    """One line, and an end."""
    with pytest.raises(GatewayError, match="ALLOW_TARGETS='http://a'"):
        start(env={"ALLOW_TARGETS": "http://a"})
