"""The forms of a URL that rules are matched against, written down a second time: in Python, from
the rules in the documentation, so that the core's code has somebody to disagree with.
"""

from __future__ import annotations

import ipaddress
import re

URL_MAX = 8192
HOST_MAX = 253
DEFAULT_PORTS = {"http": 80, "https": 443}
OVERLONG = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]")
UNRESERVED = re.compile(rb"[A-Za-z0-9._~-]")


class Doubt(Exception):
    """The URL is answered 400."""


def forms(scheme: str, host: str, port: int, path: str) -> tuple[str, str]:
    """(raw, canonical)."""
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS or not 1 <= port <= 65535:
        raise Doubt
    target = path.encode()
    asterisk = target == b"*"
    if not asterisk:
        _check_target(target)
    suffix = "" if port == DEFAULT_PORTS[scheme] else f":{port}"
    raw = f"{scheme}://{_bracketed(host)}{suffix}" + ("" if asterisk else _escape_high(target))
    canonical_host = _bracketed(_canonical_host(host))
    path_bytes, mark, query = (b"/" if asterisk else target).partition(b"?")
    canonical = f"{scheme}://{canonical_host}{suffix}{_canonical_path(path_bytes)}"
    return raw, canonical + mark.decode() + _canonical_query(query)


def _check_target(target: bytes) -> None:
    if len(target) > URL_MAX or not target.startswith(b"/"):
        raise Doubt
    if any(c <= 0x20 or c in b"\x7f#" for c in target):
        raise Doubt


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# ---- hosts


def _canonical_host(host: str) -> str:
    if ":" not in host:
        host = host.removesuffix(".")
    if not host or not host.isascii() or len(host) > HOST_MAX:
        raise Doubt
    if ":" in host:
        return _canonical_ipv6(host)
    labels = host.lower().split(".")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        return _canonical_ipv4(labels)
    if not all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels):
        raise Doubt
    return ".".join(labels)


def _canonical_ipv6(host: str) -> str:
    try:
        if "%" in host:
            raise Doubt  # a zone
        address = ipaddress.IPv6Address(host)
    except ValueError:
        raise Doubt from None
    high, low = divmod(int(address), 1 << 32)
    if high == 0xFFFF or (high == 0 and low > 1):
        return str(ipaddress.IPv4Address(low))
    return str(address)


def _canonical_ipv4(parts: list[str]) -> str:
    values = [_number(part) for part in parts]
    *firsts, last = values
    if len(values) > 4 or any(value > 255 for value in firsts) or last >= 256 ** (5 - len(values)):
        raise Doubt
    address = last + sum(value << (8 * (3 - i)) for i, value in enumerate(firsts))
    return str(ipaddress.IPv4Address(address))


def _number(text: str) -> int:
    for pattern, base in ((r"0x([0-9a-f]+)", 16), (r"0([0-7]+)", 8), (r"(0|[1-9][0-9]*)", 10)):
        if match := re.fullmatch(pattern, text):
            return int(match[1], base)
    raise Doubt


# ---- paths


def _canonical_path(path: bytes) -> str:
    if re.search(rb"%(?![0-9A-Fa-f]{2})", path):
        raise Doubt
    for _ in range(2):  # for servers that decode twice
        path = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), path)
        if b"\0" in path or OVERLONG.search(path):
            raise Doubt
    kept: list[bytes] = []
    stays = False
    for segment in path.replace(b"\\", b"/").split(b"/")[1:]:
        name = segment.partition(b";")[0]
        stays = segment != b"" and name not in (b".", b"..")
        if stays:
            kept.append(segment)
        elif name == b".." and kept:
            kept.pop()
    end = b"" if stays or not kept else b"/"
    return _escape(b"/" + b"/".join(kept) + end, b"%?#")


def _canonical_query(query: bytes) -> str:
    def normalize(match: re.Match[bytes]) -> bytes:
        char = bytes.fromhex(match[1].decode())
        return char if UNRESERVED.fullmatch(char) else match[0].upper()

    return _escape_high(re.sub(rb"%([0-9A-Fa-f]{2})", normalize, query))


def _escape(text: bytes, special: bytes) -> str:
    return "".join(chr(c) if 0x20 < c < 0x7F and c not in special else f"%{c:02X}" for c in text)


def _escape_high(text: bytes) -> str:
    return "".join(chr(c) if c < 0x80 else f"%{c:02X}" for c in text)
