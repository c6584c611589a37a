"""`make bench`: ratios of one round, refused latencies, rows that cannot do a case."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench import cpu
from bench.cases import CASES
from bench.gateways import ROWS


def result(microseconds: float, latency: float | None = 1.0) -> dict[str, Any]:
    return {"cpu_us": microseconds, "per_second": 100.0} | dict.fromkeys(cpu.LATENCIES, latency)


def test_ratios_are_of_one_round() -> None:
    rows = {"bare": [result(100), result(1000)], "ours": [result(50), result(600)]}
    cell = cpu.summarise({"plain": rows}, "bare")["ours"]["plain"]
    assert cell["ratio"] == pytest.approx(0.55)
    assert (cell["low"], cell["high"]) == pytest.approx((0.5, 0.6))


@pytest.mark.parametrize(("late", "known"), [(0.1, True), (cpu.LATE_MS + 0.1, False)])
def test_a_late_generator_has_its_latency_refused(late: float, known: bool) -> None:
    asked = {"bad": 0, "late_ms": late, "p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 3.0}
    rig: Any = SimpleNamespace(load=lambda *_, **__: asked)
    gateway: Any = SimpleNamespace(
        row=ROWS["bare"], port=1, process=SimpleNamespace(pid=1), workers=list
    )
    found = cpu.latency(rig, gateway, CASES["plain"], "1s", 100.0)
    assert (None not in found.values()) is known


def test_a_row_without_a_case_is_a_dash() -> None:
    table = cpu.summarise({"h2": {"bare": [result(100, None)]}}, "bare")
    assert cpu.report(table | {"goproxy": {}}, ["h2"]).endswith("| h2 | 100 µs (1.00); 100/s | — |")
    assert not ROWS["goproxy"].can(CASES["h2"])
    assert ROWS["goproxy"].can(CASES["tls"])
