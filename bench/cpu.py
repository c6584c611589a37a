"""CPU per request of the gateway's process, paired with bare mitmdump's in the same run.

`python -m bench.cpu [-r ROUNDS] [-k plain,tls,new,h2] ROW...` prints a table of medians and writes
docs/performance.json, which `bench.plot` draws. All gateways are up at once; each round measures a
slice of each, in a rotated order, so what else the machine does hits all of them; ratios are of one
round. A row whose requests fail ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
from typing import Any

from mitmproxy import version

from bench.gateways import ROWS
from bench.gateways import Gateway
from bench.rig import ROOT
from bench.rig import Rig

RESULT = ROOT / "docs" / "performance.json"


def measure(rig: Rig, gateways: list[Gateway], kinds: list[str], rounds: int, slice_: str) -> Any:
    """{kind: {row: [one result a round]}}"""
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for kind in kinds:
        rows = results[kind] = {gateway.row.name: [] for gateway in gateways}
        for number in range(rounds):
            turn = number % len(gateways)
            for gateway in gateways[turn:] + gateways[:turn]:
                flags = ("-duration", slice_, "-pid", str(gateway.process.pid))
                result = rig.load(gateway.port, kind, *flags)
                if result["bad"]:
                    sys.exit(f"{gateway.row.name}, {kind}: {result['bad']} requests failed")
                rows[gateway.row.name].append(result)
    return results


def summarise(results: Any, first: str) -> Any:
    """Medians over rounds, and of the ratios within each round."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for kind, rows in results.items():
        for name, rounds in rows.items():
            ratios = [a["cpu_us"] / b["cpu_us"] for a, b in zip(rounds, rows[first], strict=True)]
            cell = {
                key: statistics.median(result[key] for result in rounds)
                for key in ("cpu_us", "p50_ms", "p99_ms", "per_second")
            }
            cell |= {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
            table.setdefault(name, {})[kind] = cell
    return table


def report(table: Any, kinds: list[str]) -> str:
    """The table as Markdown."""
    lines = ["| row | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name, cells in table.items():
        shown = [f"{cells[k]['cpu_us']:.0f} µs ({cells[k]['ratio']:.2f})" for k in kinds]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("-s", "--slice", default="2s")
    parser.add_argument("-k", "--kinds", default="plain,tls,new,h2")
    parser.add_argument("rows", nargs="*", default=["bare", "script", "launcher", "httpx"])
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    with contextlib.ExitStack() as stack:
        rig = stack.enter_context(Rig())
        gateways = [stack.enter_context(Gateway(ROWS[name], rig)) for name in options.rows]
        for gateway in gateways:
            gateway.wait_until_ready(rig)
        results = measure(rig, gateways, kinds, options.rounds, options.slice)
        memory = {gateway.row.name: gateway.rss_mib() for gateway in gateways}
    table = summarise(results, options.rows[0])
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    machine += f", mitmproxy {version.VERSION}"
    print(machine, report(table, kinds), sep="\n\n")
    for name, mib in memory.items():
        print(f"{name}: {mib:.0f} MiB resident")
    RESULT.write_text(json.dumps({"machine": machine, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
