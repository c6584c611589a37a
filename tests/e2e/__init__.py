"""End to end: real clients, a real gateway, backend and upstream proxies, all on this machine."""

import pytest

pytest.register_assert_rewrite("tests.e2e.world")
