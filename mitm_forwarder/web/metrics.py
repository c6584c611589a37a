"""What is on the metrics page: one table, the readings of an engine, those of several engines as
one, and their text in Prometheus' exposition format 0.0.4.

`read` belongs to the loop thread, as the engine does; the rest to any.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from typing import Protocol

from mitm_forwarder import __version__
from mitm_forwarder import _core

PREFIX = "mitm_forwarder_"
RULES_SHOWN_MAX = 1000
"""Of each metric that has a row for each rule: those with most."""

Readings = dict[tuple[str, str], float]
"""Values by family, and by the value of its label ("" where it has none)."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric. `source` is its name in Engine.stats(), `merge` makes one value of several
    processes'.
    """

    name: str
    help: str
    type: str = "gauge"
    source: str = ""
    milliseconds: bool = False
    merge: Callable[[Iterable[float]], float] = sum
    label: str = ""


def _counter(name: str, help: str, source: str = "", label: str = "") -> Family:
    return Family(f"{name}_total", help, "counter", source, label=label)


RULE_HITS = "rule_hits_total"
RULE_LIMIT_HITS = "rule_limit_hits_total"
WORKERS = "workers"
WORKERS_SILENT = "workers_silent"
BUILD_INFO = "build_info"

FAMILIES = (
    *(_counter(name, help, name) for name, help in _core.COUNTERS),
    Family("rules", "rules in force (of workers the least)", source="rules", merge=min),
    Family(
        "rules_always_run",
        "rules without a text to look them up by, tried on every URL",
        source="rules_always",
        merge=max,
    ),
    Family(
        "rules_quarantined",
        "rules that backtrack for too long, tried last and briefly",
        source="rules_quarantined",
        merge=max,
    ),
    Family(
        "rules_counted",
        "rules that have decided a search (of workers the most)",
        source="rules_counted",
        merge=max,
    ),
    Family(
        "rules_age_seconds",
        "since the backend confirmed the rules in force; absent: never (of workers the oldest)",
        source="rules_age_ms",
        milliseconds=True,
        merge=max,
    ),
    _counter("rule_hits", "searches that matched this rule", label="rule"),
    _counter("rule_limit_hits", "searches that this rule's limits ended, denied", label="rule"),
    Family("requests_running", "requests that have not ended", source="running"),
    Family("permits_waiting", "requests that wait for a permit", source="permits_waiting"),
    Family("spool_records", "activity records not yet delivered", source="spool_depth"),
    Family("spool_bytes", "size of the activity spool", source="spool_bytes"),
    Family(
        "spool_oldest_record_age_seconds",
        "how long the oldest undelivered activity record has waited",
        source="spool_age_ms",
        milliseconds=True,
        merge=max,
    ),
    Family(
        "spool_dead_letters",
        "activity records that the backend has refused for good, kept apart",
        source="spool_dead",
    ),
    Family(
        "breaker_open",
        "1: the backend has failed in a row and is asked once a second (of workers how many)",
        source="breaker_open",
    ),
    Family(WORKERS, "processes whose numbers are on this page"),
    Family(WORKERS_SILENT, "workers that did not answer in time; only their counters are here"),
    Family(BUILD_INFO, "always 1; the version is the label's", merge=max, label="version"),
)
_BY_NAME = {family.name: family for family in FAMILIES}


class Readable(Protocol):
    """The part of _core.Engine that is read."""

    def stats(self, /) -> dict[str, Any]: ...

    def rule_counts(self, /) -> list[tuple[int | str | None, int, int]]: ...


def read(engine: Readable) -> Readings:
    """All values of one process. Some microseconds, and as many more as rules have counted."""
    stats = engine.stats()
    readings: Readings = {(WORKERS, ""): 1, (WORKERS_SILENT, ""): 0, (BUILD_INFO, __version__): 1}
    for family in FAMILIES:
        value = stats[family.source] if family.source else -1
        if value >= 0:
            readings[family.name, ""] = value / 1000 if family.milliseconds else value
    for rule, hits, limits in engine.rule_counts():
        for name, count in ((RULE_HITS, hits), (RULE_LIMIT_HITS, limits)):
            if count > 0:
                # Nobody keeps a backend from giving two rules one id.
                key = name, "none" if rule is None else str(rule)
                readings[key] = readings.get(key, 0) + count
    return readings


def merge(parts: Iterable[Readings]) -> Readings:
    """Several processes as one."""
    values: dict[tuple[str, str], list[float]] = {}
    for part in parts:
        for key, value in part.items():
            values.setdefault(key, []).append(value)
    return _shown({key: _BY_NAME[key[0]].merge(found) for key, found in values.items()})


def counters(readings: Readings) -> Readings:
    """What stays true when the process has ended."""
    return {key: value for key, value in readings.items() if _BY_NAME[key[0]].type == "counter"}


def began_anew(readings: Readings, before: Readings) -> bool:
    """The same process has another engine (a reload): its counters began at 0. Those of a rule may
    be gone because the rule is.
    """
    return any(
        readings.get(key, 0) < value for key, value in counters(before).items() if not key[1]
    )


def _shown(readings: Readings) -> Readings:
    """With no more rules than there is room for."""
    for name in (RULE_HITS, RULE_LIMIT_HITS):
        keys = [key for key in readings if key[0] == name]
        if len(keys) > RULES_SHOWN_MAX:
            keys.sort(key=lambda key: readings[key])
            for key in keys[:-RULES_SHOWN_MAX]:
                del readings[key]
    return readings


# ---- from one process to another


def dump(readings: Readings) -> bytes:
    return json.dumps([[*key, value] for key, value in readings.items()]).encode()


def load(data: bytes) -> Readings:
    """ValueError where these are no readings of this version."""
    rows = json.loads(data)
    if not isinstance(rows, list):
        raise ValueError("not a list")
    return {(name, label): value for name, label, value in rows if _BY_NAME.get(name)}


# ---- text


def render(readings: Readings) -> bytes:
    """The page."""
    rows: dict[str, list[tuple[str, float]]] = {}
    for (name, label), value in readings.items():
        rows.setdefault(name, []).append((label, value))
    lines = [line for family in FAMILIES for line in _lines(family, rows.get(family.name, []))]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _lines(family: Family, rows: list[tuple[str, float]]) -> Iterator[str]:
    if not rows:
        return
    name = PREFIX + family.name
    yield f"# HELP {name} {_escaped(family.help)}"
    yield f"# TYPE {name} {family.type}"
    for label, value in rows:
        labels = f'{{{family.label}="{_quoted(label)}"}}' if family.label else ""
        yield f"{name}{labels} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")
