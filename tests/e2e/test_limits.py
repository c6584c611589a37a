"""MAX_CONCURRENT_REQUESTS: who runs, who waits and in which order, who is turned away."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from wsproto.events import AcceptConnection as Accepted

from tests.e2e.conftest import Start
from tests.e2e.test_bodies import WebSocket
from tests.e2e.world import Answer
from tests.e2e.world import World
from tests.e2e.world import error_of
from tests.support.backend import wait_until
from tests.support.gateway import SCRIPT
from tests.support.proxies import ScriptedProxy

LIMIT = 2


# A script before ours: what it has printed, ours sees before anything that comes later.
NOTES = """
def requestheaders(flow):
    print("arrived", flow.request.path, flush=True)

def request(flow):
    if flow.request.path.startswith("/killed"):
        flow.kill()
"""


@pytest.fixture
def narrow(start: Start, world: World, tmp_path: Path) -> World:
    """A gateway through which two requests go at once; two more may wait, for half a minute."""
    notes = tmp_path / "notes.py"
    notes.write_text(NOTES)
    env = {"MAX_CONCURRENT_REQUESTS": str(LIMIT), "QUEUE_TIMEOUT": "30", "HTTPX_TIMEOUT": "60"}
    return replace(world, gateway=start(env=env, script=notes, options=["-s", str(SCRIPT)]))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def fill(here: World, pool: ThreadPoolExecutor, name: str) -> list[Future[Answer]]:
    """As many requests as may run, all at the origin."""
    gates = [f"{name}-{i}" for i in range(LIMIT)]
    running = [pool.submit(here.get, here.url(f"/gate/{gate}")) for gate in gates]
    for gate in gates:
        here.wait_for_arrival(gate)
    return running


@pytest.mark.smoke
def test_overflow(narrow: World, pool: ThreadPoolExecutor) -> None:
    """Two run, two wait, the rest is told to come back; those who waited go in order."""
    running = fill(narrow, pool, "full")
    waiting = []
    for i in range(LIMIT):
        waiting.append(pool.submit(narrow.get, narrow.url(f"/gate/waits-{i}")))
        narrow.gateway.wait_for_log(f"arrived /gate/waits-{i}")
    url = narrow.url()
    answer = narrow.get(url)
    assert (answer.status, error_of(answer)) == (503, "overloaded")
    assert int(answer.header("retry-after") or 0) >= 1
    narrow.record(url, 503, request_id=answer.header("x-request-id"), user_id=...)
    assert not {"waits-0", "waits-1"} & set(narrow.origin.arrivals)
    narrow.origin.open_gate("full-0")
    narrow.wait_for_arrival("waits-0")
    assert "waits-1" not in narrow.origin.arrivals
    for gate in ("full-1", "waits-0", "waits-1"):
        narrow.origin.open_gate(gate)
    assert [one.result().status for one in (*running, *waiting)] == [200] * 4
    assert narrow.get(narrow.url()).status == 200


def test_waiting_in_vain(start: Start, world: World, pool: ThreadPoolExecutor) -> None:
    """QUEUE_TIMEOUT ends it; the permits of those who gave up are not lost."""
    env = {"MAX_CONCURRENT_REQUESTS": str(LIMIT), "QUEUE_TIMEOUT": "0.5"}
    here = replace(world, gateway=start(env=env))
    running = fill(here, pool, "vain")
    waiting = [pool.submit(here.get, here.url()) for _ in range(LIMIT)]
    assert [error_of(one.result()) for one in waiting] == ["overloaded"] * LIMIT
    for i in range(LIMIT):
        here.origin.open_gate(f"vain-{i}")
    assert [one.result().status for one in running] == [200] * LIMIT
    for _ in range(3 * LIMIT):
        assert here.get(here.url()).status == 200


def test_permits_come_back(narrow: World, pool: ThreadPoolExecutor) -> None:
    """However a flow ends: answered, refused, failed, streamed, killed, as a WebSocket, reset or
    left by its client.
    """
    authorization = f"Authorization: Bearer {narrow.token}"
    for i in range(LIMIT + 1):
        with narrow.client(tls=True) as client:
            assert isinstance(
                WebSocket(narrow, client, narrow.url("/ws", tls=True)).first, Accepted
            )
        reset = narrow.url(f"/gate/reset-{i}", tls=True)
        left = narrow.curl("--http2", "-m", "1", "-H", authorization, reset)
        assert left.returncode == 28, left.stdout
        narrow.origin.open_gate(f"reset-{i}")
        killed = narrow.curl("-H", authorization, narrow.url("/killed"))
        assert killed.returncode == 52, killed.stdout
        narrow.get(narrow.url("/hangs-up", tls=True))
        narrow.get(narrow.url("/bytes/2000000"))
        narrow.get(narrow.url(), token=None)
        narrow.backend.fault("/proxy", status=404, times=1)
        narrow.get(narrow.url())
        with narrow.client() as client:
            url = narrow.url("/sse?count=1000&interval=0.05")
            headers = {"Authorization": f"Bearer {narrow.token}"}
            assert client.send("GET", url, headers).readline()
    # Those whose clients have left end a moment later.
    wait_until(
        lambda: [narrow.get(narrow.url()).status for _ in range(LIMIT)] == [200] * LIMIT,
        10,
        "all permits to be free",
    )
    running = fill(narrow, pool, "after")
    for i in range(LIMIT):
        narrow.origin.open_gate(f"after-{i}")
    assert [one.result().status for one in running] == [200] * LIMIT


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """For this process and for those that it starts."""
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    if old[1] < 4096:
        pytest.skip("needs 4,096 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(old[0], 4096), old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, old)


def test_idle_clients_cost_no_permit(
    many_descriptors: None, narrow: World, pool: ThreadPoolExecutor
) -> None:
    """A thousand: some have never said a word, some have had an answer, some have a tunnel."""
    with contextlib.ExitStack() as idle:
        for i in range(1000):
            client = idle.enter_context(narrow.client(tls=i % 50 == 1))
            if i % 50 < 2:
                url = narrow.url(tls=i % 50 == 1)
                assert client.request("GET", url, token=narrow.token).status == 200
        running = fill(narrow, pool, "beside")
        for i in range(LIMIT):
            narrow.origin.open_gate(f"beside-{i}")
        assert [one.result().status for one in running] == [200] * LIMIT


@pytest.mark.parametrize("version", ["h1", "h2"])
def test_client_that_leaves_the_queue(
    narrow: World, pool: ThreadPoolExecutor, version: str
) -> None:
    """Its place is another's at once: nothing that runs has ended yet."""
    gate = f"leaver-{version}"
    assert narrow.get(narrow.url()).status == 200  # the backend has accepted the token
    running = fill(narrow, pool, gate)
    for i in range(2 * LIMIT):  # twice as many as may wait
        url = narrow.url(f"/left-{i}-{version}", tls=version == "h2")
        authorization = f"Authorization: Bearer {narrow.token}"
        if version == "h1":
            client = narrow.client()
            host = f"127.0.0.1:{narrow.origin.http_port}"
            client.socket.sendall(
                f"GET {url} HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n\r\n".encode()
            )
            narrow.gateway.wait_for_log(f"arrived /left-{i}")
            client.close()
        else:
            done = narrow.curl("--http2", "--max-time", "1", "-H", authorization, url)
            assert done.returncode == 28, done.stdout
        narrow.record(url, 499)
    for i in range(LIMIT):
        narrow.origin.open_gate(f"{gate}-{i}")
    assert [one.result().status for one in running] == [200] * LIMIT
    assert narrow.get(narrow.url()).status == 200
    assert not narrow.origin.requests_of("/left-")


def test_one_connection_through_many_hosts(world: World) -> None:
    """mitmproxy alone allows five connections an upstream address and hangs at the sixth."""
    with ScriptedProxy(answers_for_ever) as proxy, world.client() as client:
        for i in range(8):
            world.give(proxy.port)
            url = f"http://host-{i}.test/{world.url()[-32:]}"
            assert client.request("GET", url, token=world.token).status == 200
        assert proxy.connections == 8


def answers_for_ever(proxy: ScriptedProxy, client: socket.socket) -> None:
    """Keeps its connections open."""
    while proxy.read_head(client):
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
