"""Does a request cost the same when there is more of everything? And what do workers take?

`python -m bench.growth [PART...]`: connections, rules, upstreams, requests, workers; all
without one. Prints a line for each; `-n` is the number of requests of `requests`, whose RSS is
read ten times.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from bench.gateways import ROWS
from bench.gateways import Gateway
from bench.gateways import memory
from bench.rig import Rig

ROUNDS = 3
SLICE = ("-duration", "2s")


def cost(rig: Rig, gateway: Gateway, *flags: str) -> float:
    """CPU of the gateway per request, µs."""
    result = rig.load(gateway.port, "plain", *flags, "-pid", str(gateway.process.pid))
    if result["bad"]:
        raise SystemExit(f"{gateway.row.name}: {result['bad']} requests failed")
    spent: float = result["cpu_us"]
    return spent


def line(name: str, costs: dict[int, list[float]]) -> None:
    """Medians, and the ratio of the last to the first, of one round each."""
    medians = ", ".join(f"{n}: {statistics.median(c):.0f} µs" for n, c in costs.items())
    first, *_, last = costs.values()
    ratio = statistics.median(b / a for a, b in zip(first, last, strict=True))
    print(f"{name}: {medians}; last to first {ratio:.2f}", flush=True)


def connections(_: int) -> None:
    costs: dict[int, list[float]] = {1: [], 10: [], 100: [], 1000: []}
    with Rig() as rig, Gateway(ROWS["launcher"], rig) as gateway:
        gateway.wait_until_ready(rig)
        for _round in range(ROUNDS):
            for clients, found in costs.items():
                found.append(cost(rig, gateway, *SLICE, "-clients", str(clients)))
    line("client connections", costs)


def servers(name: str, numbers: list[int], rig_of: Callable[[int], Rig]) -> None:
    """One rig and one gateway for each number, one after the other in each round."""
    costs: dict[int, list[float]] = {number: [] for number in numbers}
    for _round in range(ROUNDS):
        for number, found in costs.items():
            with rig_of(number) as rig, Gateway(ROWS["launcher"], rig) as gateway:
                gateway.wait_until_ready(rig)
                found.append(cost(rig, gateway, *SLICE))
    line(name, costs)


def rules(_: int) -> None:
    servers("rules", [10, 1000, 100_000], lambda number: Rig(rules=number))


def upstreams(_: int) -> None:
    servers("upstream proxies", [1, 10, 1000], lambda number: Rig(upstreams=number))


def requests(count: int) -> None:
    """RSS after each tenth, and its slope over the last half."""
    sizes, times = [], []
    with Rig() as rig, Gateway(ROWS["launcher"], rig) as gateway:
        gateway.wait_until_ready(rig)
        for _tenth in range(10):
            cost(rig, gateway, "-count", str(count // 10))
            sizes.append(gateway.rss_mib())
            times.append(time.monotonic() / 3600)
    slope = statistics.linear_regression(times[5:], sizes[5:]).slope
    shown = " ".join(f"{mib:.1f}" for mib in sizes)
    print(f"{count} requests: RSS {shown} MiB; {slope:.1f} MiB/h over the last half", flush=True)


def workers(_: int) -> None:
    """Memory of each of two when idle, and CPU per request beside that of one, in pairs."""
    with (
        Rig() as rig,
        Gateway(ROWS["launcher"], rig) as one,
        Gateway(ROWS["launcher-2"], rig) as two,
    ):
        for gateway in (one, two):
            gateway.wait_until_ready(rig)
        for pid in two.workers():
            sizes = memory(pid)
            private = sizes["Private_Clean"] + sizes["Private_Dirty"]
            print(f"idle worker: {private:.1f} MiB private, {sizes['Pss']:.1f} MiB PSS", flush=True)
        costs: dict[int, list[float]] = {1: [], 2: []}
        for _round in range(ROUNDS):
            costs[1].append(cost(rig, one, *SLICE))
            costs[2].append(cost(rig, two, *SLICE))
    line("workers", costs)
    with Rig(rules=100_000) as rig, Gateway(ROWS["bare"], rig) as bare:
        with Gateway(ROWS["launcher"], rig) as ours:
            for gateway in (bare, ours):
                gateway.wait_until_ready(rig)
            more = ours.rss_mib() - bare.rss_mib()
    print(f"100k rules: RSS {more:+.0f} MiB to bare", flush=True)


PARTS: dict[str, Callable[[int], None]] = {
    part.__name__: part for part in (connections, rules, upstreams, workers, requests)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--requests", type=int, default=100_000)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    options = parser.parse_args()
    for name in options.parts:
        PARTS[name](options.requests)


if __name__ == "__main__":
    main()
