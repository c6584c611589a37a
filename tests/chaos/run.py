"""`make chaos` and `make soak`: faults, full disks, a backlog, kills and a long run at full size;
the table in docs/reliability.md.

    python -m tests.chaos.run --kills 1000 --replay-mib 1024
    python -m tests.chaos.run kills soak --minutes 10

Without names of parts all but the soak. Parts may run one by one: what each of them found last is
kept in build/chaos.json, and the table shows all of that. Exit status 1 when a promise was broken;
the table is written all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import fcntl
import json
import os
import platform
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos import disk
from tests.chaos import kills
from tests.chaos import replay
from tests.chaos import soak
from tests.support.gateway import make_confdir
from tests.support.mitmdump import ROOT

PAGE = ROOT / "docs" / "reliability.md"
STORE = ROOT / "build" / "chaos.json"
BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"

Row = tuple[str, str, str, bool]
"""What was done, what must be, what was, and whether that is good."""


def run_kills(count: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        result = kills.run(Path(name), make_confdir(Path(name) / "confdir"), count)
    what = f"{result.kills} × kill -9 under load, {result.answered} requests answered"
    return [
        (what, "0 records missing", f"{result.missing} missing", result.missing == 0),
        (what, "0 records under two keys", f"{result.twice} twice", result.twice == 0),
    ]


def run_disks() -> list[Row]:
    rows: list[Row] = []
    for by_others, what in ((True, "disk filled by others"), (False, "disk filled by the spool")):
        with tempfile.TemporaryDirectory(prefix="chaos-") as name:
            try:
                result = asyncio.run(disk.full(Path(name), by_others=by_others))
            except disk.CannotMountError as error:
                return [("a full disk", "–", f"not run: {error}", True)]
        good = result.missing == 0 and result.unrecorded == 0
        got = f"{result.missing} missing, {result.unrecorded} answered without a record"
        rows.append((f"{what}, {result.answered} requests recorded", "0 and 0", got, good))
        seconds = result.recovery_seconds
        rows.append((what, "served again < 5 s", f"{seconds:.1f} s", seconds < 5))
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        said = asyncio.run(disk.read_only(Path(name)))
    good = "Read-only file system" in said
    rows.append(
        ("read-only disk at the start", "one line that says so", "yes" if good else said, good)
    )
    return rows


def run_replay(mib: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=os.environ.get("CHAOS_DIR")) as name:
        result = replay.run(Path(name), mib << 20, seconds=20)
    what = f"backlog of {result.file_bytes / 2**20:.0f} MiB, {result.records} records"
    rss = result.extra_rss_bytes / 2**20
    rate, start = result.drained_per_second, result.start_seconds
    return [
        (what, "first request routed < 1 s", f"{start:.2f} s", start < 1),
        (what, "≤ 32 MiB more memory", f"{rss:.1f} MiB", rss <= 32),
        (what, "drains ≥ 1,000 records/s", f"{rate:.0f} records/s", rate >= 1000),
        (
            f"{what}, 100 requests/s beside it",
            "new requests do not wait",
            f"p50 {result.request_p50_ms_during:.1f} ms, p99 {result.request_p99_ms_during:.1f} ms"
            f" (idle: p50 {result.request_p50_ms_before:.1f} ms)",
            result.request_p50_ms_during < 50,
        ),
    ]


def run_faults() -> list[Row]:
    """tests/test_bad_days.py and test_backend_tls.py."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:warnings", "-p", "no:cacheprovider"]
    command += ["tests/test_bad_days.py", "tests/test_backend_tls.py"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout if done.returncode else "", end="")
    summary = re.sub(r" in .*", "", done.stdout.strip().splitlines()[-1].strip("= "))
    what = "20 faults × 3 endpoints × cold, warm and again; leases; TLS"
    return [(what, "documented answer, record, no token lost", summary, done.returncode == 0)]


def run_soak(minutes: float) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        result = soak.run(Path(name), make_confdir(Path(name) / "confdir"), minutes)
    what = f"soak of {result.seconds / 60:.1f} minutes with outages"
    good = result.missing == 0 and result.status == 0
    got = f"{result.missing} missing, exit status {result.status}"
    rows = [(f"{what}, {result.answered} requests answered", "0 and 0", got, good)]
    for key, name, unit, size in (
        ("rss_kib", "memory", " MiB", 1024),
        ("descriptors", "descriptors", "", 1),
        ("threads", "threads", "", 1),
    ):
        slope, limit = result.slopes[key], soak.LIMITS[key]
        between = f"{result.least[key] / size:.0f} to {result.most[key] / size:.0f}{unit}"
        must = f"≤ {limit / size:+.0f}{unit} an hour"
        got = f"{slope / size:+.1f}{unit} an hour ({between})"
        rows.append((f"{what}: {name}", must, got, slope <= limit))
    return rows


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| what | must be | was | |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {must} | {was} | {'✓' if good else '✗'} |" for what, must, was, good in rows
    ]
    return "\n".join(lines)


def keep(part: str, rows: list[Row]) -> dict[str, Any]:
    """What the parts found last, this one included; another run may do the same at this moment."""
    STORE.parent.mkdir(exist_ok=True)
    with STORE.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        kept: dict[str, Any] = json.loads(file.read() or "{}")
        kept[part] = {"day": str(datetime.datetime.now(datetime.UTC).date()), "rows": rows}
        file.truncate(0)
        json.dump(kept, file)
    return kept


def write(kept: dict[str, Any]) -> None:
    """Between the two marks of the page."""
    found = [kept[part] for part in PARTS if part in kept]
    days = " and ".join(sorted({part["day"] for part in found}))
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python"
    where += f" {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    rows = table([row for part in found for row in part["rows"]])
    text = f"{BEGIN}\nMeasured on {days} by `make chaos soak` ({where}).\n\n{rows}\n{END}"
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + text + rest.partition(END)[2])


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "faults": lambda arguments: run_faults(),
    "disks": lambda arguments: run_disks(),
    "replay": lambda arguments: run_replay(arguments.replay_mib),
    "kills": lambda arguments: run_kills(arguments.kills),
    "soak": lambda arguments: run_soak(arguments.minutes),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help=f"of {', '.join(PARTS)}; all but the last")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--replay-mib", type=int, default=1024)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak")
    parser.add_argument("--dry-run", action="store_true", help="leave docs/reliability.md alone")
    arguments = parser.parse_args()
    if unknown := set(arguments.part) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    good = True
    for part in arguments.part or [name for name in PARTS if name != "soak"]:
        rows = PARTS[part](arguments)
        print(table(rows), flush=True)
        good = good and all(ok for *_, ok in rows)
        if not arguments.dry_run:
            write(keep(part, rows))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
