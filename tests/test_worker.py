"""When a worker that was replaced leaves: not while a connection is only just being accepted."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from mitm_forwarder.cli import worker
from mitm_forwarder.cli.worker import WorkerAddon
from mitm_forwarder.cli.workers import Control

PATIENCE = 10.0


class Master:
    """mitmproxy's, as much as a retirement needs; `looks` is what each look at the connections
    finds, and the last one stays.
    """

    def __init__(self, looks: list[int], seconds: float) -> None:
        self.looks = looks
        self.looked = 0
        self.left = asyncio.Event()
        self.addons = {
            "proxyserver": self,
            "forwarder": SimpleNamespace(retire=lambda: seconds),
        }

    @property
    def connections(self) -> list[None]:
        found = self.looks[min(self.looked, len(self.looks) - 1)]
        self.looked += 1
        return [None] * found

    def shutdown(self) -> None:
        self.left.set()


async def retire(
    monkeypatch: pytest.MonkeyPatch, looks: list[int], seconds: float = PATIENCE
) -> Master:
    """The master after its worker has left."""
    master = Master(looks, seconds)
    monkeypatch.setattr(worker, "ctx", SimpleNamespace(master=master))
    monkeypatch.setattr(worker, "IDLE_CHECK_SECONDS", 0.001)
    addon = WorkerAddon(cast(Control, None))
    addon.retire()
    addon.retire()
    await asyncio.wait_for(master.left.wait(), PATIENCE)
    return master


@pytest.mark.parametrize(
    ("looks", "looked"),
    [
        ([0], 2),
        # Accepted by asyncio when it stopped listening, and in mitmproxy's list a turn later.
        ([0, 1, 0], 4),
        ([0, 1, 1, 0, 1, 0, 0], 7),
        ([3, 2, 1, 0], 5),
    ],
)
async def test_two_looks_in_a_row_find_nobody(
    looks: list[int], looked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await retire(monkeypatch, looks)).looked == looked


async def test_who_stays_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await retire(monkeypatch, [1], seconds=0.05)).looked > 2
