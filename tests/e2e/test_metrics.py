"""The metrics page of a real gateway: it moves, it is guarded, it is no target, it harms nobody."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.e2e.test_workers import Workers
from tests.e2e.world import World
from tests.e2e.world import error_of
from tests.support import exposition
from tests.support.backend import ROOT
from tests.support.backend import Backend
from tests.support.backend import wait_until
from tests.support.gateway import Gateway
from tests.support.proxies import reserved_port

P = "mitm_forwarder_"
SERVED = re.compile(r"Metrics are served at http://127\.0\.0\.1:(\d+)/metrics")
ANY_PORT = {"METRICS_LISTEN": "127.0.0.1:0"}
TIMEOUT = 20.0


def port_of(gateway: Gateway, after: int = 0) -> int:
    return int(gateway.wait_for_log(SERVED, after=after)[1])


def wait_for(port: int, name: str, value: float, token: str | None = None) -> exposition.Page:
    """The page as soon as this is on it."""

    def there() -> exposition.Page | None:
        page = exposition.scrape(port, token)
        return page if page.samples.get(name) == value else None

    return wait_until(there, TIMEOUT, f"{name} {value}")


@pytest.mark.smoke
def test_requests_move_the_counters(start: Start, world: World) -> None:
    """And no token is on the page."""
    gateway = start(env=ANY_PORT)
    here = replace(world, gateway=gateway)
    port = port_of(gateway)
    before = exposition.scrape(port)
    assert before[f"{P}requests_total"] == 0
    assert f"{P}rule_hits_total" not in before.types
    for tls in (False, True):
        assert here.get(here.url(tls=tls)).status == 200
    with here.rule("/counted-rule") as rule:
        assert error_of(here.get(here.url("/counted-rule"))) == "blacklisted"
        assert error_of(here.get(here.url(), token=None)) == "no_token"
        page = wait_for(port, f"{P}records_delivered_total", 4)
        assert page[f"{P}rule_hits_total", str(rule)] >= 1
    assert page[f"{P}requests_total"] == 4
    assert page[f"{P}routed_total"] == 2
    assert page[f"{P}blocked_total"] == 1
    assert page[f"{P}unauthorized_total"] == 1
    assert page[f"{P}requests_running"] == 0
    assert page[f"{P}rules"] == before[f"{P}rules"] + 1
    body = exposition.fetch(port)[1].decode()
    for secret in (here.token, here.token.split(".")[2], here.backend.system_token):
        assert secret not in body and secret not in gateway.log()


def test_running_requests_and_waiting_records(start: Start, world: World) -> None:
    gateway = start(env=ANY_PORT)
    here = replace(world, gateway=gateway)
    port = port_of(gateway)
    here.backend.fault("/activity", status=503)
    url = here.url()
    assert here.get(url).status == 200
    page = wait_for(port, f"{P}spool_records", 1)
    assert page[f"{P}spool_bytes"] > 0
    age = f"{P}spool_oldest_record_age_seconds"
    wait_until(lambda: exposition.scrape(port)[age] > 0.5, TIMEOUT, "an older record")
    here.backend.clear_faults()
    page = wait_for(port, f"{P}spool_records", 0)
    here.record(url, 200, proxy_id=here.proxy_id)
    wait_for(port, age, 0)


def test_token_is_required_and_rotates(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "metrics-token"
    file.write_text("first-metrics-canary\n")
    gateway = start(env={**ANY_PORT, "METRICS_TOKEN_FILE": str(file)})
    port = port_of(gateway)
    for wrong in (None, "second-metrics-canary"):
        status, body = exposition.fetch(port, wrong)
        assert status == 401 and P.encode() not in body
    assert exposition.scrape(port, "first-metrics-canary")[f"{P}workers"] == 1
    file.write_text("second-metrics-canary\n")
    wait_until(
        lambda: exposition.fetch(port, "second-metrics-canary")[0] == 200, TIMEOUT, "the new token"
    )
    assert exposition.fetch(port, "first-metrics-canary")[0] == 401
    gateway.stop()
    assert "metrics-canary" not in gateway.log()


@pytest.mark.parametrize("way", ["http", "connect"])
def test_page_is_no_target(start: Start, world: World, way: str) -> None:
    gateway = start(env=ANY_PORT)
    here = replace(world, gateway=gateway)
    port = port_of(gateway)
    if way == "http":
        answer = here.get(f"http://127.0.0.1:{port}/metrics")
    else:
        with here.tunnel("localhost", port) as client:
            answer = client.request("GET", f"https://localhost:{port}/metrics", token=here.token)
    assert (answer.status, error_of(answer)) == (403, "target_denied")


def test_port_that_is_taken(start: Start, world: World) -> None:
    """One line, and everything else works."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        gateway = start(env={"METRICS_LISTEN": f"127.0.0.1:{taken}"})
        gateway.wait_for_log(rf"METRICS_LISTEN=127\.0\.0\.1:{taken} cannot be had")
        here = replace(world, gateway=gateway)
        assert here.get(here.url()).status == 200
        assert gateway.stop() == 0
    assert gateway.log().count("Metrics are not served") == 1


def test_off(start: Start) -> None:
    gateway = start(env={"METRICS_LISTEN": ""})
    assert gateway.stop() == 0
    assert "Metrics" not in gateway.log()


def test_silent_clients_harm_nobody(start: Start, world: World) -> None:
    gateway = start(env=ANY_PORT)
    here = replace(world, gateway=gateway)
    port = port_of(gateway)
    silent = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(40)]
    try:
        assert here.get(here.url()).status == 200
        assert exposition.scrape(port)[f"{P}requests_total"] == 1
    finally:
        for sock in silent:
            sock.close()


def test_hot_reload_moves_the_page(start: Start, tmp_path: Path) -> None:
    """The new page has the old one's port, which it could not have if the old one still had it."""
    script = tmp_path / "script.py"
    script.write_text((ROOT / "mitm_forwarder_addon.py").read_text())
    with reserved_port() as port:
        pass
    gateway = start(env={"METRICS_LISTEN": f"127.0.0.1:{port}"}, script=script)
    assert exposition.scrape(port)

    before = desks(gateway)
    for version in range(1, 4):
        mark = len(gateway.log())
        os.utime(script, (time.time() + version, time.time() + version))
        assert port_of(gateway, mark) == port
        assert exposition.scrape(port)[f"{P}workers"] == 1
    assert desks(gateway) == before
    assert "Metrics are not served" not in gateway.log()


def desks(gateway: Gateway) -> int:
    """How many epoll descriptors the process has: its loops' and each page's own."""
    count = 0
    for link in Path(f"/proc/{gateway.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(link) == "anon_inode:[eventpoll]"
    return count


# ---- several workers


Begin = Callable[..., Workers]


@pytest.fixture
def begin(parts: tuple[Backend, Any, Any], confdir: Path, tmp_path: Path) -> Iterator[Begin]:
    """Starts two workers, which are ready."""
    backend, origin, _ = parts
    with contextlib.ExitStack() as stack:

        def begin(**env: str) -> Workers:
            gateway = Workers(
                tmp_path / "workers",
                backend.url,
                backend.system_token,
                confdir=confdir,
                options=["--set", f"ssl_verify_upstream_trusted_ca={origin.ca_file}"],
                env={"BLACKLIST_REFRESH_SECONDS": "60", **ANY_PORT, **env},
            )
            stack.enter_context(gateway)
            gateway.two_ready()
            return gateway

        yield begin


@pytest.mark.smoke
def test_workers_are_one_page(begin: Begin, world: World) -> None:
    gateway = begin(METRICS_TOKEN="pool-metrics-canary")
    port = port_of(gateway)
    here = replace(world, gateway=gateway)
    assert exposition.fetch(port)[0] == 401
    wait_for(port, f"{P}workers", 2, "pool-metrics-canary")
    for _ in range(20):
        assert here.get(here.url()).status == 200
    page = wait_for(port, f"{P}records_delivered_total", 20, "pool-metrics-canary")
    assert page[f"{P}requests_total"] == page[f"{P}routed_total"] == 20
    assert page[f"{P}workers_silent"] == 0
    for n in range(6):  # whichever of the two it is that takes the connection
        answer = here.get(f"http://127.0.0.1:{port}/metrics?n={n}")
        assert error_of(answer) == "target_denied"
    assert gateway.log().count("Metrics are served") == 1
    assert gateway.stop() == 0
    assert "pool-metrics-canary" not in gateway.log()


def test_worker_that_dies_takes_no_count_with_it(begin: Begin, world: World) -> None:
    """The page is there all the time, and so it is while all are replaced."""
    gateway = begin()
    port = port_of(gateway)
    here = replace(world, gateway=gateway)
    for _ in range(12):
        assert here.get(here.url()).status == 200
    wait_for(port, f"{P}requests_total", 12)
    doomed = gateway.children()[0]
    os.kill(doomed, signal.SIGKILL)
    gateway.wait_for_log(f"worker {doomed} ended")
    wait_for(port, f"{P}workers", 2)
    assert exposition.scrape(port)[f"{P}requests_total"] == 12
    old = gateway.children()
    os.kill(gateway.pid, signal.SIGHUP)

    def renewed() -> bool:
        assert exposition.scrape(port)[f"{P}requests_total"] == 12
        return len(gateway.children()) == 2 and not set(gateway.children()) & set(old)

    wait_until(renewed, TIMEOUT, "two new workers")
    assert here.get(here.url()).status == 200
    wait_for(port, f"{P}requests_total", 13)


def test_worker_that_hangs_is_left_out(begin: Begin, world: World) -> None:
    """The supervisor does its work meanwhile."""
    gateway = begin()
    port = port_of(gateway)
    wait_for(port, f"{P}workers", 2)
    hung, other = gateway.children()
    os.kill(hung, signal.SIGSTOP)
    try:
        page = wait_for(port, f"{P}workers_silent", 1)
        assert page[f"{P}workers"] == 1
        os.kill(other, signal.SIGKILL)
        gateway.wait_for_log(f"worker {other} ended")
    finally:
        os.kill(hung, signal.SIGCONT)
    wait_for(port, f"{P}workers", 2)


def test_workers_whose_port_is_taken(begin: Begin, world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        gateway = begin(METRICS_LISTEN=f"127.0.0.1:{taken}")
        gateway.wait_for_log(rf"METRICS_LISTEN=127\.0\.0\.1:{taken} cannot be had")
        here = replace(world, gateway=gateway)
        assert here.get(here.url()).status == 200
        assert gateway.stop() == 0
    assert gateway.log().count("Metrics are not served") == 1
