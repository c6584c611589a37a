"""The host and port of an authority, worked out once for each text.

Replaces `net.http.url.parse_authority`, which is asked about the same few texts four times a
request: decode, match, IDNA there and back, match each label.

Nobody can tell the difference: a pure function of a text and a flag, with an immutable answer. What
it refuses is refused anew each time; texts longer than a host name can be are not kept. Bounded,
the oldest goes first.
"""

from __future__ import annotations

from typing import Any

from mitmproxy.net.http import url

from .cut import Cut
from .cut import Undo

KEPT_MAX = 1024
LENGTH_MAX = 262
"""255 for a host name, a colon and a port, as bytes or characters."""


def _install() -> Undo:
    stock = url.parse_authority
    known: dict[tuple[Any, bool], tuple[str, int | None]] = {}

    def parse_authority(authority: Any, check: bool) -> tuple[str, int | None]:
        key = (authority, check)
        found = known.get(key)
        # Only exact types: a subclass may call itself equal to what it likes.
        if found is not None and type(authority) in (bytes, str):
            return found
        answer = stock(authority, check)
        if type(authority) in (bytes, str) and len(authority) <= LENGTH_MAX:
            if len(known) >= KEPT_MAX:
                del known[next(iter(known))]
            known[key] = answer
        return answer

    url.parse_authority = parse_authority

    def undo() -> None:
        url.parse_authority = stock

    return undo


CUT = Cut(
    name="authority",
    safe=True,
    replaces=("mitmproxy.net.http.url:parse_authority", "mitmproxy.net.check:is_valid_host"),
    sources={"6669f850750b8a75": "10.1.5 to 12.3.1"},
    install=_install,
)
