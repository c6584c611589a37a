"""A long URL is matched without the GIL: other threads of the process go on meanwhile."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mitmproxy import http
from mitmproxy.test import tflow
from mitmproxy.test import tutils

from mitm_forwarder import _core
from tests.support import faulty
from tests.support.engine import USER_TOKEN
from tests.support.engine import Rig

# Each is tried for every URL, so that a long one takes a while.
SLOW = [f"[?&][a-z]=[0-9]{{{count}}}$" for count in range(20, 320)]
RULES = [{"id": i, "pattern": p} for i, p in enumerate([*SLOW, "/blocked$"], 1)]
SHORT, LONG = "/blocked", "/" + "x1&a=" * 1500 + "/blocked"


def another_thread_runs_during(call: Callable[[], object], calls: int) -> bool:
    """Does one get its turn during one of so many calls? Nobody is made to give up the GIL here,
    so that it does only where a call drops it.
    """
    turns: list[str] = []
    gate = threading.Lock()
    gate.acquire()

    def wait_and_run() -> None:
        turns.append("ready")
        gate.acquire()
        turns.append("ran")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    thread = threading.Thread(target=wait_and_run)
    try:
        thread.start()
        while not turns:
            time.sleep(0.001)
        # It is at the gate: it was there that it let go of the GIL.
        gate.release()
        for _ in range(calls):
            call()
            if len(turns) > 1:
                return True
        return False
    finally:
        sys.setswitchinterval(interval)
        thread.join()


def make_flow(path: str) -> http.HTTPFlow:
    fields = http.Headers([(b"Authorization", f"Bearer {USER_TOKEN}".encode())])
    flow = tflow.tflow(req=tutils.treq(headers=fields))
    flow.request.url = f"http://a.test{path}"
    return flow


def test_match() -> None:
    rules = _core.Rules(json.dumps(RULES).encode())
    assert rules.match("http", "a.test", 80, LONG)[1] == len(RULES)
    assert another_thread_runs_during(partial(rules.match, "http", "a.test", 80, LONG), 1000)
    assert not another_thread_runs_during(partial(rules.match, "http", "a.test", 80, SHORT), 100)


def test_one_rule_list_in_many_threads() -> None:
    rules = _core.Rules(json.dumps(RULES).encode())
    wrong: list[object] = []

    def match() -> None:
        for path in (LONG, SHORT, LONG[:-1]) * 5:
            found = rules.match("http", "a.test", 80, path)[1]
            if found != (None if path == LONG[:-1] else len(RULES)):
                wrong.append(found)

    threads = [threading.Thread(target=match) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert rules.get(len(RULES) - 1)["hits"] == 4 * 10


async def test_engine(tmp_path: Path) -> None:
    """The command `forwarder.test`, a request, and what is judged again before it leaves."""
    with faulty.FaultyBackend() as backend:
        backend.spoil("/blacklist", faulty.status(200, RULES))
        async with Rig(backend.url, tmp_path, BLACKLIST_REFRESH_SECONDS="300") as rig:
            await rig.wait_for_rules()
            engine = rig.bridge.engine
            allowed = await rig.begin("http://a.test/")

            # Made before, as that draws random numbers without the GIL.
            flows = {path: [make_flow(path) for _ in range(1000)] for path in (SHORT, LONG)}

            def test(path: str) -> None:
                assert engine.test("http", "a.test", 80, path)[1] == len(RULES)

            def begin(path: str) -> None:
                flow = flows[path].pop()
                assert engine.begin(flow) is None
                assert flow.response is not None
                assert flow.response.status_code == 403

            def judge(path: str) -> None:
                allowed.request.url = f"http://a.test{path}"
                assert not engine.judge(allowed)

            for call in (test, begin, judge):
                assert another_thread_runs_during(partial(call, LONG), 1000), call
                assert not another_thread_runs_during(partial(call, SHORT), 100), call
