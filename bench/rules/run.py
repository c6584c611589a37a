"""``make bench-rules``: what a decision and a refresh cost, beside what else could be used.

Times are medians of processor time; all engines get the same rules and the same URLs. Where a
library is not installed its column says so. Prints a table in Markdown; ``--json FILE`` keeps the
numbers. Takes some five minutes, most of it for the engines that try rule by rule.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data
import refresh

SIZES = (10, 1000, 10_000, 100_000)
KINDS = ("dot", "mix")
# RE2's automaton is past its memory there, and takes half a second for a URL.
RE2_MAX = 10_000

Result = dict[str, Any]


def run_program(program: Path, rules: Path, misses: Path, hits: Path) -> Result | None:
    """The program's line of JSON; None when it was not built, or gave up."""
    if not program.exists():
        return None
    done = subprocess.run(
        [program, rules, misses, hits], stdout=subprocess.PIPE, text=True, check=False
    )
    result: Result | None = json.loads(done.stdout) if done.returncode == 0 else None
    return result


def median_ns(search: Callable[[str], int], urls: list[str]) -> float:
    """Nanoseconds for each URL, by the thread's own time."""
    passes = []
    for _ in range(3):
        since = time.thread_time()
        for url in urls:
            search(url)
        passes.append((time.thread_time() - since) / len(urls) * 1e9)
    return statistics.median(passes)


def python_loop(rules: list[str], misses: list[str], hits: list[str]) -> Result:
    """Python's re, rule by rule."""
    since = time.thread_time()
    searches = [re.compile(rule).search for rule in rules]
    cold_ms = (time.thread_time() - since) * 1e3

    def search(url: str) -> int:
        return next((i for i, one in enumerate(searches) if one(url)), -1)

    count = max(3, min(300, 300_000 // len(rules)))
    clean = [url for url in misses[: count * 2] if search(url) < 0][:count]
    return {
        "miss_ns": median_ns(search, clean),
        "hit_ns": median_ns(search, hits[:count]),
        "cold_ms": cold_ms,
    }


def one_set(
    programs: Path, folder: Path, kind: str, size: int, misses: list[str]
) -> dict[str, Result | None]:
    """All engines on one rule set."""
    rules = data.rule_set(kind, size)
    hits = data.hits(rules, 1000)
    files = [folder / f"{kind}{size}.{name}" for name in ("rules", "misses", "hits")]
    for file, lines in zip(files, (rules.patterns, misses, hits), strict=True):
        data.write_lines(file, lines)
    return {
        "ours": run_program(programs / "index_bench", *files),
        "hyperscan": run_program(programs / "hs_bench", *files),
        "re2": run_program(programs / "re2_bench", *files) if size <= RE2_MAX else None,
        "python": python_loop(rules.patterns, misses, hits),
    }


def always_ns(programs: Path, folder: Path, misses: list[str]) -> float:
    """What one rule that cannot be looked up adds to each URL (10,000 rules, 0 and 1,000 such)."""
    rules = data.rule_set("dot", 10_000)
    times = []
    for weak in (0, 1000):
        files = [folder / f"weak{weak}.{name}" for name in ("rules", "misses", "hits")]
        data.write_lines(files[0], [*rules.patterns, *data.weak_rules(weak)])
        data.write_lines(files[1], misses[:300])
        data.write_lines(files[2], data.hits(rules, 10))
        result = run_program(programs / "index_bench", *files)
        assert result is not None
        assert result["always"] == weak, result
        times.append(float(result["miss_ns"]))
    return (times[1] - times[0]) / 1000


def duration(nanoseconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.0f} ns"


def pair(result: Result | None, prefix: str = "") -> str:
    if result is None:
        return "–"
    return f"{duration(result[prefix + 'miss_ns'])} / {duration(result[prefix + 'hit_ns'])}"


def loop_lines(kinds: dict[str, dict[str, float]]) -> list[str]:
    """What the thread of the event loop spends on a refresh of 100,000 rules."""
    titles = {"changed": "1 % changed", "other": "all changed"}
    lines = [
        "| refresh of 100,000 rules | median | worst | median, net | worst, net | idle |",
        "|---|---|---|---|---|---|",
    ]
    names = ("median_ms", "worst_ms", "net_median_ms", "net_worst_ms", "idle_ms")
    lines += [
        f"| {titles[kind]} | " + " | ".join(f"{took[name]:.2f} ms" for name in names) + " |"
        for kind, took in kinds.items()
    ]
    return lines


def table(results: dict[str, dict[str, Result | None]], always: float, redos: Result) -> str:
    """The tables of docs/blacklist.md."""
    lines = [
        "| rules | this index | Hyperscan literals + PCRE2 | RE2::Set | PCRE2 JIT, one by one"
        " | Python re, one by one |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, engines in results.items():
        ours = engines["ours"]
        assert ours is not None
        cells = [
            pair(ours),
            pair(engines["hyperscan"]),
            pair(engines["re2"]),
            pair(ours, "loop_"),
            pair(engines["python"]),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| rules | cold | 1 % changed | unchanged | bytes a rule | always tried | quarantined"
        " | miss, fastest pass |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, engines in results.items():
        ours = engines["ours"]
        assert ours is not None
        lines.append(
            f"| {name} | {ours['cold_ms']:.1f} ms | {ours['changed_ms']:.1f} ms"
            f" | {ours['unchanged_ms']:.2f} ms "
            f"| {ours['bytes']} | {ours['always']} | {ours['quarantined']}"
            f" | {duration(ours['miss_least_ns'])} |"
        )
    lines += [
        "",
        f"A rule that is always tried: {always:.0f} ns for each URL.",
        f"Worst URL of 2 kB over {redos['patterns']} patterns that backtrack: "
        f"{redos['alone_ms']:.2f} ms ({redos['quarantined']} are quarantined); "
        f"{redos['alone_without_ms']:.2f} ms if no probe had seen them.",
    ]
    return "\n".join(lines)


def machine() -> str:
    """Processor, system and versions, for whoever compares."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    pcre2 = subprocess.run(
        ["pcre2-config", "--version"], capture_output=True, text=True, check=False
    ).stdout.strip()
    load = os.getloadavg()[0]
    return (
        f"{cpu}, {os.cpu_count()} cores (load {load:.1f}), PCRE2 {pcre2},"
        f" Python {platform.python_version()}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", type=Path, help="where index_bench and the others are")
    parser.add_argument("--json", type=Path, help="keep the numbers here")
    arguments = parser.parse_args()
    folder = arguments.programs / "data"
    folder.mkdir(exist_ok=True)
    misses = data.misses(1200)
    results = {}
    wrong = False
    for kind in KINDS:
        for size in SIZES:
            print(f"{kind} {size}...", file=sys.stderr, flush=True)
            results[f"{kind} {size:,}"] = engines = one_set(
                arguments.programs, folder, kind, size, misses
            )
            wrong |= not (engines["ours"] or {}).get("same", False)
    always = always_ns(arguments.programs, folder, misses)
    done = subprocess.run(
        [arguments.programs / "redos_bench"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    redos = json.loads(done.stdout)
    print("refreshes...", file=sys.stderr, flush=True)
    loop = {kind: refresh.measure(kind) for kind in ("changed", "other")}
    print(f"{machine()}; miss / hit, processor time for each URL\n")
    print(table(results, always, redos))
    print("\nThe thread of the event loop:\n")
    print("\n".join(loop_lines(loop)))
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {
                    "machine": machine(),
                    "sets": results,
                    "always_ns": always,
                    "redos": redos,
                    "loop": loop,
                }
            )
        )
    if wrong:
        print("\nThe index names other rules than a plain loop.", file=sys.stderr)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
