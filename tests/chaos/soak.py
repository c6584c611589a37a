"""`make soak`: a gateway under load for ten minutes: what its memory, descriptors and threads do.

    python -m tests.chaos.soak --minutes 10

Prints a line every ten seconds and the slopes at the end; exit status 1 when one is too steep. The
first fifth is warm-up. The backend is away for two seconds in every thirty.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.world import Load
from tests.chaos.world import world
from tests.support.gateway import make_confdir

SAMPLE_SECONDS = 10.0
LIMITS = {"rss_kib": 20 * 1024, "descriptors": 20.0, "threads": 2.0}
"""Per hour. A soak of minutes cannot tell a leak of 1 MiB an hour from noise."""


def sample(pid: int) -> dict[str, float]:
    """What /proc says."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "rss_kib": float(fields["VmRSS"].split()[0]),
        "threads": float(fields["Threads"]),
        "descriptors": float(len(list(Path(f"/proc/{pid}/fd").iterdir()))),
    }


def slope_per_hour(times: list[float], values: list[float]) -> float:
    """Least squares."""
    return statistics.linear_regression(times, values).slope * 3600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        directory = Path(name)
        with (
            world(directory, make_confdir(directory / "confdir")) as here,
            here.gateway("soak") as gateway,
        ):
            load = Load(gateway.port, clients=4, pause=0.01)
            started, times, samples = time.monotonic(), [], []
            while (now := time.monotonic() - started) < minutes * 60:
                if now % 30 < SAMPLE_SECONDS:
                    here.backend.refuse()
                    time.sleep(2.0)
                    here.backend.listen()
                taken = sample(gateway.pid)
                times.append(now)
                samples.append(taken)
                shown = " ".join(f"{key}={value:.0f}" for key, value in taken.items())
                print(f"{now:6.0f} s  {load.answered():8} answered  {shown}", flush=True)
                time.sleep(SAMPLE_SECONDS)
            answers = load.stop()
            here.wait_until_delivered(answers)
            missing = here.missing(answers)
            status = gateway.stop()
    warm = [i for i, at in enumerate(times) if at >= minutes * 60 / 5]
    steep = []
    for key, limit in LIMITS.items():
        slope = slope_per_hour([times[i] for i in warm], [samples[i][key] for i in warm])
        print(f"{key}: {slope:+.1f} an hour (limit {limit:+.0f})")
        steep += [key] if slope > limit else []
    print(f"{answers.count()} answered, {missing} without a record, exit status {status}")
    return 1 if steep or missing or status else 0


if __name__ == "__main__":
    sys.exit(main())
