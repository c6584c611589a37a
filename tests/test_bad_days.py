"""The backend's bad days: each fault of each endpoint, cold and warm, ends in the documented answer
within its deadline, with a record, without a token where it does not belong; and all is well again
within seconds.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import faulty
from tests.support.engine import SYSTEM_TOKEN
from tests.support.engine import USER_CANARY
from tests.support.engine import USER_TOKEN
from tests.support.engine import Outcome
from tests.support.engine import Rig
from tests.support.faulty import FAULTS
from tests.support.faulty import Fault
from tests.support.faulty import FaultyBackend

DEADLINE = 0.5
SLACK = 0.5
"""What a busy machine needs to run the test's own loop and backend."""
RECOVERY = 5.0
SMALLEST_SPOOL = str(1 << 20)
URL = "http://example.test/path"

every_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)


@pytest.fixture
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as backend:
        yield backend


def deadline(fault: Fault) -> float:
    """Short where it has to be waited for."""
    return DEADLINE if fault.waits else 10 * DEADLINE


def most(fault: Fault) -> float:
    """Seconds until an answer: the deadline and 10 %."""
    return deadline(fault) * 1.1 + SLACK


def spoil(backend: FaultyBackend, path: str, fault: Fault) -> None:
    if fault.spoiler is None:
        backend.refuse()
    else:
        backend.spoil(path, fault.spoiler)


def cure(backend: FaultyBackend, path: str) -> None:
    backend.spoil(path, None)
    backend.listen()


async def recover(rig: Rig) -> float:
    """Seconds until a request is routed again."""
    started = time.monotonic()
    while (await rig.ask(URL)).status != 200:
        assert time.monotonic() - started < RECOVERY
        await asyncio.sleep(0.05)
    return time.monotonic() - started


async def all_delivered(rig: Rig, timeout: float = RECOVERY) -> None:
    await rig.wait_for(lambda: rig.stats["spool_depth"] == 0, timeout, "the records")


def check_records(rig: Rig, backend: FaultyBackend, *, stored: bool = True) -> None:
    """One for each request, with the status that its client saw."""
    records = backend.records()
    if stored:
        assert {key: record["status_code"] for key, record in records.items()} == rig.recorded
    assert rig.stats["records_refused"] == 0


def check_secrets(
    backend: FaultyBackend, outcomes: list[Outcome], log: pytest.LogCaptureFixture
) -> None:
    """The tokens went where they belong, and nowhere else."""
    assert backend.calls("/stolen") == []
    for asked in backend.asked:
        bearer = asked.headers.get("authorization", "")
        owner = USER_TOKEN if asked.path == "/proxy" else SYSTEM_TOKEN
        assert bearer == f"Bearer {owner}"
        assert "accept-encoding" not in asked.headers or (
            asked.headers["accept-encoding"] == "identity"
        )
    shown = log.text + "".join(str(o.flow.response and o.flow.response.content) for o in outcomes)
    assert SYSTEM_TOKEN not in shown and USER_CANARY not in shown


async def ask_spoiled(rig: Rig, fault: Fault, count: int) -> list[Outcome]:
    """What a fault of /proxy must look like to the client. After five failures in a row the breaker
    answers at once.
    """
    outcomes = [await rig.ask(URL) for _ in range(count)]
    for outcome in outcomes:
        if fault.proxy is None:
            assert outcome.status == 200
        else:
            assert (outcome.status, outcome.error) == fault.proxy
        assert outcome.seconds < most(fault)
        assert not fault.waits or outcome.seconds > DEADLINE * 0.9
    return outcomes


@every_fault
async def test_proxy(
    fault: Fault, backend: FaultyBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """GET /proxy: the very first call, later ones, and after it was well in between."""
    async with Rig(backend.url, tmp_path, HTTPX_TIMEOUT=str(deadline(fault))) as rig:
        await rig.wait_for_rules()
        spoil(backend, "/proxy", fault)
        outcomes = await ask_spoiled(rig, fault, 2)
        cure(backend, "/proxy")
        assert await recover(rig) < RECOVERY
        spoil(backend, "/proxy", fault)
        outcomes += await ask_spoiled(rig, fault, 4)
        # The fifth and later: the breaker may be open.
        outcomes += await asyncio.gather(*(rig.ask(URL) for _ in range(20)))
        for outcome in outcomes[6:]:
            expected = {fault.proxy or (200, None), faulty.UNREACHABLE}
            assert (outcome.status, outcome.error) in expected
            assert outcome.seconds < most(fault)
        cure(backend, "/proxy")
        assert await recover(rig) < RECOVERY
        await all_delivered(rig)
        check_records(rig, backend)
        check_secrets(backend, outcomes, caplog)


@every_fault
async def test_blacklist(
    fault: Fault, backend: FaultyBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """GET /blacklist: without a list nobody passes; with one it stays in force."""
    spoil(backend, "/blacklist", fault)
    async with Rig(backend.url, tmp_path, HTTPX_TIMEOUT=str(deadline(fault))) as rig:
        cold = [await rig.ask(URL)]
        if fault.proxy is not None:
            assert (cold[0].status, cold[0].error) == (503, "no_rules")
        assert cold[0].seconds < most(fault)
        cure(backend, "/blacklist")
        await rig.wait_for(lambda: rig.stats["rules"] == 1, RECOVERY, "the rules")
        assert (await rig.ask(URL)).status == 200
        spoil(backend, "/blacklist", fault)
        failures = rig.stats["refresh_failures"]
        if fault.proxy is not None:
            await rig.wait_for(
                lambda: rig.stats["refresh_failures"] > failures, RECOVERY, "a failed refresh"
            )
        blocked = await rig.ask("http://blocked.test/")
        assert (blocked.status, blocked.error) == (403, "blacklisted")
        if fault.spoiler is not None:
            assert (await rig.ask(URL)).status == 200
        cure(backend, "/blacklist")
        seen = len(backend.calls("/blacklist"))
        await rig.wait_for(
            lambda: len(backend.calls("/blacklist")) > seen, RECOVERY, "the next refresh"
        )
        assert await recover(rig) < RECOVERY
        await all_delivered(rig)
        check_records(rig, backend)
        check_secrets(backend, [*cold, blocked], caplog)


@every_fault
async def test_activity(
    fault: Fault, backend: FaultyBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """POST /activity: requests do not notice, records wait, and none is lost or stored twice."""
    async with Rig(backend.url, tmp_path, HTTPX_TIMEOUT=str(deadline(fault))) as rig:
        await rig.wait_for_rules()
        outcomes = []
        if fault.spoiler is None:
            # All three endpoints refuse; a lease routes requests meanwhile.
            backend.headers["/proxy"] = {"Cache-Control": "max-age=60"}
            outcomes += [await rig.ask(URL)]
        for _ in range(2):
            spoil(backend, "/activity", fault)
            outcomes += await asyncio.gather(*(rig.ask(URL) for _ in range(12)))
            if fault.activity_accepts:
                await all_delivered(rig)
            else:
                tried = rig.stats["records_retried"]
                await rig.wait_for(
                    lambda tried=tried: rig.stats["records_retried"] > tried + 1, 15, "two posts"
                )
                assert rig.stats["spool_depth"] >= 12
            cure(backend, "/activity")
            outcomes += [await rig.ask(URL)]
            await all_delivered(rig)
        assert {outcome.status for outcome in outcomes} == {200}
        assert max(outcome.seconds for outcome in outcomes) < most(fault)
        assert rig.stats["records_delivered"] == len(outcomes)
        assert rig.stats["records_buried"] == 0
        check_records(rig, backend, stored=not fault.activity_accepts)
        check_secrets(backend, outcomes, caplog)


async def test_no_storm(backend: FaultyBackend, tmp_path: Path) -> None:
    """While the backend is down it is asked no more often than while it is up."""

    async def load(rig: Rig, seconds: float) -> int:
        before, until = len(backend.asked), time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.gather(*(rig.ask(URL) for _ in range(5)))
            await asyncio.sleep(0.05)
        return len(backend.asked) - before

    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        up = await load(rig, 2.0)
        for path in ("/proxy", "/blacklist", "/activity"):
            backend.spoil(path, faulty.status(503))
        down = await load(rig, 2.0)
        assert down <= 1.2 * up
        assert down < 60  # a probe a second, a refresh now and then, one post at a time
        for path in ("/proxy", "/blacklist", "/activity"):
            backend.spoil(path, None)
        assert await recover(rig) < RECOVERY
        await all_delivered(rig, 10)
        check_records(rig, backend)


async def test_refreshes_back_off(backend: FaultyBackend, tmp_path: Path) -> None:
    """A second after the first failure, two after the next one, a half of that by chance; not the
    minutes that a list is good for.
    """
    backend.spoil("/blacklist", faulty.status(503))
    async with Rig(backend.url, tmp_path, BLACKLIST_REFRESH_SECONDS="600") as rig:
        await rig.wait_for(lambda: len(backend.calls("/blacklist")) >= 3)
        first, second, third = (asked.time for asked in backend.calls("/blacklist")[:3])
        assert 0.45 <= second - first
        assert 0.95 <= third - second
        backend.spoil("/blacklist", None)
        await rig.wait_for_rules()
        assert rig.stats["refresh_failures"] >= 3


async def test_breaker(backend: FaultyBackend, tmp_path: Path) -> None:
    """Open after five failures in a row; then one probe a second and answers at once."""
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        backend.spoil("/proxy", faulty.silent)
        slow = [await rig.ask(URL) for _ in range(5)]
        assert min(outcome.seconds for outcome in slow) > DEADLINE * 0.9
        asked = len(backend.calls("/proxy"))
        fast = [await rig.ask(URL) for _ in range(50)]
        assert max(outcome.seconds for outcome in fast[:10]) < 0.1
        assert len(backend.calls("/proxy")) <= asked + 2
        backend.spoil("/proxy", None)
        assert await recover(rig) < 2.5


async def test_retry_after_is_obeyed(backend: FaultyBackend, tmp_path: Path) -> None:
    """By all posts, also those whose own answer said nothing."""
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        backend.spoil("/activity", faulty.status(429, b"", {"Retry-After": "2"}))
        await asyncio.gather(*(rig.ask(URL) for _ in range(20)))
        await rig.wait_for(lambda: rig.stats["records_retried"] > 0)
        backend.spoil("/activity", None)
        refused = [asked.time for asked in backend.calls("/activity")]
        await all_delivered(rig, 10)
        later = [asked.time for asked in backend.calls("/activity")][len(refused) :]
        assert min(later) - max(refused) > 1.9
        check_records(rig, backend)


@pytest.mark.parametrize(
    ("code", "hint"),
    [(401, "SYSTEM_TOKEN"), (403, "SYSTEM_TOKEN"), (404, "ENDPOINT"), (405, "no POST")],
)
async def test_wrong_setup_pauses_delivery(
    code: int, hint: str, backend: FaultyBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of all records, none of which is refused for good; the log says what is wrong, once. With new
    tokens it goes on at once.
    """
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        backend.spoil("/activity", faulty.together(8, faulty.status(code)))
        await asyncio.gather(*(rig.ask(URL) for _ in range(20)))
        await rig.wait_for(lambda: "delivery is paused" in caplog.text)
        await asyncio.gather(*(rig.ask(URL) for _ in range(20)))
        await rig.wait_for(lambda: rig.stats["spool_depth"] == 40)
        paused = [line for line in caplog.messages if "delivery is paused" in line]
        assert len(paused) == 1 and str(code) in paused[0] and hint in paused[0]
        assert len(backend.calls("/activity")) == 8  # those that were under way already
        assert rig.stats["records_buried"] == 0
        backend.spoil("/activity", None)
        rig.bridge.engine.set_secrets(SYSTEM_TOKEN, None)
        await all_delivered(rig)
        check_records(rig, backend)


@pytest.mark.parametrize("on_full", ["reject", "drop"])
async def test_full_spool(on_full: str, backend: FaultyBackend, tmp_path: Path) -> None:
    """Refused and unrecorded, or answered and the oldest records dropped, which are counted."""
    settings = {"ACTIVITY_SPOOL_MAX_BYTES": SMALLEST_SPOOL, "ACTIVITY_ON_FULL": on_full}
    async with Rig(backend.url, tmp_path, **settings) as rig:
        await rig.wait_for_rules()
        backend.spoil("/activity", faulty.status(503))
        long = URL + "?" + "x" * 7000

        async def fill() -> bool:
            outcomes = await asyncio.gather(*(rig.ask(long) for _ in range(50)))
            refused = [outcome for outcome in outcomes if outcome.status != 200]
            assert {outcome.status for outcome in refused} <= {503}
            return bool(rig.stats["records_dropped"] if on_full == "drop" else refused)

        started = time.monotonic()
        while not await fill():
            assert time.monotonic() - started < 60
        assert (rig.stats["records_dropped"] > 0) == (on_full == "drop")
        # A burst may fill also the eighth in which room is made: refused then, not unrecorded.
        assert rig.stats["records_refused"] > 0 or on_full == "drop"
        backend.spoil("/activity", None)
        await all_delivered(rig, 30)
        assert await recover(rig) < RECOVERY
        await all_delivered(rig)
        assert backend.stored() + rig.stats["records_dropped"] == rig.stats["records"]


async def test_dead_letters(
    backend: FaultyBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A record that is refused for good blocks nobody, is shown, and can be sent again."""
    caplog.set_level(logging.INFO)
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        backend.spoil("/activity", faulty.status(422, b'{"detail": "no\x1b[31m"}'))
        for _ in range(3):
            await rig.ask(URL)
        await rig.wait_for(lambda: rig.stats["spool_dead"] == 3)
        backend.spoil("/activity", None)
        await rig.ask(URL)
        await all_delivered(rig)
        assert backend.stored() == 1
        shown = await _command(rig)
        assert shown.count("  422  ") == 3 and URL in shown and "running" in shown
        assert "\x1b" not in shown and '{"detail": "no' in shown
        key = next(k for k in rig.recorded if k not in backend.records())
        assert key in shown
        assert "waits for delivery" in await _command(rig, "resend", key)
        await rig.wait_for(lambda: backend.stored() == 2, 10, "the record that was sent again")
        assert key in backend.records()
        await _command(rig, "resend", "--all")
        await rig.wait_for(lambda: backend.stored() == 4, 10)
        await all_delivered(rig)
        await rig.wait_for(lambda: rig.stats["spool_dead"] == 0)
        check_records(rig, backend)
        assert "refuses activity record" in caplog.text


async def _command(rig: Rig, *args: str) -> str:
    """`mitm-forwarder spool …` in a process of its own, as it must be."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mitm_forwarder",
        "spool",
        *args,
        env={**rig.environ, "PATH": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode()


# ---- leases, as HTTP grants them


async def test_cache_control_grants_a_lease(backend: FaultyBackend, tmp_path: Path) -> None:
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        backend.headers["/proxy"] = {"Cache-Control": "private, max-age=1"}
        assert (await rig.ask("http://example.test/1")).status == 200
        assert (await rig.ask("http://example.test/2")).status == 200
        assert len(backend.calls("/proxy")) == 1
        await rig.ask("http://other.test/")
        assert len(backend.calls("/proxy")) == 2
        await asyncio.sleep(1.1)
        await rig.ask("http://example.test/3")
        assert len(backend.calls("/proxy")) == 3
        await all_delivered(rig)
        check_records(rig, backend)
        assert {record["user_id"] for record in backend.records().values()} == {7}
        assert {record["proxy_id"] for record in backend.records().values()} == {42}


@pytest.mark.parametrize(
    "header", [None, "no-store", "max-age=0", "no-cache, max-age=60", "private"], ids=str
)
async def test_without_a_lease_each_request_is_a_call(
    header: str | None, backend: FaultyBackend, tmp_path: Path
) -> None:
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        if header is not None:
            backend.headers["/proxy"] = {"Cache-Control": header}
        await asyncio.gather(*(rig.ask(URL) for _ in range(10)))
        assert len(backend.calls("/proxy")) == 10


async def test_no_store_wins_over_ttl(backend: FaultyBackend, tmp_path: Path) -> None:
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        backend.proxy["ttl"] = 60
        backend.headers["/proxy"] = {"Cache-Control": "no-store"}
        await rig.ask(URL)
        await rig.ask(URL)
        assert len(backend.calls("/proxy")) == 2
        backend.headers.clear()
        await rig.ask(URL)
        await rig.ask(URL)
        assert len(backend.calls("/proxy")) == 3


@pytest.mark.parametrize(("code", "status"), [(404, 502), (403, 403), (401, 401), (500, 502)])
@pytest.mark.parametrize("granted", [True, False])
async def test_refusals_are_used_again_only_as_told(
    code: int, status: int, granted: bool, backend: FaultyBackend, tmp_path: Path
) -> None:
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        headers = {"Cache-Control": "max-age=60"} if granted else {}
        backend.spoil("/proxy", faulty.status(code, b"{}", headers))
        outcomes = [await rig.ask(URL) for _ in range(3)]
        assert {outcome.status for outcome in outcomes} == {status}
        assert len({outcome.error for outcome in outcomes}) == 1
        # A failure is nothing to remember, whatever it says of itself.
        assert len(backend.calls("/proxy")) == (1 if granted and code != 500 else 3)
