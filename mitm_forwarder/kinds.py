"""How a text becomes a value of the configuration: what is allowed, and a parser that holds to it.

Parsers raise ValueError whose text says what is wrong, without the value itself. Those of files and
directories look at the disk; none changes it. Any thread.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from mitm_forwarder import turbo

TOKEN_MAX_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Kind:
    """How a text becomes a value, and in words what is allowed."""

    allowed: str
    parse: Callable[[str], object]


def _bounded(value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError("out of range")


def seconds(low: float, high: float, zero: str = "") -> Kind:
    def parse(text: str) -> float:
        # float() would also take inf, nan and 1_000.
        if not re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", text):
            raise ValueError("not a number of seconds")
        value = float(text)
        if not (zero and value == 0):
            _bounded(value, low, high)
        return value

    also = f", or 0 ({zero})" if zero else ""
    return Kind(f"plain seconds from {low:g} to {high:.0f}{also}", parse)


def count(low: int, high: int) -> Kind:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise ValueError("not a whole number")
        _bounded(int(text), low, high)
        return int(text)

    return Kind(f"a whole number from {low} to {high}", parse)


UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def size(low: int, high: int) -> Kind:
    def parse(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,18})\s*(|kib|mib|gib)", text.lower())
        if match is None:
            raise ValueError("not a size")
        value = int(match[1]) * UNITS[match[2]]
        _bounded(value, low, high)
        return value

    return Kind(f"bytes, or a number with KiB, MiB or GiB, from {low} to {high} bytes", parse)


TRUE = ("true", "1", "yes", "y", "on")
FALSE = ("false", "0", "no", "n", "off")


def _boolean(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise ValueError("not a boolean")
    return text.lower() in TRUE


def _challenge(text: str) -> int:
    if text not in ("401", "407"):
        raise ValueError("not one of the two")
    return int(text)


def _on_full(text: str) -> str:
    if text not in ("reject", "drop"):
        raise ValueError("not one of the two")
    return text


def _visible(text: str, but: str = "") -> None:
    """What may stand in a URL or header as it is; anything else is a slip worth reporting."""
    if not re.fullmatch(r"[!-~]*", text):
        raise ValueError("has a space, a control character or one that is not ASCII")
    for char in but:
        if char in text:
            raise ValueError(f"has a {char!r}")


def _base_url(text: str) -> str:
    _visible(text, but="?#\\")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not a URL ({error})") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("does not start with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("holds a user name or password")
    host = parts.hostname or ""
    if ":" in host:
        ipaddress.IPv6Address(host)
    elif not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?", host):
        raise ValueError("has no host, or one that cannot be a name")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("has no port after the colon")
    return text.rstrip("/")


def _endpoint(text: str) -> str:
    _visible(text, but="?#\\")
    if "://" in text:
        raise ValueError("is a URL; its host belongs to FASTAPI_BASE_URL")
    return "/" + text.lstrip("/")


def absolute_path(text: str) -> str:
    if "\0" in text:
        raise ValueError("has a NUL")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError("there is no such home directory")
    return os.path.abspath(expanded)


def _file(text: str) -> str:
    path = absolute_path(text)
    try:
        with open(path, "rb") as stream:
            stream.read(1)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    return path


def _directory(text: str) -> str:
    path = absolute_path(text)
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError("is not a directory")
    return path


def _spool_directory(text: str) -> str:
    return _directory(text) if text else ""


def _listen(text: str) -> tuple[str, int] | None:
    """No name that would have to be resolved, but for the one that everybody writes."""
    if not text:
        return None
    match = re.fullmatch(r"(localhost|[0-9.]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", text)
    if match is None:
        raise ValueError("not an address and a port")
    _bounded(int(match[2]), 0, 65535)
    host = "127.0.0.1" if match[1] == "localhost" else match[1].strip("[]")
    return str(ipaddress.ip_address(host)), int(match[2])


def _names(text: str) -> str:
    names = [name.strip() for name in text.split(",")]
    if not all(re.fullmatch(r"[!-+\--~]+", name) for name in names):
        raise ValueError("has an empty name, or one with a space or non-ASCII character")
    return ",".join(names)


TARGET = re.compile(
    r"((\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?"
    r"|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+"
)


def _targets(text: str) -> str:
    entries = [entry.strip() for entry in text.split(",")]
    for entry in entries:
        if "/" in entry:
            if "*" in entry:
                raise ValueError("has a network with a '*'")
            ipaddress.ip_network(entry, strict=False)
        elif not TARGET.fullmatch(entry):
            raise ValueError("has an entry that is no host, *.domain or network")
    return ",".join(entries)


def _token(text: str) -> str:
    bare = re.sub(r"(?i)\Abearer(\s+|\Z)", "", text)
    if not bare:
        raise ValueError("is empty")
    _visible(bare)
    if len(bare) > TOKEN_MAX_BYTES:
        raise ValueError("is too long")
    return bare


def _turbo(text: str) -> frozenset[str]:
    words = {"all": turbo.ALL, "safe": turbo.SAFE, "off": frozenset[str]()}
    if text.lower() in words:
        return words[text.lower()]
    names = frozenset(name.strip() for name in text.split(","))
    if unknown := names - turbo.ALL:
        raise ValueError(f"there is no {min(unknown)!r}")
    return names


SECONDS = seconds(0.001, 86400)
BOOLEAN = Kind("true or false (also 1/0, yes/no, y/n, on/off)", _boolean)
ENDPOINT = Kind("a path such as /proxy, without query or fragment", _endpoint)
FILE = Kind("a file that this user can read", _file)
DIRECTORY = Kind("a directory; it is made when missing", _directory)
BASE_URL = Kind("http://HOST[:PORT][/PATH] or https://…", _base_url)
CHALLENGE = Kind("401 or 407", _challenge)
ON_FULL = Kind("reject or drop", _on_full)
TARGETS = Kind(
    "hosts, *.domains or networks (10.0.0.0/8), separated by commas; a host may have a :port",
    _targets,
)
CLAIM_NAMES = Kind("claim names, separated by commas", _names)
SPOOL_DIRECTORY = Kind(
    "a directory (made when missing), or empty for memory only", _spool_directory
)
LISTEN = Kind(
    "an IP address and a port, as 127.0.0.1:9475 or [::1]:9475 (port 0: any), or empty for none",
    _listen,
)
TURBO = Kind(f"all, safe, off, or a list of {', '.join(turbo.MODULES)}", _turbo)
TOKEN = Kind(
    f"visible ASCII characters without spaces, at most {TOKEN_MAX_BYTES}; "
    "'Bearer ' in front is taken off",
    _token,
)
