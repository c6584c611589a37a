"""`mitm-forwarder run --workers 2`: one port, two processes, none of whose ends is felt outside."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import World
from tests.support.backend import Backend
from tests.support.backend import wait_until
from tests.support.engine import SYSTEM_TOKEN
from tests.support.engine import USER_TOKEN
from tests.support.faulty import Exchange
from tests.support.faulty import FaultyBackend
from tests.support.gateway import Gateway

TIMEOUT = 40.0


class Workers(Gateway):
    """The same gateway, by the launcher and in two processes."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        own = self._command[self._command.index("-p") :]
        self._command = [sys.executable, "-m", "mitm_forwarder", "run", "--workers", "2", "--"]
        self._command += own

    def children(self) -> list[int]:
        pid = self.pid
        path = Path(f"/proc/{pid}/task/{pid}/children")
        return [int(x) for x in path.read_text().split()] if path.exists() else []

    def two_ready(self, times: int = 1) -> None:
        """Both have their rules, `times` times over since the start."""
        self.wait_for_log(rf"(?s)(Refreshed blacklist cache.*?){{{2 * times}}}")


@pytest.fixture
def workers(parts: tuple[Backend, Any, Any], confdir: Path, tmp_path: Path) -> Iterator[Workers]:
    backend, origin, _ = parts
    trust = f"ssl_verify_upstream_trusted_ca={origin.ca_file}"
    with Workers(
        tmp_path / "workers",
        backend.url,
        backend.system_token,
        confdir=confdir,
        options=["--set", trust],
        env={"BLACKLIST_REFRESH_SECONDS": "60", "SHUTDOWN_TIMEOUT": str(TIMEOUT)},
    ) as gateway:
        gateway.two_ready()
        yield gateway


@pytest.fixture
def here(world: World, workers: Workers) -> World:
    return replace(world, gateway=workers)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def get_until(here: World, what: Callable[[], bool], description: str) -> int:
    """New connections without a pause until something is true; each must be answered 200."""
    count = 0

    def ask() -> bool:
        nonlocal count
        assert here.get(here.url()).status == 200
        count += 1
        return what()

    wait_until(ask, TIMEOUT, description)
    return count


@pytest.mark.smoke
def test_both_serve_and_end(workers: Workers, here: World) -> None:
    """Requests are answered and recorded, each worker has its spool, SIGTERM ends them all."""
    children = workers.children()
    assert len(children) == 2
    urls = [here.url() for _ in range(20)]
    for url in urls:
        assert here.get(url).status == 200
    for url in urls:
        here.record(url, 200, proxy_id=here.proxy_id)
    assert len([p for p in (workers.state_dir / "spool").iterdir() if p.is_dir()]) == 2
    assert workers.stop() == 0
    assert not any(map(alive, children))


def test_dead_worker_is_replaced(workers: Workers, here: World) -> None:
    doomed, other = workers.children()
    os.kill(doomed, signal.SIGKILL)

    def replaced() -> bool:
        children = workers.children()
        return len(children) == 2 and doomed not in children

    # A connection that the dead one had accepted is lost with it; none is open here.
    get_until(here, replaced, "another worker")
    assert other in workers.children()
    workers.wait_for_log(f"worker {doomed} ended with status -9")


def test_rolling_restart(workers: Workers, here: World) -> None:
    """SIGHUP: both processes are new, and every new connection was served meanwhile."""
    old = workers.children()
    os.kill(workers.pid, signal.SIGHUP)

    def renewed() -> bool:
        children = workers.children()
        return len(children) == 2 and not set(children) & set(old)

    assert get_until(here, renewed, "two new workers") > 2
    assert here.get(here.url()).status == 200


def test_retired_worker_serves_who_has_connected(workers: Workers, here: World) -> None:
    """A client that had connected before, and asks later, is answered, and told to come anew."""
    address = ("127.0.0.1", workers.port)
    clients = [socket.create_connection(address, TIMEOUT) for _ in range(8)]
    old = workers.children()
    os.kill(workers.pid, signal.SIGHUP)
    workers.wait_for_log(r"(?s)(Another worker has taken over.*?){2}")
    for client in clients:
        with client:
            url = here.url()
            client.sendall(
                f"GET {url} HTTP/1.1\r\nHost: {url.split('/')[2]}\r\n"
                f"Proxy-Authorization: Bearer {here.token}\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda client=client: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ") and b"Connection: close\r\n" in answer
    wait_until(lambda: not any(map(alive, old)), TIMEOUT, "the end of the old workers")


def ask(workers: Workers) -> bytes:
    """All that comes back for one request, until the gateway closes."""
    request = (
        "GET http://target.test/ HTTP/1.1\r\nHost: target.test\r\n"
        f"Proxy-Authorization: Bearer {USER_TOKEN}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", workers.port), TIMEOUT) as client:
        client.sendall(request.encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_retired_worker_waits_for_the_backend(confdir: Path, tmp_path: Path) -> None:
    """Requests that are with the backend when their worker is replaced get their answers."""
    answer_now = threading.Event()

    async def wait(exchange: Exchange) -> None:
        while not answer_now.is_set():
            await asyncio.sleep(0.02)
        await exchange.backend.respond(exchange)

    with (
        FaultyBackend() as backend,
        FaultyBackend() as upstream,
        Workers(
            tmp_path / "workers",
            backend.url,
            SYSTEM_TOKEN,
            confdir=confdir,
            env={"HTTPX_TIMEOUT": str(TIMEOUT), "SHUTDOWN_TIMEOUT": str(TIMEOUT)},
        ) as workers,
        ThreadPoolExecutor(8) as pool,
    ):
        backend.proxy |= {"port": upstream.port, "address": f"127.0.0.1:{upstream.port}"}
        backend.spoil("/proxy", wait)
        workers.two_ready()
        answers = [pool.submit(ask, workers) for _ in range(8)]
        wait_until(lambda: len(backend.calls("/proxy")) == 8, TIMEOUT, "the calls")
        old = workers.children()
        os.kill(workers.pid, signal.SIGHUP)
        workers.wait_for_log(r"(?s)(Another worker has taken over.*?){2}")
        assert all(map(alive, old)) and not any(answer.done() for answer in answers)
        answer_now.set()
        for answer in answers:
            got = answer.result(TIMEOUT)
            assert got.startswith(b"HTTP/1.1 200 ") and b"Connection: close\r\n" in got
        wait_until(lambda: not any(map(alive, old)), TIMEOUT, "the end of the old workers")
        wait_until(lambda: backend.stored() == 8, TIMEOUT, "the records")


def test_supervisor_dies(workers: Workers) -> None:
    """Without it nobody would look after them: the workers end, and free the port."""
    children = workers.children()
    workers.kill()
    wait_until(lambda: not any(map(alive, children)), TIMEOUT, "the end of the workers")


def test_bad_configuration(parts: tuple[Backend, Any, Any], confdir: Path, tmp_path: Path) -> None:
    """One line a worker, a non-zero exit, and no worker is started over and over."""
    backend = parts[0]
    with Workers(
        tmp_path,
        backend.url,
        backend.system_token,
        confdir=confdir,
        env={"QUEUE_TIMEOUT": "never"},
        wait=False,
    ) as gateway:
        assert gateway.wait(TIMEOUT) == 2
        assert 1 <= gateway.log().count("QUEUE_TIMEOUT='never'") <= 2
