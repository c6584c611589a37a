"""What a refresh costs the thread of the event loop: a real engine on an asyncio loop, and a
backend in another process whose list of 100,000 rules changes at every call.

The thread's processor time from asking for the refresh until the new rules are in place, and,
beside it, over as long a time in which nothing happens.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from http.server import BaseHTTPRequestHandler
from http.server import HTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import data

from mitm_forwarder import _core
from mitm_forwarder import options

COUNT = 100_000
ROUNDS = 15
SETTLE_SECONDS = 0.05
"""Within that the loop has drained what came with the last line of a refresh."""


def bodies(kind: str) -> list[bytes]:
    """Two lists: `changed` differ in a hundredth of their rules, `other` in all."""
    first = data.rule_set("dot", COUNT).patterns
    if kind == "changed":
        second = [f"{p}x" if i % 100 == 0 else p for i, p in enumerate(first)]
    else:
        second = data.rule_set("mix", COUNT).patterns
    return [
        json.dumps([{"id": i, "pattern": p} for i, p in enumerate(patterns)]).encode()
        for patterns in (first, second)
    ]


def serve(kind: str, port: Connection) -> None:
    """Answers every call with the one list or the other, in turn."""
    lists = bodies(kind)
    asked = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal asked
            body = lists[asked % 2]
            asked += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()


async def spent_ms(engine: _core.Engine, arrived: asyncio.Event) -> tuple[float, float]:
    """The loop thread's milliseconds for one refresh, and for as long without one."""
    arrived.clear()
    started, cpu = time.monotonic(), time.thread_time()
    engine.refresh()
    await arrived.wait()
    await asyncio.sleep(SETTLE_SECONDS)
    busy_ms = (time.thread_time() - cpu) * 1e3
    elapsed = time.monotonic() - started
    cpu = time.thread_time()
    await asyncio.sleep(elapsed - SETTLE_SECONDS)
    await asyncio.sleep(SETTLE_SECONDS)
    return busy_ms, (time.thread_time() - cpu) * 1e3


async def refreshes(port: int, directory: Path) -> list[tuple[float, float]]:
    """One pair for each refresh but the first."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    environ = {
        "SYSTEM_TOKEN": "bench",
        "FASTAPI_BASE_URL": f"http://127.0.0.1:{port}",
        "STATE_DIR": str(directory),
        "HOME": str(directory),
        "BLACKLIST_REFRESH_SECONDS": "3600",
        "HTTPX_TIMEOUT": "60",
    }
    logger = logging.getLogger("bench.refresh")

    def log(level: int, text: str) -> None:
        logger.log(level, text)
        if text.startswith("Refreshed blacklist cache"):
            arrived.set()

    engine = _core.Engine(
        options.load(None, environ, directory),
        loop=loop,
        server=None,
        route=None,
        answer=None,
        log=log,
        tunnels={},
    )
    loop.add_reader(engine.fileno(), engine.drain)
    engine.start()
    await arrived.wait()
    await asyncio.sleep(SETTLE_SECONDS)
    pairs = [await spent_ms(engine, arrived) for _ in range(ROUNDS)]
    assert engine.stats()["refreshes"] == ROUNDS + 1, engine.stats()
    loop.remove_reader(engine.fileno())
    engine.stop(0.0)
    return pairs


def measure(kind: str) -> dict[str, float]:
    """Median and worst: as they are, and without what the idle loop takes in the median."""
    mine, theirs = multiprocessing.Pipe()
    backend = multiprocessing.Process(target=serve, args=(kind, theirs), daemon=True)
    backend.start()
    try:
        with tempfile.TemporaryDirectory() as directory, Path(os.devnull).open("w") as nowhere:
            # The lines are formatted and written as in the gateway, only not to be seen.
            logging.basicConfig(level=logging.INFO, stream=nowhere, force=True)
            pairs = asyncio.run(refreshes(mine.recv(), Path(directory)))
    finally:
        backend.kill()
        backend.join()
    busy = [pair[0] for pair in pairs]
    idle = statistics.median(pair[1] for pair in pairs)
    return {
        "median_ms": statistics.median(busy),
        "worst_ms": max(busy),
        "net_median_ms": statistics.median(busy) - idle,
        "net_worst_ms": max(busy) - idle,
        "idle_ms": idle,
        "refreshes": len(busy),
    }
