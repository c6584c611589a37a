"""What every chaos run is made of: a backend, an upstream proxy, gateways on one spool directory,
and clients that remember what was answered.
"""

from __future__ import annotations

import http.client
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

from tests.support.engine import SYSTEM_TOKEN
from tests.support.engine import USER_TOKEN
from tests.support.faulty import FaultyBackend
from tests.support.gateway import Gateway

CLIENT_TIMEOUT = 10.0


@dataclass
class Answers:
    """URLs by the status that a client saw; each URL was asked once."""

    by_status: dict[int, set[str]] = field(default_factory=dict)
    lost: int = 0
    """Requests without an answer: nothing was promised about those."""

    def add(self, status: int, url: str) -> None:
        self.by_status.setdefault(status, set()).add(url)

    def update(self, other: Answers) -> None:
        for status, urls in list(other.by_status.items()):
            self.by_status.setdefault(status, set()).update(urls)
        self.lost += other.lost

    def recorded(self) -> set[str]:
        """Answered, and so promised: all but `not recorded` and `spool full`, which are 503."""
        return {url for status, urls in self.by_status.items() if status != 503 for url in urls}

    def count(self) -> int:
        return sum(len(urls) for urls in self.by_status.values())


class Load:
    """Clients with a connection each that send one request after another until told to stop."""

    def __init__(self, port: int, clients: int = 4, pause: float = 0.0) -> None:
        self._port, self._pause = port, pause
        self._stop = threading.Event()
        self._answers = [Answers() for _ in range(clients)]
        self._threads = [threading.Thread(target=self._run, args=(a,)) for a in self._answers]
        for thread in self._threads:
            thread.start()

    def stop(self) -> Answers:
        """All that was answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        total = Answers()
        for answers in self._answers:
            total.update(answers)
        return total

    def answered(self) -> int:
        """So far."""
        return sum(answers.count() for answers in self._answers)

    def _run(self, answers: Answers) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=CLIENT_TIMEOUT)
        while not self._stop.is_set():
            url = f"http://target.test/{uuid.uuid4().hex}"
            try:
                connection.request("GET", url, headers={"Authorization": f"Bearer {USER_TOKEN}"})
                response = connection.getresponse()
                # The record comes before the first byte: a status is an answer.
                answers.add(response.status, url)
                response.read()
            except (OSError, http.client.HTTPException):
                answers.lost += 1
                connection.close()
                # Refused: the gateway is gone.
                self._stop.wait(0.02)
            self._stop.wait(self._pause)
        connection.close()


@dataclass
class World:
    """Everything but the gateways."""

    directory: Path
    confdir: Path
    backend: FaultyBackend
    state_dir: Path

    def gateway(self, name: str, **env: str) -> Gateway:
        """Not yet started. All of them share one state and one spool directory."""
        return Gateway(
            self.directory / name,
            self.backend.url,
            SYSTEM_TOKEN,
            confdir=self.confdir,
            state_dir=self.state_dir,
            options=["--set", "flow_detail=0"],
            env={"SHUTDOWN_TIMEOUT": "5", **env},
        )

    def stored(self) -> Counter[str]:
        """URL -> records at the backend under different keys."""
        return Counter(record["target_url"] for record in self.backend.records().values())

    def missing(self, answers: Answers) -> int:
        """Answered, and not at the backend."""
        return len(answers.recorded() - set(self.stored()))

    def wait_until_delivered(self, answers: Answers, timeout: float = 60.0) -> None:
        """Until nothing is missing, or time is up: the caller counts."""
        deadline = time.monotonic() + timeout
        while self.missing(answers) and time.monotonic() < deadline:
            time.sleep(0.2)


@contextmanager
def world(directory: Path, confdir: Path) -> Iterator[World]:
    """A backend and an upstream proxy that answer at once."""
    with ExitStack() as stack:
        backend = stack.enter_context(FaultyBackend(bookkeeping=False))
        upstream = stack.enter_context(FaultyBackend(bookkeeping=False))
        proxy: dict[str, Any] = {"port": upstream.port, "address": f"127.0.0.1:{upstream.port}"}
        backend.proxy |= proxy
        yield World(directory, confdir, backend, directory / "state")
