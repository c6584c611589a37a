"""No `add_log` event for a log line that no addon listens for.

Replaces `emit` of the handler that turns each line of Python's logging into the deprecated event:
format the line, wake the loop, ask all addons.

Nobody can tell the difference: whether anybody listens is asked of the whole chain, for each line,
when it is logged. A listener that is added between that moment and the loop's next turn misses the
lines of that moment.

Any thread: what is read are lists that are replaced or appended to, as in mitmproxy itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from mitmproxy import addonmanager
from mitmproxy import ctx
from mitmproxy import log

from .cut import Cut
from .cut import Undo


class QuietLogEvents(log.LegacyLogEvents):
    """Takes the place of the master's handler by `__class__`: logging holds that object."""

    def emit(self, record: logging.LogRecord) -> None:
        if is_listened_for(self.master.addons.chain):
            super().emit(record)


def is_listened_for(chain: Iterable[Any]) -> bool:
    return any(getattr(addon, "add_log", None) for addon in addonmanager.traverse(chain))


def _handlers() -> list[logging.Handler]:
    return [h for h in logging.getLogger().handlers if type(h) is log.LegacyLogEvents]


def _install() -> Undo:
    changed = [h for h in _handlers() if getattr(h, "master", None) is ctx.master]
    for handler in changed:
        handler.__class__ = QuietLogEvents

    def undo() -> None:
        for handler in changed:
            handler.__class__ = log.LegacyLogEvents

    return undo


CUT = Cut(
    name="log",
    safe=True,
    replaces=("mitmproxy.log:LegacyLogEvents", "mitmproxy.addonmanager:traverse"),
    sources={"c49c16a4c5c445f0": "10.1.5 to 12.3.1"},
    install=_install,
    problem=lambda: None if _handlers() else "mitmproxy emits no add_log events here",
)
