"""SIGTERM and other ends: nobody new, what runs comes to its end, records first, exit 0."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.e2e.world import Answer
from tests.e2e.world import World
from tests.e2e.world import error_of
from tests.support.backend import wait_until
from tests.support.faulty import FaultyBackend
from tests.support.faulty import silent

Begin = Callable[..., tuple[World, FaultyBackend]]


@pytest.fixture
def begin(
    start: Start, world: World, around: Callable[..., World], tmp_path: Path
) -> Iterator[Begin]:
    """A gateway on a backend of the test's own that answers at once."""
    with FaultyBackend() as backend:
        backend.proxy |= {"port": world.proxy.port, "address": f"127.0.0.1:{world.proxy.port}"}

        def begin(**settings: Any) -> tuple[World, FaultyBackend]:
            gateway = start(
                backend_url=backend.url,
                system_token="system",
                state_dir=tmp_path / "state",
                **settings,
            )
            return around(gateway), backend

        yield begin


def hang(here: World, name: str) -> threading.Thread:
    """A request that waits at the origin's gate; its thread."""

    def ask() -> None:
        # The gateway may go away first: no answer then.
        try:
            answers.append(here.get(here.url(f"/gate/{name}")))
        except OSError:
            pass

    answers: list[Answer] = []
    thread = threading.Thread(target=ask)
    thread.answers = answers  # type: ignore[attr-defined]
    thread.start()
    here.wait_for_arrival(name)
    return thread


def test_connections_are_closed_when_it_ends(begin: Begin) -> None:
    """New requests: 503 and Connection: close; those that run: their answer, and the same."""
    here, backend = begin()
    assert here.get(here.url()).header("connection") is None
    thread = hang(here, "goodbye")
    os.kill(here.gateway.pid, signal.SIGTERM)

    def refused() -> Answer | None:
        answer = here.get(here.url("/late"))
        return answer if answer.status != 200 else None

    late = wait_until(refused, 10, "new requests to be refused")
    assert (late.status, error_of(late)) == (503, "shutting_down")
    assert late.header("connection") == "close"
    here.origin.open_gate("goodbye")
    thread.join()
    (answer,) = thread.answers  # type: ignore[attr-defined]
    assert (answer.status, answer.header("connection")) == (200, "close")
    assert here.gateway.wait() == 0
    assert sum(r["status_code"] == 503 for r in backend.records().values()) == 1


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_second_signal_ends_it_at_once(begin: Begin, second: signal.Signals) -> None:
    """Although a request hangs and the backend takes no record; which waits for the next start."""
    here, backend = begin(env={"SHUTDOWN_TIMEOUT": "60"})
    thread = hang(here, f"hurry-{second}")
    backend.spoil("/activity", silent)
    url = here.url()
    assert here.get(url).status == 200
    os.kill(here.gateway.pid, signal.SIGTERM)
    with pytest.raises(Exception, match="still running"):
        here.gateway.wait(0.5)
    started = time.monotonic()
    os.kill(here.gateway.pid, second)
    assert here.gateway.wait() == 0
    assert time.monotonic() - started < 5
    here.origin.open_gate(f"hurry-{second}")
    thread.join()
    backend.spoil("/activity", None)
    begin()
    wait_until(
        lambda: any(r["target_url"] == url for r in backend.records().values()),
        20,
        "the record after the next start",
    )


def test_records_are_sent_before_it_ends(begin: Begin) -> None:
    """As many as come in within the time, with the loop alive."""
    here, backend = begin()
    urls = [here.url() for _ in range(30)]
    for url in urls:
        assert here.get(url).status == 200
    assert here.gateway.stop() == 0
    assert sorted(r["target_url"] for r in backend.records().values()) == sorted(urls)


SCRIPT = """
from mitm_forwarder import addons

VERSION = {version}
"""


def test_reload_under_load_loses_nothing(begin: Begin, tmp_path: Path) -> None:
    """The script is written again and again while requests run: each one that was answered 200 is
    recorded once.
    """
    script = tmp_path / "forwarder.py"
    script.write_text(SCRIPT.format(version=0))
    here, backend = begin(script=script)
    answered: list[str] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            url = here.url()
            if here.get(url).status == 200:
                answered.append(url)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for version in range(1, 4):
        seen, log = len(answered), len(here.gateway.log())
        wait_until(lambda seen=seen: len(answered) > seen + 10, 20, "requests")
        # mitmproxy looks at the time of the file once a second.
        script.write_text(SCRIPT.format(version=version))
        os.utime(script, (time.time() + version, time.time() + version))
        here.gateway.wait_for_log("Refreshed blacklist cache", after=log)
    stop.set()
    for thread in threads:
        thread.join()
    expected = set(answered)
    wait_until(
        lambda: expected <= {r["target_url"] for r in backend.records().values()},
        20,
        "the records of all engines",
    )
    stored = [r["target_url"] for r in backend.records().values() if r["status_code"] == 200]
    assert len(stored) == len(set(stored))
