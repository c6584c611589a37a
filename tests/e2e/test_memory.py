"""Streamed bodies do not stay in memory: the gateway's peak grows by less than a bound.

FORWARDING_MEMORY_MB says how much goes through; `make memory` sends 1 GiB each way.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.world import World

MEGABYTES = int(os.environ.get("FORWARDING_MEMORY_MB", "96"))
BOUND_KB = 32 << 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc"),
]


def peak_kb(pid: int) -> int:
    """VmHWM: the most that was ever resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise AssertionError("no VmHWM")


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("direction", ["down", "up", "up chunked"])
def test_growth(start: Start, world: World, tmp_path: Path, version: str, direction: str) -> None:
    gateway = start()
    trust = ["--cacert", str(gateway.ca_file), "-x", f"http://127.0.0.1:{gateway.port}"]
    token = ["-H", f"Authorization: Bearer {world.token}"]
    command = [
        "curl",
        "-q",
        "-sS",
        version,
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        *trust,
        *token,
    ]

    def send(size: int) -> None:
        if direction == "down":
            arguments = [world.url(f"/bytes/{size}", tls=True)]
        else:
            upload = tmp_path / f"upload-{size}"
            with upload.open("wb") as file:
                file.truncate(size)
            arguments = ["-X", "POST", "-T", str(upload), world.url(tls=True)]
            if direction == "up chunked":
                arguments += ["-H", "Content-Length:", "-H", "Transfer-Encoding: chunked"]
                if version == "--http2":  # knows no chunks: without a length is the same
                    arguments = arguments[:-2]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=500)
        assert (done.stdout, done.returncode) == ("200", 0), done.stderr

    send(4 << 20)
    before = peak_kb(gateway.pid)
    send(MEGABYTES << 20)
    assert peak_kb(gateway.pid) - before < BOUND_KB
