"""Rule lists examined: the binding's Rules, the commands of mitmproxy, and the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from click.testing import Result
from mitmproxy import exceptions
from mitmproxy.test import taddons

from mitm_forwarder import _core
from mitm_forwarder import insight
from mitm_forwarder.cli import main
from mitm_forwarder.commands import Commands
from tests.support.faulty import FaultyBackend


def listed(*patterns: str) -> bytes:
    return json.dumps([{"id": i, "pattern": p} for i, p in enumerate(patterns, 1)]).encode()


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


# ---- the binding


def test_match_names_rule_and_form() -> None:
    rules = _core.Rules(listed("/never-there", "/admin", "/%61dmin2"))
    assert len(rules) == 3
    form, rule_id, pattern, limit, elapsed_ns = rules.match("http", "a.test", 80, "/%61dmin")
    assert (form, rule_id, pattern, limit) == ("canonical", 2, "/admin", False)
    assert elapsed_ns > 0
    assert rules.match("http", "a.test", 80, "/%61dmin2")[:2] == ("canonical", 2)
    assert rules.match("http", "a.test", 80, "/x")[:4] == (None, None, None, False)
    assert rules.get(1)["hits"] == 2


def test_match_in_the_raw_form_only() -> None:
    rules = _core.Rules(listed("/%7Euser"))
    assert rules.match("http", "a.test", 80, "/%7Euser")[:2] == ("raw", 1)


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b'[{"id": 1}]', b"[]x"])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        _core.Rules(body)


def test_report_and_get() -> None:
    rules = _core.Rules(listed("(unclosed", "a[bc]d", "a[bc]d", "."))
    report = rules.report()
    assert (report["given"], report["compiled"], report["rejected"]) == (4, 3, 1)
    [(rule_id, position, reason)] = report["rejects"]
    assert (rule_id, position) == (1, 0)
    assert "unterminated" in reason
    assert rules.get(1)["first"] == 0
    assert rules.get(2)["everything"]
    for index in (-1, 3):
        with pytest.raises(IndexError):
            rules.get(index)


def test_url_that_is_answered_400_is_an_error() -> None:
    rules = _core.Rules(listed("x"))
    with pytest.raises(ValueError, match="400"):
        rules.match("http", "a..b", 80, "/")
    with pytest.raises(ValueError, match="400"):
        _core.forms("http", "a..b", 80, "/")


# ---- URLs as people write them


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://a.test", ("http", "a.test", 80, "/")),
        ("HTTPS://A.test:8443/x?y#z", ("https", "A.test", 8443, "/x?y")),
        ("http://a.test?q", ("http", "a.test", 80, "/?q")),
        ("https://[::1]/", ("https", "::1", 443, "/")),
        ("http://b\u00fccher.test/\u00e4", ("http", "xn--bcher-kva.test", 80, "/\u00e4")),
    ],
)
def test_split_url(url: str, parts: tuple[str, str, int, str]) -> None:
    assert insight.split_url(url) == parts


@pytest.mark.parametrize("url", ["a.test", "ftp://a.test/", "http://u@a.test/", "http://a:b:c/"])
def test_split_url_refuses(url: str) -> None:
    with pytest.raises(ValueError):
        insight.split_url(url)


# ---- never matching


@pytest.mark.parametrize(
    "pattern",
    [
        "^/admin",
        "^www",
        r"\Aevil\.test",
        "^(?:/x)",
        "two words",
        "caf\u00e9",
        "page#top",
        "x^http",
        "(a|b)$c",
        "^ftp://",
        "(?i)^ADMIN",
        "(?:^x|a b)",
    ],
)
def test_patterns_that_match_no_url(pattern: str) -> None:
    assert insight.why_never(pattern) is not None


@pytest.mark.parametrize(
    "pattern",
    [
        "^http://x",
        "^https?://",
        "^h",
        "^",
        "^.*x",
        "x$",
        "(?i)^HTTP://X",
        "(?m)x^",
        "a b|c",
        "( )?x",
        "(?:x )*y",
        "^(?:http|ftp)://",
        "(",
    ],
)
def test_patterns_that_may_match(pattern: str) -> None:
    assert insight.why_never(pattern) is None


# ---- mitm-forwarder test


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    file = tmp_path / "rules.json"
    file.write_bytes(listed(r"^https?://([^/]*\.)?evil\.test(:\d+)?/", "/admin"))
    return file


def test_cli_test(rules_file: Path) -> None:
    done = run("test", "http://EVIL.test./", "--rules", str(rules_file))
    assert done.exit_code == 0
    assert "canonical: http://evil.test/\n" in done.output
    assert "blocked: rule 1 matches the canonical form (" in done.output
    done = run("test", "http://good.test/", "--rules", str(rules_file))
    assert "allowed: no rule matches" in done.output


@pytest.mark.parametrize("url", ["nonsense", "http://a..b/"])
def test_cli_test_of_what_is_no_url(rules_file: Path, url: str) -> None:
    done = run("test", url, "--rules", str(rules_file))
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")


def test_cli_test_without_list(tmp_path: Path) -> None:
    done = run("test", "http://a.test/", "--rules", str(tmp_path / "absent"))
    assert done.exit_code == 1
    assert "No such file" in done.output


# ---- mitm-forwarder rules


def test_cli_check_of_a_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SYSTEM_TOKEN must be there for the backend's own list, and goes nowhere else."""
    monkeypatch.chdir(tmp_path)
    for name in ("SYSTEM_TOKEN", "SYSTEM_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with FaultyBackend() as backend, FaultyBackend() as foreign:
        monkeypatch.setenv("FASTAPI_BASE_URL", backend.url)
        other = run("rules", "check", f"{foreign.url}/blacklist")
        assert (other.exit_code, other.output) == (0, "1 rules, 1 in force\n")
        for source in ([], [f"{backend.url}/blacklist"]):
            done = run("rules", "check", *source)
            assert done.exit_code == 2
            assert "SYSTEM_TOKEN: not set" in done.output
        assert backend.asked == []
        monkeypatch.setenv("SYSTEM_TOKEN", "canary")
        for source in ([], [f"{backend.url}/blacklist"], [f"{foreign.url}/blacklist"]):
            assert run("rules", "check", *source).exit_code == 0
        assert [a.headers.get("authorization") for a in backend.asked] == ["Bearer canary"] * 2
        assert [a.headers.get("authorization") for a in foreign.asked] == [None] * 2


def test_cli_check_names_everything(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    patterns = ["(unclosed", "/fine-rule", "/fine-rule", "^/admin", ".", r"\d\d", r"/(a|a)*!$"]
    file.write_bytes(listed(*patterns))
    done = run("rules", "check", str(file))
    assert done.exit_code == 1
    for kind, rule in [
        ("invalid", 1),
        ("duplicate", 3),
        ("never", 4),
        ("everything", 5),
        ("always", 6),
        ("quarantined", 7),
    ]:
        assert re.search(rf"^{kind} +rule {rule} ", done.output, re.MULTILINE), kind
    assert "7 rules, 6 in force" in done.output
    rows = json.loads(run("rules", "check", "--json", str(file)).output)
    assert {row["kind"] for row in rows} >= {"invalid", "never", "always"}


def test_cli_check_of_a_good_list(rules_file: Path) -> None:
    done = run("rules", "check", str(rules_file))
    assert (done.exit_code, done.output) == (0, "2 rules, 2 in force\n")


def test_cli_check_of_equal_ids(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text('[{"id": 7, "pattern": "/one-rule"}, {"id": 7, "pattern": "/other-rule"}]')
    assert "rule 7 this id stands for 2 rules" in run("rules", "check", str(file)).output


def test_cli_diff(tmp_path: Path) -> None:
    old, new, log = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "log"
    old.write_bytes(listed("/old-only", "/in-both"))
    new.write_bytes(listed("/in-both", "/new-only"))
    record = {"target_url": "http://a.test/new-only", "method": "GET"}
    log.write_text(
        "http://a.test/in-both\n"
        "03:00 GET http://a.test/old-only 200\n"
        f"{json.dumps(record)}\n{json.dumps(record)}\n"
        "https://a.test/new-only?\u2026 200\n"
        "nothing here\nhttp://a..b/\n"
    )
    done = run("rules", "diff", str(old), str(new), "--urls", str(log))
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "- http://a.test/old-only (1x) rule 1: /old-only",
        "+ http://a.test/new-only (2x) rule 2: /new-only",
        "+ https://a.test/new-only?\u2026 (1x) rule 2: /new-only",
        "5 URLs of 6 requests: 2 would be blocked (3 requests), 1 allowed (1)",
        "left out: 1 lines without a URL, 1 that are answered 400",
        "1 URLs were logged without their query, and were matched without one",
    ]


@pytest.mark.parametrize("log", [b"", b"nothing\nhere\n", bytes(range(256)) * 20])
def test_cli_diff_of_a_log_without_urls(rules_file: Path, tmp_path: Path, log: bytes) -> None:
    file = tmp_path / "log"
    file.write_bytes(log)
    done = run("rules", "diff", str(rules_file), str(rules_file), "--urls", str(file))
    assert (done.exit_code, done.output) == (1, f"Error: {file}: no URL in it\n")


@pytest.mark.parametrize("body", [b"", b"<html>503</html>", b'{"a": 1}', bytes(range(256))])
def test_cli_check_of_what_is_no_list(tmp_path: Path, body: bytes) -> None:
    file = tmp_path / "rules.json"
    file.write_bytes(body)
    done = run("rules", "check", str(file))
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {file}: ") and done.output.count("\n") == 1


def test_cli_check_of_an_empty_list(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text("[]")
    done = run("rules", "check", str(file))
    assert done.output == "0 rules, 0 in force: the list is empty, nothing is blocked\n"
    assert done.exit_code == 0


# ---- mitmproxy's commands


class Engine:
    """As much of the engine as the commands ask."""

    def __init__(self) -> None:
        self.refreshed = 0
        self.rules = _core.Rules(listed("/admin"))

    def refresh(self) -> None:
        self.refreshed += 1

    def test(self, *parts: Any) -> insight.Verdict:
        return self.rules.match(*parts)


async def test_commands() -> None:
    engine = Engine()
    owner = SimpleNamespace(bridge=SimpleNamespace(engine=engine))
    commands = Commands(owner)
    with taddons.context(commands) as context:
        call = context.master.commands.execute
        assert call("forwarder.test http://a.test/admin").startswith("blocked: rule 1 ")
        assert call("forwarder.test http://a.test/").startswith("allowed")
        with pytest.raises(exceptions.CommandError, match="not a URL"):
            call("forwarder.test x")
        call("forwarder.refresh")
        assert engine.refreshed == 1
        owner.bridge = None
        with pytest.raises(exceptions.CommandError, match="not running"):
            call("forwarder.status")
