"""What rules are matched against: the core against an oracle in Python on generated URLs, and the
evasions that are known by name.

`make oracle` runs 100,000 examples; here it is a sample (ORACLE_EXAMPLES).
"""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from mitm_forwarder import _core
from mitm_forwarder.insight import split_url
from tests.rules import urls

EXAMPLES = int(os.environ.get("ORACLE_EXAMPLES", "1000"))

# Whatever means something to some reader of a URL, and a little that does not.
HOST_PIECES = """
    evil test a . . . .. - _ EVIL xn-- 0 1 127 255 256 0x 0x7f 0177 08 2130706433 4294967295
    4294967296 : :: ::1 ::ffff: 127.0.0.1 7f00:1 fe80 2001:db8 %25 % [ ] @ # / \\ , * é
""".split()
PATH_PIECES = """
    / / / // . .. ... ; ;x .; ..;x admin a %61 %2e %2E %2f %5c \\ %25 %2561 %252e %25252f %00 %c0%af
    %e0%80%af %f0%80 %C3%A9 é ~ %7E %7e - _ %2D ? & = + %2B %3f %23 # % %4 %zz %20 | { " < > ' ! *
    %0a %7f %ff
""".split()

# Those that are well-formed, which pieces seldom are.
v4 = st.ip_addresses(v=4)
names = st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,5}", fullmatch=True), min_size=1, max_size=4)
well_formed = (
    st.just("evil.test")
    | names.map(".".join)
    | v4.map(str)
    | st.tuples(v4, st.sampled_from(["{}", "0x{:x}", "0{:o}"])).map(
        lambda a: a[1].format(int(a[0]))
    )
    | st.lists(st.integers(0, 300).map(lambda n: f"0{n:o}"), max_size=5).map(".".join)
    | st.ip_addresses(v=6).map(str)
    | st.tuples(st.sampled_from(["::ffff:", "::", "::FFFF:0:", "64:ff9b::", "1:0:0:2::"]), v4).map(
        lambda a: f"{a[0]}{a[1]}"
    )
    | st.lists(st.sampled_from(["0", "00a0", "F", "1"]), min_size=8, max_size=8).map(":".join)
)
hosts = st.lists(st.sampled_from(HOST_PIECES) | st.text(max_size=3), max_size=6).map("".join)
paths = st.lists(st.sampled_from(PATH_PIECES) | st.text(max_size=2), max_size=10).map(
    lambda pieces: "/" + "".join(pieces)
)


def expected(parts: tuple[str, str, int, str]) -> tuple[str, str] | None:
    try:
        return urls.forms(*parts)
    except urls.Doubt:
        return None


def got(parts: tuple[str, str, int, str]) -> tuple[str, str] | None:
    try:
        return _core.forms(*parts)
    except ValueError:
        return None


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
@given(
    scheme=st.sampled_from(["http", "https", "HTTP", "ftp", ""]),
    host=st.one_of(well_formed, hosts),
    port=st.sampled_from([80, 443, 8443, 65535, 0, 65536]),
    path=paths | st.sampled_from(["*", "", "x"]),
)
@example("http", "a.test", 80, "/" + "a" * 8191)
@example("http", "a.test", 80, "/" + "a" * 8192)
@example("http", "a." * 126 + "a", 80, "/")
@example("http", "a" * 63 + ".test", 80, "/")
@example("http", "a" * 64 + ".test", 80, "/")
@example("https", "2001:DB8:0:0:1:0:0:1", 443, "/..%2f;/.;x/")
def test_oracle(scheme: str, host: str, port: int, path: str) -> None:
    parts = (scheme, host, port, path)
    try:
        "".join((scheme, host, path)).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate cannot come over a connection
    assert got(parts) == expected(parts)


# ---- evasions by name

RULES = _core.Rules(
    json.dumps(
        [
            {"id": "host", "pattern": r"^https?://([^/]*\.)?evil\.test(:\d+)?/"},
            {"id": "path", "pattern": "/admin"},
            {"id": "ip", "pattern": r"^https?://127\.0\.0\.1(:\d+)?/"},
            {"id": "idna", "pattern": r"^https?://xn--bcher-kva\.test/"},
        ]
    ).encode()
)

BLOCKED = {
    "1": "http://EVIL.TEST/",
    "2": "http://evil.test./",
    "3a": "http://evil.test:80/",
    "3b": "http://evil.test:443/",
    "3c": "http://evil.test:/",
    "4": "http://evil.test:8443/",
    "5": "http://a.b.evil.test/",
    "6": "http://_x.evil.test/",
    "17a": "http://evil\u3002test/",
    "17b": "http://evil\uff0etest/",
    "17c": "http://evil\uff61test/",
    "18a": "http://\uff45\uff56\uff49\uff4c.test/",
    "18b": "http://\u24d4vil.test/",
    "19": "http://ev\u00adil.test/",
    "20a": "http://XN--BCHER-KVA.test/",
    "20b": "http://b\u00fccher.test/",
    "24": "http://2130706433/",
    "25": "http://0177.0.0.1/",
    "26a": "http://0x7f.1/",
    "26b": "http://0x7f000001/",
    "27": "http://127.1/",
    "28": "http://127.0.0.1./",
    "31a": "http://[::ffff:127.0.0.1]/",
    "31b": "http://[::ffff:7f00:1]/",
    "31c": "http://[::127.0.0.1]/",
    "61": "HTTP://evil.test/",
    "64": "http://good.test/%61dmin",
    "65a": "http://good.test/a/../admin",
    "65b": "http://good.test/a/%2e%2e/admin",
    "65c": "http://good.test/./admin",
    "66": "http://good.test//admin",
    "67": "http://good.test/admin;x=y",
    "68a": "http://good.test/x%2f..%2fadmin",
    "68b": "http://good.test/x%5c..%5cadmin",
    "69": "http://good.test/%2561dmin",
}
ALLOWED = {
    "7a": "http://notevil.test/",
    "7b": "http://evil.test.good.test/",
    "23": "http://\u0435vil.test/",
}
MALFORMED = {
    "8a": "http://evil.test../",
    "8b": "http://.evil.test/",
    "8c": "http://a..b/",
    "9a": "http://evil.test:+443/",
    "9b": "http://evil.test:0/",
    "9c": "http://evil.test:65536/",
    "9d": "http://evil.test:443x/",
    "10a": "http://" + "a" * 64 + ".test/",
    "10b": "http://" + "a." * 127 + "test/",
    "11a": "http://user@evil.test/",
    "11b": "http://u:p@evil.test/",
    "12": "http://good.test@evil.test/",
    "15a": "http://evil%2Etest/",
    "15b": "http://%65vil.test/",
    "16a": "http://evil\0.test/",
    "16b": "http://evil\t.test/",
    "16c": "http://ev il.test/",
    "16d": "http://evil\x7f.test/",
    "29a": "http://256.1.1.1/",
    "29b": "http://4294967296/",
    "29c": "http://1.2.3.4.5/",
    "29d": "http://1.2.3.0x/",
    "34a": "http://[fe80::1%25eth0]/",
    "34b": "http://[::1%eth0]/",
    "62a": "http:/evil.test",
    "62b": "http:///evil.test",
    "62c": "//evil.test/",
    "63": "ftp://evil.test/",
    "70a": "http://good.test/%c0%af",
    "70b": "http://good.test/%00",
    "70c": "http://good.test/%zz",
    "71a": "http://good.test/a\x01b",
    "71b": "http://good.test/" + "a" * 8192,
}


@pytest.mark.parametrize("url", BLOCKED.values(), ids=BLOCKED.keys())
def test_evasion_is_blocked(url: str) -> None:
    assert RULES.match(*split_url(url))[0] is not None


@pytest.mark.parametrize("url", ALLOWED.values(), ids=ALLOWED.keys())
def test_look_alike_is_allowed(url: str) -> None:
    assert RULES.match(*split_url(url))[0] is None


@pytest.mark.parametrize("url", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        RULES.match(*split_url(url))
