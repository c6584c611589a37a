"""A backlog of a long outage: how long the start takes, what memory it costs, how fast it drains,
and what new requests feel meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.support.faulty import FaultyBackend
from tests.support.mitmdump import ROOT

BODY = (
    '{"user_id": 7, "endpoint": "http://target.test/%s", "method": "GET", "status_code": 200,'
    ' "target_url": "http://target.test/%s", "proxy_id": 42, "timestamp": 1700000000.0}'
)
FILL = f"""
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
INSERT INTO records (key, body, added_at)
SELECT printf('%08x-%04x-4000-8000-%012x', abs(random()) % 4294967296, abs(random()) % 65536, n),
       CAST(printf('{BODY.replace("'", "''")}', n, n) AS BLOB), 1700000000.0
FROM numbers
"""
RECORD_BYTES = 300
"""A little more than one takes in the file, with its index: a spool beyond its limit is full."""
ARRIVALS_PER_SECOND = 100


@dataclass(frozen=True)
class Result:
    """Seconds, bytes and records."""

    file_bytes: int
    records: int
    start_seconds: float
    extra_rss_bytes: int
    drained_per_second: float
    request_p50_ms_before: float
    request_p50_ms_during: float
    request_p99_ms_during: float


def make_spool(directory: Path, size_bytes: int) -> tuple[int, int]:
    """A spool of about this size in slot 0, as a gateway would have left it; its size and count."""
    program = (
        "import asyncio, sys, pathlib\n"
        "from tests.support.engine import Rig\n"
        "async def main():\n"
        "    async with Rig('http://127.0.0.1:1', pathlib.Path(sys.argv[1])): pass\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", program, str(directory)], cwd=ROOT, check=True)
    path = directory / "state" / "spool" / "0" / "spool.db"
    count = size_bytes // RECORD_BYTES
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA cache_size = -200000")
        database.execute(FILL, (count,))
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size, count


def rss_bytes() -> int:
    """Of this process, now."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match
    return int(match[1]) * 1024


async def _measure(url: str, directory: Path, seconds: float) -> dict[str, float]:
    """In a process of its own, so that its memory is only the engine's."""
    from tests.support.engine import Rig

    async with Rig(url, directory / "warm-up", HTTPX_TIMEOUT="10") as rig:
        await rig.wait_for_rules()
        before = [(await rig.ask("http://example.test/")).seconds * 1000 for _ in range(300)]
        await rig.wait_for(lambda: rig.stats["spool_depth"] == 0)
    rss = rss_bytes()
    started = time.monotonic()
    rig = Rig(url, directory, HTTPX_TIMEOUT="10")
    async with rig:
        await rig.wait_for_rules()
        assert (await rig.ask("http://example.test/")).status == 200
        start_seconds = time.monotonic() - started
        delivered, since = rig.stats["records_delivered"], time.monotonic()
        during, peak = [], 0
        while time.monotonic() - since < seconds and rig.stats["spool_depth"] > 50:
            due = time.monotonic() + 1 / ARRIVALS_PER_SECOND
            outcome = await rig.ask("http://example.test/")
            assert outcome.status == 200
            during.append(outcome.seconds * 1000)
            peak = max(peak, rss_bytes())
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        rate = (rig.stats["records_delivered"] - delivered) / (time.monotonic() - since)
    during.sort()
    return {
        "start_seconds": start_seconds,
        "extra_rss_bytes": max(0, peak - rss),
        "drained_per_second": rate,
        "request_p50_ms_before": statistics.median(before),
        "request_p50_ms_during": statistics.median(during),
        "request_p99_ms_during": during[len(during) * 99 // 100],
    }


def run(directory: Path, size_bytes: int, seconds: float = 10.0) -> Result:
    """Makes the backlog and has a process of its own drain it for so long."""
    size, count = make_spool(directory, size_bytes)
    program = (
        "import asyncio, json, sys, pathlib\n"
        "from tests.chaos import replay\n"
        "coroutine = replay._measure(sys.argv[1], pathlib.Path(sys.argv[2]), float(sys.argv[3]))\n"
        "print(json.dumps(asyncio.run(coroutine)))\n"
    )
    with FaultyBackend(bookkeeping=False) as backend:
        command = [sys.executable, "-c", program, backend.url, str(directory), str(seconds)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Result(size, count, **json.loads(done.stdout.splitlines()[-1]))
