"""What the supervisor of `run --workers` makes of signals and deaths, in whatever order they come:
always as many workers as wanted, and no signal to a process that is none of ours any more.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field

import pytest

from mitm_forwarder.cli import workers
from mitm_forwarder.cli.workers import Supervisor
from mitm_forwarder.cli.workers import Worker
from mitm_forwarder.web.board import Source


@dataclass
class Office(Supervisor):
    """Its workers are no processes: the test says what each does."""

    told: list[tuple[int, int]] = field(default_factory=list)
    ends: dict[int, socket.socket] = field(default_factory=dict)

    def _start(self, slot: int, replaces: Worker | None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = len(self.ends) + 1
        self.ends[pid] = theirs
        self.workers.append(Worker(slot, pid, ours, 0.0, Source(ours), replaces=replaces))

    def worker(self, pid: int) -> Worker:
        return next(worker for worker in self.workers if worker.pid == pid)

    def is_ready(self, pid: int) -> None:
        self.ends[pid].send(b"ready")
        self._hear(self.worker(pid))

    def dies(self, pid: int, status: int = -9) -> None:
        worker = self.worker(pid)
        self.workers.remove(worker)
        self._mourn(worker, status)
        self._start_due()

    def pids(self) -> list[int]:
        return [worker.pid for worker in self.workers]


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    """Two workers, 1 and 2, both ready."""
    office = Office(2, lambda _: None)
    monkeypatch.setattr(os, "kill", lambda pid, number: office.told.append((pid, number)))
    office.due = dict.fromkeys(range(2), 0.0)
    office._start_due()
    office.is_ready(1)
    office.is_ready(2)
    yield office
    for worker in office.workers:
        worker.control.close()
    for end in office.ends.values():
        end.close()


def test_one_after_the_other(office: Office) -> None:
    office._take(signal.SIGHUP)
    assert office.pids() == [1, 2, 3] and office.told == []
    office.is_ready(3)
    assert office.told == [(1, workers.RETIRE_SIGNAL)]
    office.dies(1, 0)
    assert office.pids() == [2, 3, 4]
    office.is_ready(4)
    office.dies(2, 0)
    assert office.pids() == [3, 4]
    assert office.told == [(1, workers.RETIRE_SIGNAL), (2, workers.RETIRE_SIGNAL)]


def test_old_worker_dies_before_the_new_one_is_ready(office: Office) -> None:
    office._take(signal.SIGHUP)
    office.dies(1)
    assert office.pids() == [2, 3]  # 3 is the one for its place
    office.is_ready(3)
    assert office.told == []  # nobody is 1 any more, or a stranger
    assert office.pids() == [2, 3, 4]
    office.is_ready(4)
    office.dies(2, 0)
    assert office.pids() == [3, 4]


def test_both_the_old_and_the_new_worker_die(office: Office) -> None:
    office._take(signal.SIGHUP)
    office.dies(1)
    office.dies(3, 1)
    assert office.pids() == [2, 4]
    assert office.worker(4).slot == 0


def test_new_worker_does_not_come_up(office: Office) -> None:
    office._take(signal.SIGHUP)
    office.dies(3, 1)
    assert office.pids() == [1, 2] and office.told == []
    office._take(signal.SIGHUP)  # better this time
    office.is_ready(4)
    assert office.told == [(1, workers.RETIRE_SIGNAL)]


@pytest.mark.parametrize("ready_first", [0, 1])
def test_second_hangup_while_the_first_goes_on(ready_first: int, office: Office) -> None:
    """One at a time, two in the end, and all of them from after the second."""
    office._take(signal.SIGHUP)
    if ready_first:
        office.is_ready(3)
        office.dies(1, 0)
    newest = max(office.ends)
    office._take(signal.SIGHUP)
    for _ in range(10):
        coming = [worker.pid for worker in office.workers if not worker.ready]
        assert len(coming) <= 1
        for pid in coming:
            office.is_ready(pid)
        for worker in [worker for worker in office.workers if worker.leaving]:
            office.dies(worker.pid, 0)
    assert len(office.pids()) == 2
    assert min(office.pids()) > newest


def test_terminate_in_the_middle(office: Office) -> None:
    """All are told, the one that retires and the one that is not ready as well; none is started."""
    office._take(signal.SIGHUP)
    office.is_ready(3)
    office._take(signal.SIGTERM)
    told = office.told[1:]
    assert sorted(told) == [(pid, signal.SIGTERM) for pid in (1, 2, 3, 4)]
    for pid in (1, 2, 3, 4):
        office.dies(pid)
    assert office.pids() == [] and office.status == 0
