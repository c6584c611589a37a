"""The table of `make bench`: CPU per request of the gateway, beside latency and peak throughput.

`python -m bench.cpu [-r ROUNDS] [-k CASE,...] ROW...` prints medians and writes
docs/performance.json, which `bench.plot` draws. Per set of rules and backend all gateways are up at
once; each round measures a slice of each, in a rotated order, so what else the machine does hits
all of them; ratios are of one round. A row whose requests fail ends the run.

Latency is of an open loop: requests leave on schedule, at half of what bare mitmdump can do, and
count from when they were due. A slice in which the generator itself was late is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import sys
from typing import Any

from mitmproxy import version

from bench import squid
from bench.cases import CASES
from bench.cases import Case
from bench.gateways import ROWS
from bench.gateways import Gateway
from bench.rig import ROOT
from bench.rig import Rig

RESULT = ROOT / "docs" / "performance.json"
LATE_MS = 2.0
"""p99 of the generator's own lateness, over which a slice says nothing about a gateway."""
Results = dict[str, list[dict[str, Any]]]


def ask(rig: Rig, gateway: Gateway, case: Case, *flags: str) -> dict[str, Any]:
    pid = str(gateway.process.pid)
    result = rig.load(gateway.port, case.kind, *flags, "-pid", pid, size=case.size)
    if result["bad"]:
        sys.exit(f"{gateway.row.name}, {case.name}: {result['bad']} requests failed")
    return result


def one_round(rig: Rig, gateways: list[Gateway], case: Case, slice_: str, rate: float) -> Results:
    """Peak of each gateway, then its latency at `rate` (none with 0)."""
    results: Results = {}
    for gateway in gateways:
        result = ask(rig, gateway, case, *case.flags(slice_))
        if rate:
            result |= latency(rig, gateway, case, slice_, rate)
        results[gateway.row.name] = [result]
    return results


def latency(rig: Rig, gateway: Gateway, case: Case, slice_: str, rate: float) -> dict[str, Any]:
    flags = ("-duration", slice_, "-rate", f"{rate:.0f}", "-clients", "64")
    result = ask(rig, gateway, case, *flags)
    if result["late_ms"] > LATE_MS:
        late = f"the generator was {result['late_ms']:.1f} ms late at {rate:.0f}/s"
        print(f"{gateway.row.name}, {case.name}: refused, {late}", file=sys.stderr)
        return dict.fromkeys(LATENCIES)
    return {name: result[key] for name, key in LATENCIES.items()}


LATENCIES = {"open_p50_ms": "p50_ms", "open_p99_ms": "p99_ms", "open_p999_ms": "p999_ms"}


def measure(rig: Rig, gateways: list[Gateway], case: Case, rounds: int, slice_: str) -> Results:
    """{row: [one result a round]}"""
    able = [gateway for gateway in gateways if gateway.row.can(case)]
    results: Results = {gateway.row.name: [] for gateway in able}
    rate = 0.0
    if not case.count:
        rate = ask(rig, able[0], case, *case.flags(slice_))["per_second"] / 2
    for number in range(rounds):
        turn = number % len(able)
        for name, found in one_round(rig, able[turn:] + able[:turn], case, slice_, rate).items():
            results[name] += found
    return results


def run(cases: list[Case], rows: list[str], rounds: int, slice_: str) -> tuple[Any, Any]:
    """Results of each case, and MiB of each row with each number of rules."""
    results: dict[str, Results] = {}
    memory: dict[str, dict[str, float]] = {}

    def needs(case: Case) -> tuple[int, str]:
        return case.rules, case.delay

    for (rules, delay), group in itertools.groupby(sorted(cases, key=needs), needs):
        with contextlib.ExitStack() as stack:
            rig = stack.enter_context(Rig(rules, delay))
            gateways = [stack.enter_context(Gateway(ROWS[name], rig)) for name in rows]
            for gateway in gateways:
                gateway.wait_until_ready(rig)
            for case in group:
                print(f"{case.name} ...", file=sys.stderr)
                results[case.name] = measure(rig, gateways, case, rounds, slice_)
            memory[f"{rules} rules, backend {delay}"] = {g.row.name: g.rss_mib() for g in gateways}
    return {case.name: results[case.name] for case in cases}, memory


def median(rounds: list[dict[str, Any]], key: str) -> float | None:
    known = [result[key] for result in rounds if result.get(key) is not None]
    return statistics.median(known) if known else None


def summarise(results: dict[str, Results], first: str) -> Any:
    """Medians over rounds, and of the ratios within each round."""
    table: dict[str, dict[str, dict[str, float | None]]] = {}
    for case, rows in results.items():
        for name, rounds in rows.items():
            ratios = [a["cpu_us"] / b["cpu_us"] for a, b in zip(rounds, rows[first], strict=True)]
            cell = {key: median(rounds, key) for key in ("cpu_us", "per_second", *LATENCIES)}
            cell |= {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
            table.setdefault(name, {})[case] = cell
    return table


def shown(cell: dict[str, float | None] | None) -> str:
    """CPU (ratio), p50 / p99 / p99.9 and the peak."""
    if cell is None:
        return "—"
    text = f"{cell['cpu_us']:.0f} µs ({cell['ratio']:.2f}); {cell['per_second']:.0f}/s"
    times = [cell[key] for key in LATENCIES]
    if None not in times:
        text += "; " + " / ".join(f"{ms:.1f}" for ms in times) + " ms"
    return text


def report(table: Any, cases: list[str]) -> str:
    """The table as Markdown: a line a case, a column a row of bench.gateways."""
    lines = ["| case | " + " | ".join(table) + " |", "|---" * (len(table) + 1) + "|"]
    for case in cases:
        cells = [shown(cells.get(case)) for cells in table.values()]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def default_rows() -> list[str]:
    """All that this machine has; what it lacks is said."""
    rows = ["bare", "script", "launcher", "launcher-2", "httpx", "goproxy"]
    if squid.binary() is None:
        print("no row squid: apt-get install squid-openssl", file=sys.stderr)
        return rows
    if not squid.opens_tls():
        print("squid: plain only, as its build has no OpenSSL (squid-openssl has)", file=sys.stderr)
    return [*rows, "squid"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("-s", "--slice", default="2s")
    parser.add_argument("-k", "--cases", default=",".join(CASES))
    parser.add_argument("rows", nargs="*", default=default_rows())
    options = parser.parse_args()
    cases = [CASES[name] for name in options.cases.split(",")]
    results, memory = run(cases, options.rows, options.rounds, options.slice)
    table = summarise(results, options.rows[0])
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    machine += f", mitmproxy {version.VERSION}"
    text = report(table, [case.name for case in cases])
    print(machine, text, sep="\n\n")
    for name, rows in memory.items():
        print(f"{name}: " + ", ".join(f"{row} {mib:.0f} MiB" for row, mib in rows.items()))
    data = {"machine": machine, "rounds": options.rounds, "memory": memory, "table": table}
    RESULT.write_text(json.dumps(data, indent=1) + "\n")
    RESULT.with_suffix(".table.md").write_text(f"{machine}\n\n{text}\n")


if __name__ == "__main__":
    main()
