"""Records are delivered, whatever happens in between: outages, kill -9, restarts, shutdown."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from http.client import NotConnected
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.e2e.world import Answer
from tests.e2e.world import World
from tests.e2e.world import error_of
from tests.support.backend import Backend
from tests.support.backend import wait_until

REQUESTS = 20


@pytest.fixture
def backend() -> Iterator[Backend]:
    """Of the test's own, since it goes down."""
    with Backend() as backend:
        yield backend


@pytest.fixture
def begin(start: Start, world: World, backend: Backend, tmp_path: Path) -> Callable[..., World]:
    """Starts a gateway over that backend; each one continues with the same state."""

    def begin(**settings: Any) -> World:
        gateway = start(
            backend_url=backend.url,
            system_token=backend.system_token,
            state_dir=tmp_path / "state",
            **settings,
        )
        return replace(world, backend=backend, gateway=gateway, token=token)

    backend.add_proxy("127.0.0.1", world.proxy.port)
    token = backend.add_user()
    return begin


def ask(here: World, count: int) -> list[str]:
    """Requests of both kinds, all answered; their URLs."""
    urls = [here.url(tls=bool(i % 2)) for i in range(count)]
    for url in urls:
        assert here.get(url).status == 200
    return urls


@pytest.mark.smoke
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["kill-9", "terminate"])
def test_outage_and_restart(
    begin: Callable[..., World], backend: Backend, how: signal.Signals
) -> None:
    here = begin(env={"SHUTDOWN_TIMEOUT": "2"})
    backend.fault("/activity", status=503)
    urls = ask(here, REQUESTS)
    refused = here.url()
    error = here.get(refused, token=None)
    assert error_of(error) == "no_token"
    backend.wait_for_calls("/activity", 1)
    assert backend.activity() == []
    os.kill(here.gateway.pid, how)
    started = time.monotonic()
    status = here.gateway.wait()
    if how == signal.SIGTERM:
        assert status == 0
        assert time.monotonic() - started < 5
    backend.clear_faults()
    again = begin()
    rows = backend.wait_for_activity(REQUESTS + 1, timeout=30)
    last = again.url()
    assert again.get(last).status == 200
    again.backend.wait_for_activity(REQUESTS + 2, timeout=15)
    rows = backend.activity()
    assert sorted(row["target_url"] for row in rows) == sorted([*urls, refused, last])
    assert len({row["idempotency_key"] for row in rows}) == len(rows)
    (row,) = (row for row in rows if row["target_url"] == refused)
    assert row["idempotency_key"] == error.header("x-request-id")
    assert {row["status_code"] for row in rows if row["target_url"] in urls} == {200}


def test_record_is_written_before_the_answer(begin: Callable[..., World], backend: Backend) -> None:
    """Killed the moment the answer is here, again and again: every answered request is known."""
    backend.fault("/activity", status=503)
    urls = []
    for _ in range(3):
        here = begin()
        with here.client() as client:
            for _ in range(5):
                url = here.url()
                assert client.request("GET", url, token=here.token).status == 200
                urls.append(url)
            here.gateway.kill()
    backend.clear_faults()
    begin()
    rows = backend.wait_for_activity(len(urls), timeout=30)
    assert sorted(row["target_url"] for row in rows) == sorted(urls)


def test_backend_restarts(begin: Callable[..., World], backend: Backend) -> None:
    """While the gateway runs on. What could not be delivered is, soon after."""
    here = begin()
    first = ask(here, 3)
    backend.wait_for_activity(3)
    backend.fault("/activity", status=503)
    urls = ask(here, 5)
    backend.kill()
    down = here.url()
    assert error_of(here.get(down)) == "backend_unreachable"
    backend.clear_faults()
    backend.start()
    rows = backend.wait_for_activity(9, timeout=40)
    assert sorted(row["target_url"] for row in rows) == sorted([*first, *urls, down])

    def works() -> bool:
        return here.get(here.url()).status == 200

    wait_until(works, 15, "requests to work again")


def test_lost_acknowledgement_is_no_second_record(
    begin: Callable[..., World], backend: Backend
) -> None:
    backend.fault("/activity", status=502, handled=True, times=2)
    here = begin()
    urls = ask(here, 3)
    wait_until(lambda: len(backend.calls("/activity")) >= 5, 20, "the second posts")
    rows = backend.wait_for_activity(3)
    assert sorted(row["target_url"] for row in rows) == sorted(urls)
    keys = [call.headers["idempotency-key"][0] for call in backend.calls("/activity")]
    assert len(set(keys)) == 3


def test_record_that_the_backend_refuses_holds_up_no_other(
    begin: Callable[..., World], backend: Backend
) -> None:
    backend.fault("/activity", status=422, times=1)
    here = begin()
    buried, *others = [here.url() for _ in range(4)]
    assert here.get(buried).status == 200
    here.gateway.wait_for_log("refuses activity record")
    for url in others:
        assert here.get(url).status == 200
    rows = backend.wait_for_activity(3)
    assert sorted(row["target_url"] for row in rows) == sorted(others)


@pytest.mark.slow
def test_wrong_system_token_pauses_delivery(begin: Callable[..., World], backend: Backend) -> None:
    """It says what is wrong, keeps the records, and goes on when it is right again."""
    backend.fault("/activity", status=401)
    here = begin()
    urls = ask(here, 2)
    here.gateway.wait_for_log("Activity delivery is paused: .*401.*SYSTEM_TOKEN")
    assert backend.activity() == []
    backend.clear_faults()
    rows = backend.wait_for_activity(2, timeout=40)
    assert sorted(row["target_url"] for row in rows) == sorted(urls)


@pytest.mark.smoke
def test_terminate_lets_requests_end(begin: Callable[..., World], backend: Backend) -> None:
    """A request that runs gets its answer, new ones are refused, records are flushed, exit 0."""
    here = begin()
    url, answers = here.url("/gate/terminate"), []

    def request() -> None:
        answers.append(here.get(url))

    thread = threading.Thread(target=request)
    with here.client() as idle:
        assert idle.request("GET", here.url(), token=here.token).status == 200
        thread.start()
        here.wait_for_arrival("terminate")
        os.kill(here.gateway.pid, signal.SIGTERM)

        def refused() -> Answer | None:
            try:
                answer = idle.request("GET", here.url("/late"), token=here.token)
            except (OSError, NotConnected):  # told "Connection: close" already
                return Answer(0, {}, b"")
            return answer if answer.status != 200 else None

        late = wait_until(refused, 10, "new requests to be refused")
        if late.status:
            assert (late.status, error_of(late)) == (503, "shutting_down")
        here.origin.open_gate("terminate")
        thread.join()
    assert [answer.status for answer in answers] == [200]
    assert here.gateway.wait() == 0
    assert [row["status_code"] for row in here.records(url)] == [200]


def test_terminate_does_not_wait_for_ever(begin: Callable[..., World], backend: Backend) -> None:
    """For a request that hangs and a backend that hangs, SHUTDOWN_TIMEOUT is enough."""
    here = begin(env={"SHUTDOWN_TIMEOUT": "2"})
    url = here.url("/gate/hangs")
    client = here.client()
    client.socket.sendall(
        f"GET {url} HTTP/1.1\r\nHost: 127.0.0.1:{here.origin.http_port}\r\n"
        f"Authorization: Bearer {here.token}\r\n\r\n".encode()
    )
    here.wait_for_arrival("hangs")
    answered = here.url()
    backend.fault("/activity", delay=60)
    assert here.get(answered).status == 200
    started = time.monotonic()
    assert here.gateway.stop() == 0
    assert time.monotonic() - started < 6
    client.close()
    here.origin.open_gate("hangs")
    backend.kill()
    backend.clear_faults()
    backend.start()
    begin()
    backend.wait_for_activity(1, timeout=20)
    wait_until(lambda: here.records(answered) or None, 20, "the record of the answered request")


def test_memory_only_spool(begin: Callable[..., World], backend: Backend, tmp_path: Path) -> None:
    """An empty ACTIVITY_SPOOL_DIR: nothing on the disk, and still delivered."""
    here = begin(env={"ACTIVITY_SPOOL_DIR": ""})
    urls = ask(here, 3)
    rows = backend.wait_for_activity(3)
    assert sorted(row["target_url"] for row in rows) == sorted(urls)
    assert not (tmp_path / "state" / "spool").exists()


def test_two_gateways_share_a_spool_directory(
    begin: Callable[..., World], backend: Backend
) -> None:
    """Each has a slot of its own; one that was killed leaves its slot to the next."""
    backend.fault("/activity", status=503)
    one, two = begin(), begin()
    urls = [*ask(one, 3), *ask(two, 3)]
    one.gateway.kill()
    two.gateway.kill()
    backend.clear_faults()
    begin()
    rows = backend.wait_for_activity(6, timeout=30)
    assert sorted(row["target_url"] for row in rows) == sorted(urls)
