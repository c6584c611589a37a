"""The guard: whatever mitmproxy wants to open without our layers is never dialled."""

from __future__ import annotations

import asyncio
import importlib
import weakref
from typing import Any

import pytest
from mitmproxy import connection
from mitmproxy.proxy import server

from mitm_forwarder import guard
from mitm_forwarder.routes import Route
from tests.forwarding.peers import Listener
from tests.forwarding.rig import Client
from tests.forwarding.rig import Rig
from tests.forwarding.rig import until

ROUTE = Route("http", "127.0.0.1", 3128)


class Target(Listener):
    """Somebody who must never be called."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()


@pytest.fixture
async def target(rig: Rig) -> Target:
    found: Target = await rig.add(Target())
    return found


def test_only_the_address_of_the_route_is_permitted() -> None:
    proxy = connection.Server(address=ROUTE.address)
    assert not guard.permitted(proxy)
    guard.permit(proxy, ROUTE)
    assert guard.permitted(proxy)
    proxy.address = ("127.0.0.1", 3129)
    assert not guard.permitted(proxy)
    proxy.address, proxy.transport_protocol = ROUTE.address, "udp"
    assert not guard.permitted(proxy)


def test_a_permission_ends_with_its_server() -> None:
    proxy = connection.Server(address=ROUTE.address)
    guard.permit(proxy, ROUTE)
    gone, before = weakref.ref(proxy), len(guard.KNOWN)
    del proxy
    assert gone() is None
    assert len(guard.KNOWN) == before - 1


def test_it_is_installed_once_and_for_good() -> None:
    installed = server.ConnectionHandler.open_connection
    assert hasattr(installed, "guarded")
    importlib.reload(guard)
    assert server.ConnectionHandler.open_connection is installed


async def connect(rig: Rig, target: Target) -> tuple[int, Client]:
    """A CONNECT to the target and some bytes of no protocol."""
    client = await rig.client()
    address = f"127.0.0.1:{target.port}"
    client.send(f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
    status = (await client.head()).status
    client.send(b"\x00\x01\x02\x03 no protocol at all\r\n\r\n")
    return status, client


@pytest.mark.parametrize(
    "rig",
    [
        {"rawtcp": True},
        {"tcp_hosts": [".*"]},
        {"ignore_hosts": [".*"]},
        {"connection_strategy": "eager"},
        {"connection_strategy": "eager", "rawtcp": True, "upstream_cert": True},
    ],
    indirect=True,
)
async def test_what_is_not_http(rig: Rig, target: Target) -> None:
    _, client = await connect(rig, target)
    await client.rest()
    assert target.accepted == 0
    await client.close()


@pytest.mark.parametrize(
    "lost",
    [["next_layer"], ["requestheaders"], ["next_layer", "requestheaders", "forwarder_failover"]],
)
async def test_hooks_that_never_run(rig: Rig, lost: list[str]) -> None:
    """An earlier script that raises takes our hook away; so does a reload that fails."""
    for name in lost:
        setattr(rig.engine, name, lambda *_: None)
    client = await rig.client()
    client.request(rig.url())
    assert (await client.head()).status == 502
    assert rig.origin.accepted == rig.proxy.accepted == 0
    await client.close()


async def test_our_layer_is_missing_but_the_route_is_there(rig: Rig) -> None:
    """A stock layer would dial the chosen proxy, with CONNECT to port 80 and nobody's deadline."""
    rig.engine.next_layer = lambda *_: None  # type: ignore[method-assign]
    result = await rig.curl(rig.secure_url())
    assert result.returncode != 0 or result.codes == [502]
    assert rig.proxy.accepted == 0


async def test_an_addon_that_is_gone(rig: Rig) -> None:
    rig.master.addons.remove(rig.engine)
    client = await rig.client()
    client.request(rig.url())
    assert (await client.head()).status == 502
    assert rig.origin.accepted == rig.proxy.accepted == 0
    await client.close()


async def test_a_replay_by_mitmproxy_alone(rig: Rig) -> None:
    client = await rig.client()
    await client.get(rig.url())
    await client.close()
    (_, flow) = rig.engine.ended[0]
    await until(lambda: not flow.live, "the flow is over")
    flow.server_conn = connection.Server(address=("127.0.0.1", rig.origin.port))
    flow.request.host, flow.request.port = "127.0.0.1", rig.origin.port
    rig.engine.done()
    rig.engine.plans = False
    before = rig.origin.accepted
    rig.master.commands.call("replay.client", [flow])
    await until(lambda: len(rig.engine.ended) == 2, "the replay is over")
    assert rig.engine.ended[1][0] == "error"
    assert rig.origin.accepted == before


async def test_the_reason_is_said_to_hooks(rig: Rig, target: Target) -> None:
    """Hooks see the refusal, and what they do to it does not matter for an unregistered Server."""
    seen: list[Any] = []

    class Watcher:
        def server_connect(self, data: Any) -> None:
            seen.append(data.server.error)

    rig.master.addons.add(Watcher())
    rig.master.options.update(rawtcp=True)
    _, client = await connect(rig, target)
    await client.rest()
    assert seen == [guard.REFUSED]
    assert target.accepted == 0
    await client.close()
