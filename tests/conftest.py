"""For all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mitm_forwarder import turbo


@pytest.fixture(autouse=True)
def stock_mitmproxy() -> Iterator[None]:
    """The cuts of one test are not those of the next, whichever that is."""
    yield
    turbo.uninstall(turbo.installed())
