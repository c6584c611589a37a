"""The last good blacklist: in force after a restart without a backend, and never made worse by a
list that cannot be meant.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.e2e.world import World
from tests.e2e.world import error_of
from tests.support.backend import Backend
from tests.support.backend import wait_until

IN_FORCE = "The blacklist in force is the last good one"


@pytest.fixture
def backend() -> Iterator[Backend]:
    """Of the test's own, since it goes down."""
    with Backend() as backend:
        backend.add_rule("/kept-on-disk")
        yield backend


@pytest.fixture
def begin(start: Start, world: World, backend: Backend, tmp_path: Path) -> Callable[..., World]:
    """Starts a gateway over that backend; each one continues with the same state."""
    token = backend.add_user()

    def begin(**settings: Any) -> World:
        gateway = start(
            backend_url=settings.pop("backend_url", backend.url),
            system_token=backend.system_token,
            state_dir=tmp_path / "state",
            **settings,
        )
        return replace(world, backend=backend, gateway=gateway, token=token)

    return begin


@pytest.fixture
def kept(begin: Callable[..., World], tmp_path: Path) -> Path:
    """The file, left by a gateway that has ended."""
    here = begin()
    file = tmp_path / "state" / "blacklist"
    wait_until(file.exists, 10, "the file")
    assert here.gateway.stop() == 0
    assert file.stat().st_mode & 0o777 == 0o600
    return file


def errors(here: World) -> tuple[str, str]:
    """For the blocked and for another URL."""
    return error_of(here.get(here.url("/kept-on-disk"))), error_of(here.get(here.url("/other")))


@pytest.mark.smoke
def test_restart_without_backend_enforces(
    begin: Callable[..., World], kept: Path, backend: Backend
) -> None:
    backend.kill()
    here = begin(wait_for_rules=False)
    assert errors(here) == ("blacklisted", "backend_unreachable")
    line = here.gateway.wait_for_log(IN_FORCE + r".* from (\S+): 1 rules, .* (\d+) seconds ago")
    assert line[1] == str(kept)
    assert int(line[2]) < 60
    backend.start()
    wait_until(lambda: error_of(here.get(here.url("/other"))) == "no_proxy", 10, "the backend")


def test_age_counts_by_the_wall_clock(
    begin: Callable[..., World], kept: Path, backend: Backend
) -> None:
    backend.kill()
    hour_ago = time.time() - 3600
    os.utime(kept, (hour_ago, hour_ago))
    here = begin(wait_for_rules=False, env={"BLACKLIST_MAX_STALE_SECONDS": "1800"})
    assert errors(here) == ("stale_rules", "stale_rules")
    here.gateway.stop()
    here = begin(wait_for_rules=False, env={"BLACKLIST_MAX_STALE_SECONDS": "7200"})
    assert errors(here) == ("blacklisted", "backend_unreachable")
    here.gateway.stop()
    os.utime(kept, (time.time() + 86400,) * 2)
    here = begin(wait_for_rules=False, env={"BLACKLIST_MAX_STALE_SECONDS": "7200"})
    assert errors(here) == ("stale_rules", "stale_rules")
    here.gateway.wait_for_log("confirmed by the backend at an unknown time")


def test_list_that_was_kept_is_confirmed_not_sent(
    begin: Callable[..., World], kept: Path, backend: Backend
) -> None:
    """The first call of the new process has the ETag, and the file's date moves on."""
    before = len(backend.calls("/blacklist"))
    os.utime(kept, (1e9, 1e9))
    here = begin()
    first = backend.calls("/blacklist")[before]
    assert (first.status, "if-none-match" in first.headers) == (304, True)
    assert errors(here) == ("blacklisted", "no_proxy")
    wait_until(lambda: kept.stat().st_mtime > time.time() - 600, 10, "the file's date to move")


def test_rules_of_today_come_before_those_of_yesterday(
    begin: Callable[..., World], kept: Path, backend: Backend
) -> None:
    backend.add_rule("/new-today")
    here = begin(wait_for_rules=False)
    assert error_of(here.get(here.url("/new-today"))) == "blacklisted"
    assert IN_FORCE not in here.gateway.log()
    wait_until(lambda: b"new-today" in kept.read_bytes(), 10, "the new list on disk")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_damaged_file_is_not_used(
    begin: Callable[..., World], kept: Path, backend: Backend, damage: str
) -> None:
    backend.kill()
    content = kept.read_bytes()
    if damage == "flip":
        kept.write_bytes(content.replace(b"kept-on-disk", b"kept-on-disc"))
    elif damage == "cut":
        kept.write_bytes(content[:-1])
    elif damage == "empty":
        kept.write_bytes(b"")
    settings = {"backend_url": "http://127.0.0.1:1"} if damage == "other" else {}
    here = begin(wait_for_rules=False, **settings)
    assert errors(here) == ("no_rules", "no_rules")
    here.gateway.wait_for_log("blacklist that was kept in .* cannot be used: it is")


def test_directory_that_cannot_be_written_is_said(
    start: Start, world: World, backend: Backend, tmp_path: Path
) -> None:
    """The rules are in force all the same."""
    state = tmp_path / "state"
    (state / "blacklist.new").mkdir(parents=True)
    gateway = start(backend_url=backend.url, system_token=backend.system_token, state_dir=state)
    gateway.wait_for_log("The blacklist could not be kept in ")
    here = replace(world, gateway=gateway, backend=backend, token=backend.add_user())
    assert errors(here) == ("blacklisted", "no_proxy")
    (state / "blacklist.new").rmdir()
    wait_until((state / "blacklist").exists, 10, "another try")


def rules(count: int) -> str:
    return json.dumps([{"id": i, "pattern": f"/kept-on-disk|/rule-{i}-end"} for i in range(count)])


def test_administrator_who_deletes_everything_is_obeyed(
    begin: Callable[..., World], backend: Backend
) -> None:
    backend.fault("/blacklist", status=200, body=rules(10))
    here = begin()
    assert error_of(here.get(here.url("/rule-9-end"))) == "blacklisted"
    backend.clear_faults()
    backend.fault("/blacklist", status=200, body="[]")
    here.gateway.wait_for_log("lost more than half of its rules: 0 are left of 10")
    here.gateway.wait_for_log(r"Refreshed blacklist cache: 0 rules")
    assert error_of(here.get(here.url("/rule-9-end"))) == "no_proxy"


def test_shrinking_can_be_forbidden(begin: Callable[..., World], backend: Backend) -> None:
    backend.fault("/blacklist", status=200, body=rules(10))
    here = begin(env={"BLACKLIST_MAX_SHRINK_PERCENT": "20"})
    backend.clear_faults()
    backend.fault("/blacklist", status=200, body=rules(7))
    here.gateway.wait_for_log("Blacklist refresh failed: 7 rules are left of 10")
    assert error_of(here.get(here.url("/rule-9-end"))) == "blacklisted"
    backend.clear_faults()
    backend.fault("/blacklist", status=200, body=rules(8))
    here.gateway.wait_for_log("Refreshed blacklist cache: 8 rules")
    assert error_of(here.get(here.url("/rule-9-end"))) == "no_proxy"


def test_duplicates_are_handled(begin: Callable[..., World], backend: Backend) -> None:
    """The same pattern twice, and one id for two rules: all are in force."""
    listed = [
        {"id": 1, "pattern": "/first"},
        {"id": 1, "pattern": "/second"},
        {"id": 2, "pattern": "/first"},
    ]
    backend.fault("/blacklist", status=200, body=json.dumps(listed))
    here = begin()
    here.gateway.wait_for_log("1 with the pattern of one before them")
    for path in ("/first", "/second"):
        assert error_of(here.get(here.url(path))) == "blacklisted"


def test_quarantined_rule_is_named(begin: Callable[..., World], backend: Backend) -> None:
    rule = backend.add_unchecked_rule(r"/(a+)+$x|/(a|a)*!$")
    here = begin()
    here.gateway.wait_for_log(rf"Blacklist rule id={rule} is in quarantine")
