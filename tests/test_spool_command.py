"""`mitm-forwarder spool` on directories as an administrator may find them."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from click.testing import Result

from mitm_forwarder.cli.spool import SCHEMA_VERSION
from mitm_forwarder.cli.spool import connect
from mitm_forwarder.cli.spool import read_slot
from mitm_forwarder.cli.spool import send_again
from mitm_forwarder.cli.spool import spool

COMMAND = sys.modules["mitm_forwarder.cli.spool"]
"""The module, which the command of the same name hides."""

SCHEMA = f"""
CREATE TABLE records (row INTEGER PRIMARY KEY, key TEXT UNIQUE, body BLOB, added_at REAL);
CREATE TABLE dead (row INTEGER PRIMARY KEY, key TEXT UNIQUE, body BLOB, status INTEGER,
                   answer TEXT, buried_at REAL);
CREATE VIEW counts AS SELECT count(*) AS records FROM records;
INSERT INTO dead (key, body, status, answer, buried_at)
    VALUES ('key', CAST('{{"target_url": "http://example.com/"}}' AS BLOB), 422, 'no', 1.0);
PRAGMA user_version = {SCHEMA_VERSION};
"""
"""As much as the command relies on; tests/test_bad_days.py has it beside a real gateway."""


def ask(directory: Path, *args: str) -> Result:
    return CliRunner().invoke(spool, ["--directory", str(directory), *args])


def make_slot(directory: Path, number: int) -> Path:
    slot = directory / str(number)
    slot.mkdir()
    (slot / "lock").touch()
    database = sqlite3.connect(slot / "spool.db")
    database.executescript(SCHEMA)
    database.close()
    return slot


def garbage(database: Path) -> None:
    database.write_bytes(os.urandom(8192))


def nothing(database: Path) -> None:
    database.write_bytes(b"")


def directory(database: Path) -> None:
    database.unlink()
    database.mkdir()


def test_nothing_there(tmp_path: Path) -> None:
    missing = ask(tmp_path / "none")
    assert missing.exit_code == 1 and "no gateway has run here yet" in missing.output
    empty = ask(tmp_path)
    assert (empty.exit_code, empty.output) == (0, f"{tmp_path}: empty\n")
    assert json.loads(ask(tmp_path, "--json").stdout) == []
    (tmp_path / "0").mkdir()
    assert "(no process): 0 waiting, 0 refused" in ask(tmp_path).output


def test_looking_needs_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the spool is is all that the command must know, from wherever a gateway knows it."""
    for name in list(os.environ):
        if name.startswith(("SYSTEM_TOKEN", "STATE_DIR", "ACTIVITY_", "FASTAPI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spool").mkdir()
    make_slot(tmp_path / "spool", 0)
    (tmp_path / ".env").write_text(f"STATE_DIR={tmp_path}\n")
    shown = CliRunner().invoke(spool, [])
    assert shown.exit_code == 0 and "1 refused for good" in shown.stdout
    assert "key: waits" in CliRunner().invoke(spool, ["resend", "--all"]).stdout
    monkeypatch.setenv("ACTIVITY_SPOOL_DIR", "")
    assert "in the gateway's memory" in CliRunner().invoke(spool, []).stderr
    monkeypatch.setenv("ACTIVITY_SPOOL_DIR", str(tmp_path / ".env"))
    wrong = CliRunner().invoke(spool, [])
    assert wrong.exit_code == 2 and "ACTIVITY_SPOOL_DIR=" in wrong.output


@pytest.mark.parametrize("spoil", [garbage, nothing, directory])
def test_broken_slot_hides_no_other(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    """It is named, the others are shown and sent again, and the exit status tells."""
    broken, _ = make_slot(tmp_path, 0), make_slot(tmp_path, 1)
    spoil(broken / "spool.db")
    for args, expected in (
        ([], "1 refused for good"),
        (["--json"], '"status": 422'),
        (["resend", "--all"], "key: waits for delivery"),
    ):
        result = ask(tmp_path, *args)
        assert result.exit_code == 1
        assert expected in result.stdout
        assert f"Error: {broken / 'spool.db'}: " in result.stderr
        assert "Traceback" not in result.output
    assert "1 waiting, 0 refused for good" in ask(tmp_path).stdout


def test_journal_that_goes_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway under load replaces it ten times a second."""
    slot = make_slot(tmp_path, 0)
    (slot / "journal-00000001").write_bytes(b"12345")
    gone = slot / "journal-00000002"
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [*glob(self, pattern), gone])
    assert read_slot(slot).journal_bytes == 5


def test_slot_is_not_adopted_while_it_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes a dead process's slot over holds its lock; so does the command."""
    slot = make_slot(tmp_path, 0)
    seen = []

    def watched(path: Path) -> object:
        with open(path / "lock") as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append(path)
        return connect(path)

    monkeypatch.setattr(COMMAND, "connect", watched)
    assert not read_slot(slot).alive
    assert send_again(slot, None) == ["key"]
    assert seen == [slot, slot]
    with open(slot / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        monkeypatch.setattr(COMMAND, "connect", connect)
        assert read_slot(slot).alive
