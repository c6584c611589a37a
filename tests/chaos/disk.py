"""A disk that is full, and one that is read-only, in a file system of our own (root needed)."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.engine import Rig
from tests.support.faulty import FaultyBackend
from tests.support.faulty import status

SIZE_KIB = 16384
URL = "http://example.test/"
RECOVERY = 10.0


class CannotMountError(Exception):
    """Not root, or in a container that may not mount."""


@contextlib.contextmanager
def small_disk(path: Path, *options: str) -> Iterator[Path]:
    """A tmpfs of SIZE_KIB."""
    path.mkdir()
    flags = ",".join([f"size={SIZE_KIB}k", *options])
    mount = ["mount", "-t", "tmpfs", "-o", flags, "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotMountError(done.stderr.strip())
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path, leave_kib: int) -> Path:
    """A file that takes all but this much."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with filler.open("r+b") as file:
        file.truncate(max(0, filler.stat().st_size - leave_kib * 1024))
    return filler


@dataclass(frozen=True)
class Result:
    """`missing` and `unrecorded` must be 0."""

    answered: int
    refused: int
    unrecorded: int
    """Answered with anything but 503, and without a record."""
    missing: int
    recovery_seconds: float


async def full(directory: Path, *, by_others: bool) -> Result:
    """The backend is away and the disk runs full, by our own records or by somebody else's file;
    then the backend comes back, or the file goes.
    """
    with small_disk(directory / "disk") as disk, FaultyBackend() as backend:
        async with Rig(backend.url, disk, HTTPX_TIMEOUT="5") as rig:
            await rig.wait_for_rules()
            assert (await rig.ask(URL)).status == 200
            backend.spoil("/activity", status(503))
            filler = fill(disk, leave_kib=64) if by_others else None
            refused, unrecorded = 0, 0
            started = time.monotonic()
            while refused < 20 and time.monotonic() - started < 60:
                before = len(rig.recorded)
                outcome = await rig.ask(f"{URL}{'x' * 2000}")
                was_recorded = len(rig.recorded) > before
                # Where the record is refused the hooks replace the answer by a 503.
                refused += outcome.status == 503 or not was_recorded
                unrecorded += outcome.status != 503 and not was_recorded and refused > 3
                await asyncio.sleep(0.01 if refused else 0)
            assert refused >= 20, "the disk never ran full"
            if filler is not None:
                filler.unlink()
            backend.spoil("/activity", None)
            started = time.monotonic()
            while (await rig.ask(URL)).status != 200 and time.monotonic() - started < RECOVERY:
                await asyncio.sleep(0.1)
            recovery = time.monotonic() - started
            with contextlib.suppress(AssertionError):
                await rig.wait_for(lambda: rig.stats["spool_depth"] == 0, 30)
            missing = len(set(rig.recorded) - set(backend.records()))
            return Result(len(rig.recorded), refused, unrecorded, missing, recovery)


async def read_only(directory: Path) -> str:
    """What is said at the start: one line that names the directory."""
    with small_disk(directory / "disk", "ro") as disk:
        try:
            Rig("http://127.0.0.1:1", disk)
        except RuntimeError as error:
            return str(error)
        raise AssertionError("it started without a spool")
