"""What `make chaos` does, at a size for every day."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import disk
from tests.chaos import kills
from tests.chaos import replay
from tests.support.gateway import make_confdir

pytestmark = pytest.mark.slow


def test_kills(tmp_path: Path) -> None:
    result = kills.run(tmp_path, make_confdir(tmp_path / "confdir"), 40)
    assert (result.kills, result.missing, result.twice) == (40, 0, 0)
    assert result.answered > 40 * kills.WARM_UP / 2


@pytest.mark.parametrize("by_others", [True, False], ids=["by others", "by the spool"])
async def test_full_disk(by_others: bool, tmp_path: Path) -> None:
    try:
        result = await disk.full(tmp_path, by_others=by_others)
    except disk.CannotMountError as error:
        pytest.skip(str(error))
    assert (result.missing, result.unrecorded) == (0, 0)
    assert result.refused >= 20
    assert result.recovery_seconds < 5


async def test_read_only_disk(tmp_path: Path) -> None:
    try:
        said = await disk.read_only(tmp_path)
    except disk.CannotMountError as error:
        pytest.skip(str(error))
    assert "Read-only file system" in said and str(tmp_path) in said


def test_replay(tmp_path: Path) -> None:
    """Speed is measured by `make chaos`; here only what must hold on a busy machine as well."""
    result = replay.run(tmp_path, 32 << 20, seconds=3)
    assert result.start_seconds < 5
    assert result.extra_rss_bytes < 32 << 20
    assert result.drained_per_second > 200
