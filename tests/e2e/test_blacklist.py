"""The rule set while it changes: refreshes, broken rules, outages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.e2e.conftest import Start
from tests.e2e.world import World
from tests.e2e.world import error_of
from tests.support.backend import Backend
from tests.support.backend import wait_until


@pytest.mark.smoke
def test_rule_comes_into_force_and_goes(world: World) -> None:
    assert world.get(world.url("/soon-blocked")).status == 200
    with world.rule("/soon-blocked"):
        answer = world.get(world.url("/soon-blocked"))
        assert (answer.status, error_of(answer)) == (403, "blacklisted")
    assert world.get(world.url("/soon-blocked")).status == 200


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_connection_that_is_open_meets_new_rules(world: World, tls: bool) -> None:
    """Also inside a tunnel that was allowed before."""
    with world.client(tls=tls) as client:
        url = world.url("/open-connection", tls=tls)
        assert client.request("GET", url, token=world.token).status == 200
        with world.rule("/open-connection"):
            url = world.url("/open-connection", tls=tls)
            assert client.request("GET", url, token=world.token).status == 403


@pytest.mark.smoke
def test_broken_rule_is_named_and_the_others_hold(start: Start, world: World) -> None:
    with Backend() as backend:
        backend.add_proxy("127.0.0.1", world.proxy.port)
        backend.add_rule("/first-rule")
        broken = backend.add_unchecked_rule("(unclosed")
        backend.add_rule("/last-rule")
        gateway = start(backend_url=backend.url, system_token=backend.system_token)
        gateway.wait_for_log(rf"rule id={broken} is not in force")
        gateway.wait_for_log(r"Refreshed blacklist cache: 3 rules \(2 compiled, 1 rejected\)")
        here = replace(
            world, gateway=gateway, backend=backend, token=backend.add_user(), proxy_id=1
        )
        for path, status in (("/first-rule", 403), ("/last-rule", 403), ("/(unclosed", 200)):
            assert here.get(here.url(path)).status == status


def test_search_is_not_anchored_and_case_matters(world: World) -> None:
    """As Python's re.search has it; only the host is folded."""
    with world.rule(r"Needle\d{3}"):
        for path, status in (("/a/xNeedle123y", 403), ("/a/needle123", 200), ("/a/Needle12", 200)):
            assert world.get(world.url(path)).status == status


def test_spellings_of_a_path(world: World) -> None:
    with world.rule(r"^http://[^/]+/hidden-path"):
        for path in ("/%68idden-path", "/x/../hidden-path", "/./hidden-path", "/hidden%2Dpath"):
            assert world.get(world.url(path)).status == 403, path


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 401},
        {"status": 404},
        {"status": 200, "body": "<html>"},
        {"status": 200, "body": "[]", "truncate": True},
        {"status": 200, "body": {"rules": []}},
        {"status": 200, "body": '[{"id": 1}]'},
        {"status": 200, "body": "[" * 40 + "]" * 40},
        {"status": 200, "body": "[" + " " * 65536 + "]"},
    ],
    ids=["500", "401", "404", "garbage", "truncated", "no-list", "no-pattern", "deep", "large"],
)
def test_bad_refresh_keeps_the_last_set(
    start: Start, world: World, fault: dict[str, object]
) -> None:
    rule = world.backend.add_rule("/kept-rule")
    try:
        gateway = start(env={"BLACKLIST_MAX_BYTES": "65536"})
        here = replace(world, gateway=gateway)
        mark = len(gateway.log())
        world.backend.fault("/blacklist", **fault)  # type: ignore[arg-type]
        gateway.wait_for_log("Blacklist refresh failed: .*last good rule set", after=mark)
        assert here.get(here.url("/kept-rule")).status == 403
        assert here.get(here.url()).status == 200
    finally:
        world.backend.clear_faults()
        world.backend.delete_rule(rule)


def test_outage_keeps_the_last_set(start: Start, world: World) -> None:
    with Backend() as backend:
        backend.add_rule("/kept-through-outage")
        gateway = start(backend_url=backend.url, system_token=backend.system_token)
        here = replace(world, gateway=gateway, backend=backend)
        mark = len(gateway.log())
        backend.kill()
        gateway.wait_for_log("Blacklist refresh failed", after=mark)
        assert here.get(here.url("/kept-through-outage")).status == 403
        answer = here.get(here.url())
        assert (answer.status, error_of(answer)) == (502, "backend_unreachable")


def test_unchanged_list_is_not_sent_again(world: World) -> None:
    """The ETag comes back, and the answer is a 304."""

    def saved() -> bool:
        last = world.backend.calls("/blacklist")[-1]
        return last.status == 304 and "if-none-match" in last.headers

    wait_until(saved, 10, "a conditional refresh")


def test_empty_list_allows(start: Start, world: World) -> None:
    world.backend.fault("/blacklist", status=200, body="[]")
    gateway = start()
    gateway.wait_for_log(r"Refreshed blacklist cache: 0 rules \(0 compiled, 0 rejected\)")
    assert replace(world, gateway=gateway).get(world.url()).status == 200
