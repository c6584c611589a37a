"""1,000 engines made, started, used, stopped and freed in one process: nothing may pile up.

Run by `make leak` in a process of its own (`python tests/leaks/test_engine_cycles.py`): memory of a
process that has run other tests says nothing.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from mitmproxy.test import tflow

from mitm_forwarder import options
from mitm_forwarder.bridge import Bridge

CYCLES = 1000
WARM_UP = 300
"""Until then allocators, caches and lazily made objects grow; what they have then must do."""
GROWTH_MAX_BYTES_A_CYCLE = 512
"""The smallest thing of which one is lost in each cycle, an engine's own struct, is larger."""
PATIENCE = 30.0


class Usage(NamedTuple):
    """What this process holds."""

    rss_bytes: int
    descriptors: int
    threads: int


def usage() -> Usage:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    threads = len(os.listdir("/proc/self/task"))
    return Usage(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), threads)


async def cycle(config: options.Config, secrets: options.Secrets, number: int) -> None:
    """One life, of four kinds in turn: never started, idle, busy, busy while it is stopped."""
    bridge = Bridge(config, secrets)
    kind = number % 4
    if kind > 0:
        bridge.start()
    if kind > 1:
        await serve_one_request(bridge, must_wait=kind == 2)
    bridge.stop()


async def serve_one_request(bridge: Bridge, *, must_wait: bool) -> None:
    """The backend refuses, so there are no rules and the answer is 503."""
    flow = tflow.tflow()
    flow.request.headers["authorization"] = "Bearer a-token"
    pending = bridge.engine.begin(flow)
    if not must_wait:
        bridge.stop()
    if pending is not None:
        await asyncio.wait_for(pending, PATIENCE)
    assert flow.response is not None and flow.response.status_code == 503
    assert bridge.engine.record(flow) is must_wait  # a stopped engine takes no records
    bridge.finish(flow)


async def run(config: options.Config, secrets: options.Secrets) -> list[Usage]:
    """Usage after the warm-up, in the middle and in the end."""
    samples = []
    for number in range(CYCLES):
        await cycle(config, secrets, number)
        if number + 1 in (WARM_UP, (WARM_UP + CYCLES) // 2, CYCLES):
            samples.append(usage())
            print(f"{number + 1} cycles: {samples[-1]}", flush=True)
    return samples


def check(samples: list[Usage]) -> None:
    first, middle, last = samples
    assert last.descriptors == first.descriptors
    assert last.threads == first.threads == 1
    # What every cycle loses is lost in both halves; an allocator that asks for memory once is not.
    lost = min(middle.rss_bytes - first.rss_bytes, last.rss_bytes - middle.rss_bytes)
    growth = lost / ((CYCLES - WARM_UP) / 2)
    print(f"growth: {growth:.0f} bytes a cycle")
    assert growth <= GROWTH_MAX_BYTES_A_CYCLE


def main() -> int:
    if not Path("/proc/self/statm").exists():
        print("left out: no /proc on this system")
        return 0
    with tempfile.TemporaryDirectory() as directory, socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and nobody listens: the backend refuses
        environ = {
            "SYSTEM_TOKEN": "a-system-token",
            "FASTAPI_BASE_URL": f"http://127.0.0.1:{reserved.getsockname()[1]}",
            "STATE_DIR": directory,
        }
        logging.disable()  # every cycle says that the backend cannot be reached
        config = options.load(environ=environ, cwd=Path(directory))
        secrets = options.Secrets(environ=environ, cwd=Path(directory))
        check(asyncio.run(run(config, secrets)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
