"""kill -9 under load, again and again, each time with a new start on the same spool directory."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.world import Answers
from tests.chaos.world import Load
from tests.chaos.world import World
from tests.chaos.world import world
from tests.support.faulty import reset_before_answer

LANES = 2
"""Gateways at the same time: each kill leaves a slot that another process may adopt."""

WARM_UP = 5
"""Answers before a kill, so that each one has something to lose."""


@dataclass(frozen=True)
class Result:
    """`missing` and `twice` must be 0."""

    kills: int
    answered: int
    missing: int
    twice: int
    torn: int
    """Records that were cut off while they were written, and so never promised."""
    seconds: float


def _lane(here: World, number: int, kills: int, seed: int, total: Answers) -> None:
    chance = random.Random(seed)
    for index in range(kills):
        gateway = here.gateway(f"lane-{number}-{index}")
        with gateway:
            load = Load(gateway.port)
            deadline = time.monotonic() + 5
            while load.answered() < WARM_UP and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 0.4))
            gateway.kill()
            total.update(load.stop())
        if index > 0:
            (here.directory / f"lane-{number}-{index - 1}" / "gateway.log").unlink()


def run(directory: Path, confdir: Path, kills: int, seed: int = 1) -> Result:
    """Kills, and a last start that delivers what is left."""
    started = time.monotonic()
    with world(directory, confdir) as here:
        totals = [Answers() for _ in range(LANES)]
        lanes = [
            threading.Thread(target=_lane, args=(here, n, kills // LANES, seed + n, totals[n]))
            for n in range(LANES)
        ]
        for lane in lanes:
            lane.start()
        # Records wait at each kill: their endpoint is away for a part of the time.
        while any(lane.is_alive() for lane in lanes):
            here.backend.spoil("/activity", reset_before_answer)
            time.sleep(0.5)
            here.backend.spoil("/activity", None)
            lanes[0].join(0.5)
        for lane in lanes:
            lane.join()
        total = Answers()
        for answers in totals:
            total.update(answers)
        with here.gateway("last") as last:
            here.wait_until_delivered(total)
            assert last.stop() == 0
            torn = last.log().count("unfinished record")
        stored = here.stored()
        return Result(
            kills=kills // LANES * LANES,
            answered=len(total.recorded()),
            missing=here.missing(total),
            twice=sum(count > 1 for count in stored.values()),
            torn=torn,
            seconds=time.monotonic() - started,
        )
