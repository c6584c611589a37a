"""No `add_log` event for a log line that no addon listens for.

Replaces `emit` of the handler that turns each line of Python's logging into the deprecated event:
format the line, wake the loop, ask all addons.

Nobody can tell the difference: whether anybody listens is asked of the whole chain, for each line,
when it is logged. A listener that is added between that moment and the loop's next turn misses the
lines of that moment.

Any thread; the loop's own asks the table of dispatch.py.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any

from mitmproxy import addonmanager
from mitmproxy import ctx
from mitmproxy import log

from mitm_forwarder import dispatch

from .cut import Cut
from .cut import Undo


class QuietLogEvents(log.LegacyLogEvents):
    """Takes the place of the master's handler by `__class__`: logging holds that object."""

    loop_thread = 0

    def emit(self, record: logging.LogRecord) -> None:
        manager = self.master.addons
        if threading.get_ident() == self.loop_thread:
            listened_for = dispatch.is_handled(manager, "add_log")
        else:
            listened_for = is_listened_for(manager.chain)
        if listened_for:
            super().emit(record)


def is_listened_for(chain: Iterable[Any]) -> bool:
    return any(getattr(addon, "add_log", None) for addon in addonmanager.traverse(chain))


def _handlers() -> list[logging.Handler]:
    return [h for h in logging.getLogger().handlers if type(h) is log.LegacyLogEvents]


def _install() -> Undo:
    changed = [h for h in _handlers() if getattr(h, "master", None) is ctx.master]
    for handler in changed:
        handler.__class__ = QuietLogEvents
        handler.__dict__["loop_thread"] = threading.get_ident()

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
