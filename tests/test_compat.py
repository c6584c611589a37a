"""The contract with mitmproxy: holds on this version, and a broken one is refused in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from mitmproxy.proxy.layers import http
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.http import HttpStream

import mitm_forwarder
from mitm_forwarder import compat


def test_this_version_keeps_the_contract() -> None:
    result = compat.check()
    assert result.errors == ()
    assert result.ok


def test_a_tested_version_gives_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat.version, "VERSION", compat.TESTED[-1])
    assert compat.check().warnings == ()


def test_an_unknown_version_that_keeps_it_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat.version, "VERSION", compat.version.VERSION + ".99")
    result = compat.check()
    assert result.ok
    assert len(result.warnings) == 1
    assert "has not been tested" in result.warnings[0]


def broken_by(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, value: Any) -> str:
    monkeypatch.setattr(owner, name, value)
    result = compat.check()
    assert not result.ok
    assert all(line.startswith("mitmproxy ") and "\n" not in line for line in result.errors)
    return " | ".join(result.errors)


def test_a_changed_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_killed(self: Any, emit_error_hook: bool, why: str = "") -> None: ...

    text = broken_by(monkeypatch, HttpStream, "check_killed", check_killed)
    assert "HttpStream.check_killed is (self, emit_error_hook, why='')" in text
    assert "not (self, emit_error_hook)" in text


def test_changed_behaviour_behind_an_unchanged_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_stream(self: Any, stream_id: int) -> None: ...

    text = broken_by(monkeypatch, HttpLayer, "make_stream", make_stream)
    assert "no longer contains 'HttpStream(ctx, stream_id)'" in text


def test_a_name_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(http, "DropStream")
    (error,) = compat.check().errors
    assert "DropStream.__init__ cannot be examined: AttributeError" in error


def test_a_row_counts_only_for_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    row = compat.Reliance("no.such.module:name", "()", since=(12,), until=(13, 1))
    monkeypatch.setattr(compat, "CONTRACT", (row,))
    for version, holds in [
        ("11.9.9", True),
        ("12.0.0", False),
        ("13.0.0.dev", False),
        ("13.1.0", True),
    ]:
        monkeypatch.setattr(compat.version, "VERSION", version)
        assert compat.check().ok == holds, version


def test_every_row_says_one_thing() -> None:
    for row in compat.CONTRACT:
        claims = [row.signature, row.source, row.behaviour]
        assert sum(x is not None for x in claims) == 1, row.name
    rows = [dataclasses.astuple(row) for row in compat.CONTRACT]
    assert len(rows) == len(set(rows))


def test_a_broken_contract_leaves_only_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(HttpLayer, "make_stream")
    addons = mitm_forwarder.addons
    assert [type(addon) for addon in addons] == [compat.Unsupported]
    addons[0].load(None)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * len(addons[0].errors)
    assert "make_stream" in caplog.text
