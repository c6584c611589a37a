"""The types of a message's fields, checked in one expression.

Replaces `http.MessageData.__post_init__`, which works out for each of up to twelve fields of each
request and response what its annotation means before it compares.

Nobody can tell the difference: what has exactly the annotated types is accepted without further
ado, all else is left to mitmproxy's own check, with its own errors.
"""

from __future__ import annotations

from typing import Any

from mitmproxy import http

from .cut import Cut
from .cut import Undo

NONE = type(None)
OPTIONAL_BYTES = (bytes, NONE)
OPTIONAL_HEADERS = (http.Headers, NONE)
OPTIONAL_FLOAT = (float, NONE)


def is_plain(data: Any) -> bool:
    """Every field has the very type of its annotation (no subclass, no int for a float)."""
    cls = type(data)
    if cls is http.RequestData:
        own = (
            type(data.host) is str
            and type(data.port) is int
            and type(data.method) is bytes
            and type(data.scheme) is bytes
            and type(data.authority) is bytes
            and type(data.path) is bytes
        )
    elif cls is http.ResponseData:
        own = type(data.status_code) is int and type(data.reason) is bytes
    else:
        return False
    return (
        own
        and type(data.http_version) is bytes
        and type(data.headers) is http.Headers
        and type(data.content) in OPTIONAL_BYTES
        and type(data.trailers) in OPTIONAL_HEADERS
        and type(data.timestamp_start) is float
        and type(data.timestamp_end) in OPTIONAL_FLOAT
    )


def _install() -> Undo:
    stock: Any = http.MessageData.__post_init__

    def __post_init__(self: http.MessageData) -> None:
        if not is_plain(self):
            stock(self)

    http.MessageData.__post_init__ = __post_init__  # type: ignore[method-assign]

    def undo() -> None:
        http.MessageData.__post_init__ = stock  # type: ignore[method-assign]

    return undo


CUT = Cut(
    name="post",
    safe=True,
    replaces=(
        "mitmproxy.http:MessageData",
        "mitmproxy.http:RequestData",
        "mitmproxy.http:ResponseData",
        "mitmproxy.utils.typecheck:check_option_type",
    ),
    sources={"667399b758e4e674": "10.1.5 to 12.3.1"},
    install=_install,
    problem=lambda: (
        None if hasattr(http.MessageData, "__post_init__") else "python -O has no check"
    ),
)
