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
from tests.forwarding.rig import reason
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
    other = connection.Server(address=("127.0.0.1", 3129))
    guard.permit(other, ROUTE)
    assert not guard.permitted(other)
    guard.permit(proxy, ROUTE)
    assert guard.permitted(proxy)
    for name, value in (("address", ("127.0.0.1", 3129)), ("transport_protocol", "udp")):
        with pytest.raises(AttributeError):
            setattr(proxy, name, value)
    proxy.address = ROUTE.address
    assert guard.permitted(proxy)


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


class Meddler:
    """An addon that does to a connection what it must not."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.seen: list[Any] = []

    def server_connect(self, data: Any) -> None:
        self.seen.append(data.server.address)
        data.server.error = None
        data.server.address = ("127.0.0.1", self.target.port)


async def test_an_addon_that_clears_the_error(rig: Rig, target: Target) -> None:
    rig.master.addons.add(Meddler(target))
    rig.master.options.update(rawtcp=True)
    _, client = await connect(rig, target)
    await client.rest()
    assert target.accepted == 0
    await client.close()


async def test_an_addon_that_changes_the_address(rig: Rig, target: Target) -> None:
    meddler = Meddler(target)
    rig.master.addons.add(meddler)
    client = await rig.client()
    assert (await client.get(rig.url()))[0].status == 200
    assert meddler.seen == [("127.0.0.1", rig.proxy.port)]
    assert target.accepted == 0
    assert "cannot be changed" in rig.crashes.messages.pop()
    await client.close()


async def test_an_addon_that_refuses_the_proxy(rig: Rig) -> None:
    """Its word counts: it can only take away."""

    class Refuser:
        def server_connect(self, data: Any) -> None:
            data.server.error = "not today"

    rig.master.addons.add(Refuser())
    client = await rig.client()
    answer = await client.get(rig.url())
    assert reason(answer) == "proxy_unreachable"
    assert b"not today" in answer[1]
    assert rig.proxy.accepted == 0
    await client.close()
