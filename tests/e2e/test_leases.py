"""Leases as a backend grants them with Cache-Control: through the whole gateway."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import Start
from tests.e2e.world import World
from tests.e2e.world import error_of
from tests.support.backend import wait_until
from tests.support.gateway import Gateway
from tests.support.proxies import ExampleProxy

Around = Callable[[Gateway], World]


@pytest.fixture
def here(start: Start, around: Around) -> World:
    """With a gateway of the test's own: the others must not meet its leases."""
    return around(start())


def grant(here: World, cache_control: str) -> None:
    """The application answers, and its answer says so."""
    here.backend.fault("/proxy", headers={"Cache-Control": cache_control})


def was_asked(
    here: World, url: str, *, token: str | None = None, user_id: int | None = None
) -> int:
    """Sends a request, looks at its record, and says how often the backend was asked about it."""
    assert here.get(url, token=token or here.token).status == 200
    here.record(url, 200, proxy_id=here.proxy_id, user_id=user_id or here.user_id)
    return here.proxy_calls(url)


@pytest.mark.smoke
def test_lease_is_one_user_s_for_one_target(here: World) -> None:
    """Others are asked for, and a record names whoever it was."""
    grant(here, "private, max-age=60")
    assert was_asked(here, here.url()) == 1
    assert was_asked(here, here.url()) == 0
    assert was_asked(here, here.url(host="localhost")) == 1
    assert was_asked(here, here.url(tls=True)) == 1
    other_id = here.backend.add_user_id()
    other = here.backend.token(other_id)
    assert was_asked(here, here.url(), token=other, user_id=other_id) == 1
    assert was_asked(here, here.url(), token=other, user_id=other_id) == 0
    assert was_asked(here, here.url()) == 0
    # A token that the backend does not know gets nothing of anybody's lease.
    url = here.url()
    assert here.get(url, token="unknown").status == 401
    assert here.proxy_calls(url) == 1


def test_lease_ends(here: World) -> None:
    """With max-age; and what was blacklisted meanwhile stays blacklisted."""
    grant(here, "max-age=2")
    asked_at = time.monotonic()
    assert was_asked(here, here.url()) == 1
    wait_until(lambda: was_asked(here, here.url()) == 1, 10, "the end of the lease")
    assert time.monotonic() - asked_at > 1.9
    grant(here, "max-age=60")
    wait_until(lambda: was_asked(here, here.url()) == 0, 10, "another lease")
    with here.rule(r"/secret\?"):
        assert here.get(here.url("/secret")).status == 403
        assert was_asked(here, here.url()) == 0


@pytest.mark.parametrize("cache_control", ["no-store", "no-store, max-age=60"])
def test_no_lease(cache_control: str, here: World) -> None:
    grant(here, cache_control)
    assert [was_asked(here, here.url()) for _ in range(3)] == [1, 1, 1]


def test_leased_proxy_goes_away(here: World) -> None:
    """The request that finds out asks the backend, and the lease is used no more."""
    with ExampleProxy() as leaving:
        here.openers.append(leaving)
        body = {"id": 9001, "ip": "127.0.0.1", "port": leaving.port, "protocol": "http"}
        body |= {"address": f"127.0.0.1:{leaving.port}", "user_id": here.user_id}
        lease = {"Cache-Control": "max-age=60"}
        here.backend.fault("/proxy", status=200, body=body, headers=lease)
        for asked in (1, 0):
            url = here.url()
            assert here.get(url).status == 200
            here.record(url, 200, proxy_id=9001)
            assert here.proxy_calls(url) == asked
    here.backend.fault("/proxy", status=404, body={})
    errors = []
    for _ in range(2):
        url = here.url()
        errors.append(error_of(here.get(url)))
        assert here.proxy_calls(url) == 1
    # The second one was not sent to where the first one found nobody.
    assert errors == ["proxy_unreachable", "no_proxy"]
    here.backend.clear_faults()
    assert was_asked(here, here.url()) == 1
