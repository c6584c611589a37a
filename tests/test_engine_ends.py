"""Ends that nobody has planned: the process exits with its engine running, or forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engine import Rig
from tests.support.faulty import FaultyBackend
from tests.support.mitmdump import ROOT

URL = "http://example.test/"

PROGRAM = """
import asyncio, pathlib, sys
from tests.support.engine import Rig

async def main():
    rig = Rig(sys.argv[1], pathlib.Path(sys.argv[2]), HTTPX_TIMEOUT="20")
    await rig.__aenter__()
    await rig.wait_for_rules()
    assert (await rig.ask("http://example.test/")).status == 200
    {end}

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "1 / 0", "kept.append(rig)"])
async def test_process_ends_with_a_running_engine(end: str, tmp_path: Path) -> None:
    """Its threads are joined before the libraries clean up; the records are sent or kept."""
    program = "kept = []\n" + PROGRAM.format(end=end)
    with FaultyBackend() as backend:
        for number in range(5):
            done = subprocess.run(
                [sys.executable, "-X", "dev", "-c", program, backend.url, str(tmp_path)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            expected = {"sys.exit(3)": 3, "1 / 0": 1}.get(end, 0)
            assert done.returncode == expected, (number, done.stderr)
        async with Rig(backend.url, tmp_path) as rig:
            await rig.wait_for(lambda: backend.stored() == 5)


async def test_fork(tmp_path: Path) -> None:
    """The child has no threads and no part in the parent's journal; the parent goes on."""
    with FaultyBackend() as backend:
        async with Rig(backend.url, tmp_path) as rig:
            await rig.wait_for_rules()
            assert (await rig.ask(URL)).status == 200
            child = os.fork()
            if child == 0:
                try:
                    outcome = await rig.ask(URL)
                    good = outcome.error == "shutting_down" and len(rig.recorded) == 1
                    rig.bridge.engine.refresh()
                    rig.bridge.engine.stop(1.0)
                    os._exit(0 if good else 1)
                finally:
                    os._exit(2)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert (await rig.ask(URL)).status == 200
            await rig.wait_for(lambda: backend.stored() == 2)
            assert set(backend.records()) == set(rig.recorded)


async def test_start_and_stop_again_and_again(tmp_path: Path) -> None:
    """Each engine takes over what the one before has left."""
    with FaultyBackend() as backend:
        for number in range(20):
            async with Rig(backend.url, tmp_path) as rig:
                await rig.wait_for_rules()
                assert (await rig.ask(f"{URL}{number}")).status == 200
        async with Rig(backend.url, tmp_path) as rig:
            await rig.wait_for(lambda: backend.stored() == 20)
        assert len({r["target_url"] for r in backend.records().values()}) == 20
        assert backend.stored() == 20
