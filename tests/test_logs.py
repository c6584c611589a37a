"""What may be in a log and what may not, down to what a real mitmdump prints."""

from __future__ import annotations

import io
import logging
import ssl
import time
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from mitm_forwarder import logs
from tests.support.mitmdump import Process
from tests.support.mitmdump import mitmdump

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI3Iiwib25jZSI6ImNhbmFyeSJ9.c2lnbmF0dXJl"


@pytest.fixture
def installed() -> Iterator[None]:
    logs.install(["registered-secret", None, "abc"])
    yield
    logs.uninstall()
    assert logging.getLogRecordFactory() is logging.LogRecord


# ---- mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"token {JWT}.", "token ***"),
        (f"a={JWT}&b=1", "a=***&b=1"),
        ("five parts eyJa.b.c.d.e, next", "five parts ***, next"),
        ("Bearer opaque-token_1~+/= next", "Bearer *** next"),
        ("bearer opaque next", "bearer *** next"),
        ("/x?h=Bearer%20opaque%2Fx&y", "/x?h=Bearer%20***&y"),
        ("Basic dTpw next", "Basic *** next"),
        ("Authorization: Token some thing\nHost: a", "Authorization: Token ***\nHost: a"),
        ("Proxy-Authorization: opaque", "Proxy-Authorization: ***"),
        ('    Authorization: Digest username="me", x', '    Authorization: Digest ***"me", x'),
        ("(b'authorization', b'K x y'), (b'h', b'v'", "(b'authorization', b'K ***'), (b'h', b'v'"),
        ('{"Authorization": "opaque", "h": "v"}', '{"Authorization": "***", "h": "v"}'),
        ("\x1b[4mAuthorization\x1b[0m: K x\x1b[0m", "\x1b[4mAuthorization\x1b[0m: K ***\x1b[0m"),
        ("http://me:pass@host:1/x?a@b", "http://***@host:1/x?a@b"),
        ("socks5h://me:p@ss@host", "socks5h://***@host"),
        ("http://h/x?api_key=abc&b=1", "http://h/x?api_key=***&b=1"),
        ("http://h/x?a=1&access_token=abc#f", "http://h/x?a=1&access_token=***#f"),
        ("    access_token: abc\n    page: 2", "    access_token: ***\n    page: 2"),
        ("    \x1b[3mKey\x1b[0m: \x1b[2mabc\x1b[0m", "    \x1b[3mKey\x1b[0m: \x1b[2m***\x1b[0m"),
        (">> DataReceived(client, b'GET / \\'x\\' t')", ">> DataReceived(client, b'***')"),
        (">> DataReceived(client, b\"it's t\")", ">> DataReceived(client, b'***')"),
        ("<< SendData(server, b'cut off\\", "<< SendData(server, b'***'"),
    ],
)  # fmt: skip
def test_mask_hides(text: str, masked: str) -> None:
    assert logs.mask(text) == masked
    assert logs.mask(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GET https://example.com/path?… 200 proxy=42 12ms id=0b1c",
        "127.0.0.1:5555: server connect 192.0.2.1:3128",
        "Refreshed blacklist cache: 3 rules (3 compiled, 0 rejected) in 4 ms",
        'WWW-Authenticate: Bearer realm="mitm-forwarder"',
        "mail to a@example.com",
        "http://example.com/a@b",
        "http://example.com/?page=2&sort=name",
        "no Authorization header",
        "SYSTEM_TOKEN: not set; allowed: visible ASCII characters",
        "SYSTEM_TOKEN_FILE='/run/secrets/token': is empty",
    ],
)
def test_mask_leaves_the_rest(text: str) -> None:
    assert logs.mask(text) == text


@pytest.mark.parametrize(
    "part",
    ["eyJ", "a.", "eyJa.b.c.d.e.", "a://", "?token", "bearer ", "authorization", "b'\\\\", "    "],
)
def test_mask_takes_no_longer_for_a_text_made_to_be_slow(part: str) -> None:
    text = f"DataReceived(c, b' Bearer ?@://authorization={part * (40_000 // len(part))}"
    for hostile in (text, text[17:], text[25:], f"{part * (40_000 // len(part))}@://;?"):
        started = time.process_time()
        logs.mask(hostile)
        assert time.process_time() - started < 0.3


def test_registered_values_are_hidden_wherever_they_stand(installed: None) -> None:
    assert logs.mask("xregistered-secretx abc") == "x***x abc"
    logs.install(["registered-secret-2"])
    assert logs.mask("registered-secret-2 registered-secret") == "*** ***"


def test_old_values_are_kept_but_not_for_ever(installed: None) -> None:
    for number in range(logs.SECRETS_MAX):
        logs.install([f"rotated-{number:04}"])
    assert logs.mask("rotated-0000 rotated-0063") == "*** ***"
    assert logs.mask("registered-secret") == "registered-secret"


# ---- request line


def test_request_line() -> None:
    line = logs.request_line("GET", "https://example.com/path?…", 200, 42, 12.4, "0b1c")
    assert line == "GET https://example.com/path?… 200 proxy=42 12ms id=0b1c"
    assert logs.request_line("GET", "http://a/", None, None, 0, "x").endswith(
        "http://a/ - proxy=- 0ms id=x"
    )


def test_request_line_is_one_line_of_six_words() -> None:
    line = logs.request_line("G\nT", "http://a/\x1b[1m \u2028", 200, "id 4\r2", 1, "x\ty")
    assert line.isprintable() and len(line.split(" ")) == 6


# ---- logging


def record_text(*args: object, formatter: logging.Formatter | None = None) -> str:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        raise ValueError(f"cause {JWT}")
    except ValueError as cause:
        try:
            raise RuntimeError("Bearer opaque") from cause
        except RuntimeError:
            logger.exception(*args)
    return out.getvalue()


def test_messages_arguments_and_tracebacks_are_masked(installed: None) -> None:
    text = record_text("%s and %r", f"Bearer {JWT}", {"authorization": "registered-secret"})
    assert "Bearer *** and {'authorization': '***'}" in text
    assert "cause ***" in text and "RuntimeError: Bearer ***" in text
    assert JWT not in text and "opaque" not in text


def test_install_twice_is_once(installed: None) -> None:
    logs.install()
    logs.uninstall()
    assert JWT in record_text(JWT)
    assert logging.getLogRecordFactory() is logging.LogRecord


def test_uninstall_forgets_and_restores() -> None:
    format_exception = logging.Formatter.formatException
    logs.install(["registered-secret"])
    logs.uninstall()
    assert logging.Formatter.formatException is format_exception
    assert logs.mask("registered-secret") == "registered-secret"


class ForeignRecord(logging.LogRecord):
    foreign = True


def test_a_record_class_of_somebody_else_stays_itself() -> None:
    logging.setLogRecordFactory(ForeignRecord)
    try:
        logs.install()
        record = logging.getLogRecordFactory()("n", 20, "p", 1, "Bearer %s", ("opaque",), None)
        assert isinstance(record, ForeignRecord) and record.getMessage() == "Bearer ***"
        logs.uninstall()
        assert logging.getLogRecordFactory() is ForeignRecord
    finally:
        logging.setLogRecordFactory(logging.LogRecord)


def test_a_factory_put_around_ours_is_not_taken_out(installed: None) -> None:
    ours = logging.getLogRecordFactory()
    logging.setLogRecordFactory(lambda *args, **kwargs: ours(*args, **kwargs))
    try:
        logs.uninstall()
        logs.install()
        assert record_text("Bearer opaque").startswith("Bearer ***")
    finally:
        logging.setLogRecordFactory(ours)


def test_the_flow_dump_is_masked_until_uninstall() -> None:
    out = io.StringIO()
    dumper = SimpleNamespace(outfp=out)
    logs.install(dumper=dumper)
    logs.install(dumper=dumper)
    print(f"Authorization: {JWT}", file=dumper.outfp, flush=True)
    assert out.getvalue() == "Authorization: ***\n" and dumper.outfp.getvalue is not None
    logs.uninstall()
    assert dumper.outfp is out


# ---- a real mitmdump

SCRIPT = """
import logging
from mitmproxy import ctx, http
from mitm_forwarder import logs

class Addon:
    def load(self, loader):
        logs.install(["registered-secret"], ctx.master.addons.get("dumper"))

    def request(self, flow):
        logging.info("registered-secret of %s", flow.request.headers)
        flow.response = http.Response.make(200, "body", {"x-token": "registered-secret"})
        if "fail" in flow.request.path:
            raise ValueError("failed for " + flow.request.headers["authorization"])

addons = [Addon()]
"""
CANARIES = ("canary", "eyJzdWIi", "b3BhcXVl", "registered-secret", "hush")


class Http2Only(ssl.SSLContext):
    """httpx puts HTTP/1.1 first in what it offers, and mitmproxy takes the first."""

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        super().set_alpn_protocols(["h2"])


@pytest.mark.parametrize(
    "flags",
    [
        ["-v"],
        ["--set", "flow_detail=4"],
        ["-v", "--set", "proxy_debug=true", "--set", "flow_detail=4"],
    ],
    ids=["verbose", "flow_detail", "proxy_debug"],
)
def test_mitmdump_prints_no_secret(tmp_path: Path, flags: list[str]) -> None:
    script = tmp_path / "addon.py"
    script.write_text(SCRIPT)
    lazy = "connection_strategy=lazy"  # an eager dial is one that the guard refuses
    command = mitmdump("-p", "0", "-s", str(script), "--set", lazy, *flags)
    with Process(command, cwd=tmp_path) as process:
        proxy = f"http://opaque:canary@127.0.0.1:{process.port()}"
        tls = Http2Only(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(process.ca())
        headers = {"Authorization": f"Bearer {JWT}", "X-Other": "Basic b3BhcXVlOmNhbmFyeQ=="}
        with httpx.Client(proxy=proxy, verify=tls, http2=True, headers=headers) as client:
            client.get("http://h1.test/plain?access_token=hush")
            assert client.get("https://h2.test/tls").http_version == "HTTP/2"
            client.get("https://h2.test/fail")
        # A hot reload must not open a gap, nor put a second mask in place.
        script.write_text(SCRIPT + "\n")
        process.wait_for("Loading script", count=2)
        with httpx.Client(proxy=proxy, verify=tls, headers=headers) as client:
            client.get("http://h1.test/again")
        process.wait_for("of Headers", count=4)
        assert process.stop() == 0
    text = process.text()
    assert "failed for Bearer ***" in text and "*** of Headers" in text
    assert [canary for canary in CANARIES if canary in text] == []
    if "flow_detail=4" in flags:
        assert "uthorization: Bearer ***" in text and "x-token: ***" in text
    if "proxy_debug=true" in flags:
        assert "DataReceived(client, b'***')" in text
