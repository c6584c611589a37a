"""Instructions per request under callgrind: `python -m bench.ir [-k plain,tls,new] ROW...`.

What the machine is doing otherwise does not matter, so this is what a change is judged by; a run
repeats to about 2 %. The first row is what the others are compared with. Needs valgrind and Go.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench.gateways import ROWS
from bench.gateways import Gateway
from bench.rig import BUILD
from bench.rig import Rig

GATE = {"plain": 0.32, "tls": 0.42, "new": 0.50}
"""The most that the launcher may need, as a part of bare mitmdump."""


def measure(gateway: Gateway, rig: Rig, kind: str, count: int, keep: bool) -> float:
    """Millions of user instructions per request, after as many requests to warm up."""
    flags = ("-count", str(count), "-clients", "4")
    rig.load(gateway.port, kind, *flags)
    _control(gateway, "instrumentation", "on")
    _control(gateway, "zero")
    result = rig.load(gateway.port, kind, *flags)
    profile = _dump(gateway)
    _control(gateway, "instrumentation", "off")
    if result["bad"]:
        sys.exit(f"{gateway.row.name}: {result['bad']} requests failed; see {gateway.log}")
    found = re.search(r"^(?:totals|summary): (\d+)", profile.read_text(), re.M)
    assert found is not None
    if keep:
        shutil.copy(profile, BUILD / f"{gateway.row.name}-{kind}.callgrind")
    return int(found[1]) / (result["good"] + result["bad"]) / 1e6


def _control(gateway: Gateway, *command: str) -> None:
    prefix = f"--vgdb-prefix={gateway.directory}/vgdb"
    for _ in range(10):
        done = subprocess.run(
            ["vgdb", f"--pid={gateway.process.pid}", prefix, *command], capture_output=True
        )
        if done.returncode == 0:
            return
        time.sleep(0.5)
    sys.exit(f"callgrind cannot be reached: {done.stderr.decode()}")


def _dump(gateway: Gateway) -> Path:
    """Callgrind numbers its dumps; the newest is the one asked for."""
    before = set(gateway.directory.glob("callgrind.*"))
    _control(gateway, "dump")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        new = [p for p in gateway.directory.glob("callgrind.*") if p not in before]
        if new and re.search(r"^(totals|summary):", new[0].read_text(), re.M):
            return new[0]
        time.sleep(0.1)
    sys.exit("callgrind writes no profile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", "--kinds", default="plain,tls,new")
    parser.add_argument("-n", "--count", type=int, default=150)
    parser.add_argument("--keep", action="store_true", help="keep the profiles in build/bench")
    parser.add_argument("--gate", action="store_true", help="fail where the launcher is over it")
    parser.add_argument("rows", nargs="*", default=["bare", "script", "launcher", "launcher-ec"])
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("make bench-ir needs valgrind: apt-get install valgrind")
    first: dict[str, float] = {}
    over = []
    with Rig() as rig:
        for name in options.rows:
            cells = []
            with started(name, rig) as gateway:
                for kind in options.kinds.split(","):
                    value = measure(gateway, rig, kind, options.count, options.keep)
                    ratio = value / first.setdefault(kind, value)
                    cells.append(f"{kind} {value:7.3f} M ({ratio:.3f})")
                    if name == "launcher" and ratio > GATE.get(kind, 1.0):
                        over.append(f"{kind}: {ratio:.3f} of bare, more than {GATE[kind]}")
            print(f"{name:12}" + "   ".join(cells), flush=True)
    if options.gate and over:
        sys.exit("\n".join(over))


def started(name: str, rig: Rig) -> Gateway:
    row = ROWS[name]
    directory = BUILD / "run"
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(directory)
    gateway = Gateway(row, rig, CALLGRIND)
    gateway.wait_until_ready(rig)
    return gateway


CALLGRIND = (
    "valgrind",
    "--tool=callgrind",
    "--instr-atstart=no",
    "--callgrind-out-file=callgrind.%p",
    "--vgdb-prefix=vgdb",
)

if __name__ == "__main__":
    main()
