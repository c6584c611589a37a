"""Nothing secret in a log: every record, traceback and flow dump passes mask() on its way out.

Masked are credentials in `Authorization` headers and after `Bearer` or `Basic`, JWTs, user
information in URLs, query parameters that sound like a secret, the raw bytes that `proxy_debug`
prints (header compression and packet borders hide tokens from any pattern), and registered values.
mask() runs on any thread; install() and uninstall() on the loop thread.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

HIDDEN = "***"
SECRET_MIN_CHARS = 4  # masking something shorter would shred every line and is no secret anyway
SECRETS_MAX = 64

_COLOUR = r"(?:\x1b\[[0-9;]*m)*"
# Every pattern takes time linear in the text, which a client may have chosen. This one therefore
# also matches the run without a dot that is no JWT.
_JWT = re.compile(r"eyJ[\w-]*(?:\.[\w-]*){0,4}")
# WWW-Authenticate's parameters (`Bearer realm="…"`) are none.
_CREDENTIALS = re.compile(
    r"\b(bearer|basic)((?:\s|%20|\+)+)(?![\w-]+=\")[\w.~+/=%-]+", re.IGNORECASE
)
# `Authorization: Token x`, with colours in between, and Python's (b'authorization', b'Token x').
_AUTHORIZATION = re.compile(
    rf"(authorization{_COLOUR}(?:\s*[:=]\s*|['\"]\s*[:,]\s*b?['\"]))"
    r"([\w-]+[ ]+)?(?:\\.|[^\r\n'\"\\\x1b])+",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"\b([a-z][a-z0-9+.-]{0,15}://)[^\s/?#\"<>]+@", re.IGNORECASE)
# In a query, and in a header or the table of the query as the flow dump indents them. In prose
# ("SYSTEM_TOKEN: not set") the word is no name of a value.
_PARAMETER = re.compile(
    rf"((?:[?&;]|^ {{4}}{_COLOUR})[\w.-]*(?:token|jwt|key|secret|password|passwd|signature|auth)"
    rf"(?:=|{_COLOUR}:[ ]{_COLOUR}))[^\s&;#'\"\x1b]+",
    re.IGNORECASE | re.MULTILINE,
)
_RAW_BYTES = re.compile(
    r"((?:DataReceived|SendData)\(\w+, b)"
    r"(?:'(?:\\.|[^'\\])*(?:'|\\?\Z)|\"(?:\\.|[^\"\\])*(?:\"|\\?\Z))"
)

_known: tuple[str, ...] = ()  # latest first
_secrets: tuple[str, ...] = ()  # the same, longest first, since one may be part of another


def mask(text: str) -> str:
    """The text without credentials. Microseconds for a line that has none."""
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if "DataReceived(" in text or "SendData(" in text:
        text = _RAW_BYTES.sub(rf"\1'{HIDDEN}'", text)
    if "eyJ" in text:
        text = _JWT.sub(lambda match: HIDDEN if "." in match[0] else match[0], text)
    lower = text.lower()
    if "authorization" in lower:
        text = _AUTHORIZATION.sub(rf"\1\2{HIDDEN}", text)
    if "bearer" in lower or "basic" in lower:
        text = _CREDENTIALS.sub(rf"\1\2{HIDDEN}", text)
    if "@" in text and "://" in text:
        text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    if "?" in text or "&" in text or ";" in text or "    " in text:
        text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return text


def request_line(
    method: str,
    url: str,
    status: int | None,
    proxy_id: int | str | None,
    elapsed_ms: float,
    request_id: str,
) -> str:
    """The one line of a request; `url` is one that may be logged (without query and userinfo)."""
    proxy = "-" if proxy_id is None else _word(str(proxy_id))
    return (
        f"{_word(method)} {_word(url)} {'-' if status is None else status}"
        f" proxy={proxy} {elapsed_ms:.0f}ms id={_word(request_id)}"
    )


def _word(text: str) -> str:
    """One word of one line, whatever a client or a backend put into it."""
    if text.isprintable() and " " not in text:
        return text
    return "".join(c if c.isprintable() and c != " " else f"\\u{ord(c):04x}" for c in text)


# ---- putting it in place


class _MaskedRecord(logging.LogRecord):
    def getMessage(self) -> str:
        return mask(super().getMessage())


_masked_kinds: dict[type[logging.LogRecord], type[logging.LogRecord]] = {
    logging.LogRecord: _MaskedRecord
}


def _masked(kind: type[logging.LogRecord]) -> type[logging.LogRecord]:
    """Its masking subclass; not always ours alone, since somebody may have set a factory before."""
    if kind not in _masked_kinds:
        _masked_kinds[kind] = type(kind.__name__, (_MaskedRecord, kind), {})
    return _masked_kinds[kind]


_make_record: Callable[..., logging.LogRecord] = logging.LogRecord
_format_exception = logging.Formatter.formatException


def _masked_factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _make_record(*args, **kwargs)
    # A class and not a masked copy of the text: records that no handler prints cost nothing.
    record.__class__ = _masked(type(record))
    return record


def _masked_format_exception(self: logging.Formatter, ei: Any) -> str:
    return mask(_format_exception(self, ei))


class _MaskedStream:
    """What mitmproxy's Dumper prints to, which it does without logging."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(mask(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_installed = False
_dumper: Any = None


def install(secrets: Iterable[str | None] = (), dumper: Any = None) -> None:
    """Mask from now on, those values included; a second call only adds values. `dumper` is
    mitmproxy's Dumper (`ctx.master.addons.get("dumper")`) where there is one.
    """
    global _known, _secrets, _installed, _make_record, _format_exception, _dumper
    added = [s for s in secrets if s is not None and len(s) >= SECRET_MIN_CHARS]
    # A token that was rotated out may still be in a message: it is kept for a while.
    _known = tuple(dict.fromkeys([*added, *_known]))[:SECRETS_MAX]
    _secrets = tuple(sorted(_known, key=len, reverse=True))
    if dumper is not None and not isinstance(dumper.outfp, _MaskedStream):
        dumper.outfp = _MaskedStream(dumper.outfp)
        _dumper = dumper
    if not _installed:
        _make_record = logging.getLogRecordFactory()
        logging.setLogRecordFactory(_masked_factory)
        _format_exception = logging.Formatter.formatException
        logging.Formatter.formatException = _masked_format_exception  # type: ignore[method-assign]
        _installed = True


def uninstall() -> None:
    """Put everything back. Does nothing when somebody has put a wrapper around ours since: taking
    ours out would take out theirs.
    """
    global _known, _secrets, _installed, _dumper
    if (
        logging.getLogRecordFactory() is not _masked_factory
        or logging.Formatter.formatException is not _masked_format_exception
    ):
        return
    logging.setLogRecordFactory(_make_record)
    logging.Formatter.formatException = _format_exception  # type: ignore[method-assign]
    if _dumper is not None:
        _dumper.outfp = _dumper.outfp.stream
    _known, _secrets, _installed, _dumper = (), (), False, None
