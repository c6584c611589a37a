"""A gateway under load for minutes: what its memory, descriptors and threads do.

The backend is away for two seconds in every thirty. Connections and memory swing with that, so
every look is taken at the same point of the swing, when the outage's records have long been
delivered. The first fifth is warm-up.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.world import Load
from tests.chaos.world import World
from tests.chaos.world import world
from tests.support.gateway import Gateway

PERIOD, OUTAGE, LOOK_AT = 30.0, 2.0, 22.0
"""Seconds: of one swing; the backend's absence at its begin; the first of its looks."""
LOOKS = 7
"""A second apart. Their median counts: one may meet a connection that is being replaced."""
IN_FLIGHT = 50
"""Records that may wait while all is well."""
LIMITS = {"rss_kib": 20 * 1024, "descriptors": 20.0, "threads": 2.0}
"""Per hour. A soak of minutes cannot tell a leak of 1 MiB an hour from noise."""


@dataclass(frozen=True)
class Result:
    """`missing` and `status` must be 0, `slopes` (per hour) within LIMITS."""

    seconds: float
    answered: int
    missing: int
    status: int
    slopes: dict[str, float]
    least: dict[str, float]
    most: dict[str, float]


def _look(pid: int) -> dict[str, float]:
    """What /proc says."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "rss_kib": float(fields["VmRSS"].split()[0]),
        "threads": float(fields["Threads"]),
        "descriptors": float(len(list(Path(f"/proc/{pid}/fd").iterdir()))),
    }


def _swing(here: World, gateway: Gateway, load: Load) -> dict[str, float]:
    """One outage, and the looks after it; returns early."""
    began = time.monotonic()
    here.backend.refuse()
    time.sleep(OUTAGE)
    here.backend.listen()
    while load.answered() - here.backend.stored() > IN_FLIGHT:
        assert time.monotonic() - began < LOOK_AT, "the backlog of two seconds is not delivered"
        time.sleep(0.1)
    time.sleep(max(0.0, began + LOOK_AT - time.monotonic()))
    looks = []
    for _ in range(LOOKS):
        looks.append(_look(gateway.pid))
        time.sleep(1.0)
    return {key: statistics.median(look[key] for look in looks) for key in LIMITS}


def slope_per_hour(times: list[float], values: list[float]) -> float:
    """Least squares."""
    return statistics.linear_regression(times, values).slope * 3600


def run(directory: Path, confdir: Path, minutes: float) -> Result:
    """Prints a line for each look."""
    with world(directory, confdir) as here, here.gateway("soak") as gateway:
        load = Load(gateway.port, clients=4, pause=0.01)
        started, times, taken = time.monotonic(), [], []
        while (now := time.monotonic() - started) < minutes * 60:
            taken.append(_swing(here, gateway, load))
            times.append(now)
            shown = " ".join(f"{key}={value:.0f}" for key, value in taken[-1].items())
            print(f"{now:6.0f} s  {load.answered():8} answered  {shown}", flush=True)
            time.sleep(max(0.0, started + now + PERIOD - time.monotonic()))
        seconds = time.monotonic() - started
        answers = load.stop()
        here.wait_until_delivered(answers)
        missing = here.missing(answers)
        status = gateway.stop()
    warm = [i for i, at in enumerate(times) if at >= minutes * 60 / 5]
    by_key = {key: [taken[i][key] for i in warm] for key in LIMITS}
    return Result(
        seconds,
        answers.count(),
        missing,
        status,
        {key: slope_per_hour([times[i] for i in warm], by_key[key]) for key in LIMITS},
        {key: min(values) for key, values in by_key.items()},
        {key: max(values) for key, values in by_key.items()},
    )
