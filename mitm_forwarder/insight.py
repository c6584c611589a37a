"""What people ask of a rule list: which rule matches a URL, and what is wrong with the rules.

Reads no configuration and no network. Any thread.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    from mitm_forwarder._core import Rules

Verdict = tuple[str | None, int | str | None, str | None, bool, int]
"""As `_core.Rules.match` gives it: form, rule id, pattern, limit hit, nanoseconds."""

BEGINNINGS = ("http://", "https://")
_PARSER: Any = importlib.import_module("re._parser")


# ---- one URL


def split_url(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path with query, as they would reach the gateway; a fragment never
    does. ValueError for what is no absolute http(s) URL; the core judges the parts.
    """
    match = re.fullmatch(r"(?i:(https?)://)([^/?#\\]*)([^#]*)(#.*)?", url, re.DOTALL)
    if match is None:
        raise ValueError("not a URL that begins with http:// or https://")
    scheme, authority, path = match[1].lower(), match[2], match[3]
    parts = re.fullmatch(r"(\[[^\]]*\]|[^:@\[\]]*)(?::([0-9]{0,5}))?", authority)
    if parts is None:
        raise ValueError("its host and port cannot be read; user names are not allowed")
    host = parts[1]
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    port = int(parts[2] or (443 if scheme == "https" else 80))
    return scheme, host.strip("[]"), port, path if path.startswith("/") else "/" + path


def describe(verdict: Verdict) -> str:
    """One line: is it blocked, by which rule, in which form, and how long that took."""
    form, rule_id, pattern, limit, elapsed_ns = verdict
    took = f"{elapsed_ns / 1000:.1f} µs"
    if form is None:
        return f"allowed: no rule matches ({took})"
    if pattern is None:
        return f"blocked: too many rules came into question for the {form} form ({took})"
    how = "could not be decided within its limits for" if limit else "matches"
    return f"blocked: rule {rule_id} {how} the {form} form ({took}): {pattern}"


# ---- a list


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one rule. `kind` is a word for machines; only `invalid` is an error."""

    kind: str
    rule_id: int | str | None
    text: str
    pattern: str = ""


def examine(rules: Rules) -> Iterator[Finding]:
    """All that is worth saying about the rules, those that are not in force first."""
    report = rules.report()
    for rule_id, position, reason in report["rejects"]:
        yield Finding("invalid", rule_id, f"not in force: {reason}, at position {position}")
    if (unnamed := report["rejected"] - len(report["rejects"])) > 0:
        yield Finding("invalid", None, f"{unnamed} more rules are not in force")
    listed = [rules.get(i) for i in range(len(rules))]
    for rule in listed:
        for kind, text in _remarks(rule, listed):
            yield Finding(kind, rule["id"], text, rule["pattern"])
    for rule_id, count in Counter(rule["id"] for rule in listed).items():
        if count > 1 and rule_id is not None:
            text = f"this id stands for {count} rules; answers and logs cannot tell them apart"
            yield Finding("duplicate", rule_id, text)


def _remarks(rule: dict[str, Any], listed: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    first = listed[rule["first"]]
    if first is not rule:
        yield "duplicate", f"has the pattern of rule {first['id']} before it, which is found first"
        return
    if (reason := why_never(rule["pattern"])) is not None:
        yield "never", f"can match no URL: {reason}"
    if rule["quarantined"]:
        yield (
            "quarantined",
            "backtracks for too long: tried last and for a short time; where that does not"
            " suffice, the URL is refused",
        )
    if rule["everything"]:
        yield "everything", "matches all sorts of URLs, which is hardly what was meant"
    elif rule["always"]:
        yield (
            "always",
            "has no text of its own to be looked up by, so it is tried for every URL; each such"
            " rule costs about 0.1 µs",
        )


def why_never(pattern: str) -> str | None:
    """Why no URL can match, or None where one may. Looks for the usual slips; it proves nothing
    about other patterns.
    """
    try:
        tree = _PARSER.parse(pattern)
    except (re.error, OverflowError, RecursionError):
        return None
    return _why_sequence(tree, tree.state.flags, 0)


def _why_sequence(sequence: Any, flags: int, before: int) -> str | None:
    """`before`: how many characters have to stand before the sequence, at least."""
    multiline = bool(flags & re.MULTILINE)
    ended = False
    for index, (op, value) in enumerate(sequence):
        width = _PARSER.SubPattern(sequence.state, [(op, value)]).getwidth()[0]
        if ended and width > 0:
            return "something is to follow the end ($)"
        name = str(op)
        if name == "AT" and not multiline:
            where = str(value)
            if where in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
                if before > 0:
                    return "something is to precede the beginning (^)"
                if (reason := _why_prefix(sequence, index + 1, flags)) is not None:
                    return reason
            ended = ended or where in ("AT_END", "AT_END_STRING")
        elif (reason := _why_item(name, value, flags, before)) is not None:
            return reason
        before += width
    return None


def _why_prefix(sequence: Any, start: int, flags: int) -> str | None:
    prefix = ""
    for op, value in sequence[start:]:
        if str(op) != "LITERAL":
            break
        prefix += chr(value)
    folded = prefix.lower() if flags & re.IGNORECASE else prefix
    if any(folded.startswith(text) or text.startswith(folded) for text in BEGINNINGS):
        return None
    return f"it is to begin with {prefix!r}, and every URL begins with http:// or https://"


def _why_item(name: str, value: Any, flags: int, before: int) -> str | None:
    if name == "LITERAL":
        if value <= 0x20 or value >= 0x7F or value == ord("#"):
            return f"it needs {chr(value)!r}, which stands escaped (%XX) in a URL, or not at all"
    elif name == "SUBPATTERN":
        _, added, removed, inner = value
        return _why_sequence(inner, (flags | added) & ~removed, before)
    elif name == "ATOMIC_GROUP":
        return _why_sequence(value, flags, before)
    elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT") and value[0] > 0:
        return _why_sequence(value[2], flags, before)
    elif name == "BRANCH":
        reasons = [_why_sequence(branch, flags, before) for branch in value[1]]
        return None if None in reasons else reasons[0]
    return None
