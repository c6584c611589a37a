"""For all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mitm_forwarder import turbo

# One machine runs many gateways: the page is for the tests that are about it.
os.environ["METRICS_LISTEN"] = ""


@pytest.fixture(autouse=True)
def stock_mitmproxy() -> Iterator[None]:
    """The cuts of one test are not those of the next, whichever that is."""
    yield
    turbo.uninstall(turbo.installed())
