"""One running gateway for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.forwarding.rig import Rig


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates of all rigs: making a CA takes longer than most tests."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
async def rig(directory: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A running gateway; `@pytest.mark.parametrize("rig", [{option: value}], indirect=True)`."""
    rig = Rig(directory)
    await rig.start(**getattr(request, "param", {}))
    yield rig
    await rig.close()
