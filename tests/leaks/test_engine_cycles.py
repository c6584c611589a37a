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

from mitmproxy import connection
from mitmproxy import http
from mitmproxy.test import tflow

from mitm_forwarder import _core
from mitm_forwarder import errors
from mitm_forwarder import options
from mitm_forwarder.bridge import Bridge
from mitm_forwarder.routes import Route

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


def answer(reason: str, request_id: str, method: str, detail: str | None) -> http.Response:
    return errors.make_response(reason, request_id, method=method, detail=detail)


def log(level: int, text: str) -> None:
    """Nobody reads it."""


def make_engine(config: options.Config) -> _core.Engine:
    return _core.Engine(
        config,
        loop=asyncio.get_running_loop(),
        server=connection.Server,
        route=Route,
        answer=answer,
        log=log,
    )


async def cycle(config: options.Config, secrets: options.Secrets, number: int) -> None:
    """One life, of four kinds in turn."""
    match number % 4:
        case 0:
            make_engine(config).stop(0.0)
        case 1:
            await serve_one_request(make_engine(config), wait=True)
        case 2:
            await serve_one_request(make_engine(config), wait=False)
        case 3:
            bridge = Bridge(config, secrets)
            bridge.start()
            bridge.stop()


async def serve_one_request(engine: _core.Engine, *, wait: bool) -> None:
    """Without `wait` the engine is stopped while the request is undecided."""
    loop = asyncio.get_running_loop()
    loop.add_reader(engine.fileno(), engine.drain)
    engine.start()
    flow = tflow.tflow()
    flow.request.headers["authorization"] = "Bearer a-token"
    pending = engine.begin(flow)
    if pending is not None and wait:
        await asyncio.wait_for(pending, PATIENCE)
    loop.remove_reader(engine.fileno())
    engine.stop(0.0)
    if pending is not None:
        await asyncio.wait_for(pending, PATIENCE)
    assert flow.response is not None and flow.response.status_code == 503
    assert engine.record(flow)
    engine.finish(flow)


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
    first, _, last = samples
    assert last.descriptors == first.descriptors
    assert last.threads == first.threads == 1
    growth = (last.rss_bytes - first.rss_bytes) / (CYCLES - WARM_UP)
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
