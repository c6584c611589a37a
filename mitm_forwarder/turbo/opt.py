"""Reading an option without copying what cannot change.

Replaces `optmanager._Option.current`, which makes a deep copy, twice for a default.

Nobody can tell the difference: of a str, int, bool, float or None the deep copy is the object
itself. All other values, and subclasses of these types, are copied as before.
"""

from __future__ import annotations

from typing import Any

from mitmproxy import optmanager

from .cut import Cut
from .cut import Undo

IMMUTABLE = frozenset((str, int, bool, float, type(None)))


def _install() -> Undo:
    stock = optmanager._Option.current
    unset = optmanager.unset

    def current(self: optmanager._Option) -> Any:
        value = self.value
        if value is unset:
            value = self._default
        return value if type(value) in IMMUTABLE else stock(self)

    optmanager._Option.current = current  # type: ignore[method-assign]

    def undo() -> None:
        optmanager._Option.current = stock  # type: ignore[method-assign]

    return undo


CUT = Cut(
    name="opt",
    safe=True,
    replaces=("mitmproxy.optmanager:_Option",),
    sources={"eb3f037b6cc43fb7": "10.1.5 to 12.3.1"},
    install=_install,
)
