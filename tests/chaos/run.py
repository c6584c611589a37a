"""`make chaos`: kills, faults and full disks at full size; the tables in docs/reliability.md.

    python -m tests.chaos.run --kills 1000 --replay-mib 1024

Exit status 1 when a promise was broken; the tables are written all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chaos import disk
from tests.chaos import kills
from tests.chaos import replay
from tests.support.gateway import make_confdir
from tests.support.mitmdump import ROOT

PAGE = ROOT / "docs" / "reliability.md"
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


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| what | must be | was | |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {must} | {was} | {'✓' if good else '✗'} |" for what, must, was, good in rows
    ]
    return "\n".join(lines)


def write(rows: list[Row]) -> None:
    """Between the two marks of the page."""
    today = datetime.datetime.now(datetime.UTC).date()
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python"
    where += f" {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    text = f"{BEGIN}\nMeasured on {today} by `make chaos` ({where}).\n\n{table(rows)}\n{END}"
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + text + rest.partition(END)[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--replay-mib", type=int, default=1024)
    parser.add_argument("--dry-run", action="store_true", help="leave docs/reliability.md alone")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for step in (
        run_faults,
        run_disks,
        lambda: run_replay(arguments.replay_mib),
        lambda: run_kills(arguments.kills),
    ):
        new = step()
        print(table(new), flush=True)
        rows += new
    if not arguments.dry_run:
        write(rows)
    return 0 if all(good for *_, good in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
