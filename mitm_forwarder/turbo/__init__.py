"""Cuts into mitmproxy's own cost of a request, one a file, each removable.

`cut.py` says what a cut is. Each file opens with what it replaces and why nobody can tell the
difference; a mitmproxy whose source differs from what a cut was written against gets stock
behaviour and one line. The variable TURBO says which cuts are wanted. Loop thread only, or before
there is a loop.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable

from mitm_forwarder.turbo.cut import Cut
from mitm_forwarder.turbo.cut import Undo

logger = logging.getLogger(__name__)

MODULES = {
    "dispatch": "mitm_forwarder.dispatch",
    "post": "mitm_forwarder.turbo.post",
    "log": "mitm_forwarder.turbo.log",
    "opt": "mitm_forwarder.turbo.opt",
    "fork": "mitm_forwarder.turbo.fork",
    "pkey": "mitm_forwarder.turbo.pkey",
    "malloc": "mitm_forwarder.turbo.malloc",
    "eckey": "mitm_forwarder.turbo.eckey",
    "inline": "mitm_forwarder.turbo.inline",
    "push": "mitm_forwarder.turbo.push",
    "coalesce": "mitm_forwarder.turbo.coalesce",
}
"""In the order in which they are put in."""

ALL = frozenset(MODULES)
SAFE = frozenset(("dispatch", "post", "log", "opt", "fork", "pkey"))
EARLY = ("malloc", "eckey")
"""To be put in before mitmproxy makes its certificates, by the launcher."""

_installed: dict[str, Undo] = {}


def installed() -> tuple[str, ...]:
    """The names of the cuts in place, in the order in which they were put in."""
    return tuple(_installed)


def install(names: Iterable[str]) -> list[str]:
    """Put in the cuts that are wanted and not yet in; logs a line for each that has to stay off.

    Returns the names of those that this call has put in, for `uninstall`.
    """
    wanted, added = set(names), []
    for name in MODULES:
        if name in wanted and name not in _installed:
            cut: Cut = importlib.import_module(MODULES[name]).CUT
            if problem := _missing(cut) or cut.objection():
                logger.warning(f"TURBO: {name} stays off: {problem}")
                continue
            _installed[name] = cut.install()
            added.append(name)
    return added


def uninstall(names: Iterable[str]) -> None:
    """Take cuts away again, the last one first."""
    doomed = set(names)
    for name in reversed(installed()):
        if name in doomed:
            _installed.pop(name)()


def select(wanted: Iterable[str] | None, default: Iterable[str], mine: Iterable[str]) -> list[str]:
    """Bring the caller's cuts in line with what is wanted. Returns those that it owns now."""
    names = set(default if wanted is None else wanted)
    uninstall(set(mine) - names)
    return [*(name for name in mine if name in names), *install(names)]


def _missing(cut: Cut) -> str | None:
    missing = [name for name in cut.needs if name not in _installed]
    return f"it needs {', '.join(missing)}" if missing else None
