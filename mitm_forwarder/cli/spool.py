"""`mitm-forwarder spool`: what waits for the backend, what it refused for good, and sending that
again. Works beside running gateways as well as without one; they notice within seconds.

Only SQLite's own locks are relied on, so this belongs into a process of its own: the gateway has
another SQLite in it.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from mitm_forwarder import options
from mitm_forwarder.cli.run import report

SCHEMA_VERSION = 2
BUSY_TIMEOUT = 10.0  # seconds; a gateway holds its database for milliseconds
ANSWER_SHOWN_CHARS = 200


T = TypeVar("T")


class SpoolError(click.ClickException):
    """One line that says which file, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that the backend refused for good. `buried_at` is in seconds since 1970."""

    key: str
    body: bytes
    status: int
    answer: str
    buried_at: float

    def url(self) -> str:
        """What it is about, or "?" where the body cannot be read."""
        try:
            return str(json.loads(self.body)["target_url"])
        except (ValueError, KeyError, TypeError):
            return "?"


@dataclass(frozen=True, slots=True)
class Slot:
    """One numbered directory of the spool: of one gateway process, alive or dead."""

    path: Path
    alive: bool
    waiting: int
    oldest_at: float | None
    journal_bytes: int
    """Of records that are not in the database yet."""
    dead: tuple[DeadLetter, ...]


def slots(directory: Path) -> list[Path]:
    """The slot directories in order of their numbers."""
    found = [path for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


@contextlib.contextmanager
def connect(slot: Path) -> Iterator[sqlite3.Connection | None]:
    """The slot's database, None where it has none; a transaction of the caller's own making."""
    path = slot / "spool.db"
    try:
        if not path.exists():
            yield None
            return
        database = sqlite3.connect(
            f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None
        )
        with contextlib.closing(database):
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA_VERSION:
                raise SpoolError(
                    f"{path}: schema version {version}, and this command knows {SCHEMA_VERSION};"
                    " start the gateway of this version once"
                )
            yield database
    except (sqlite3.Error, OSError) as error:
        raise SpoolError(f"{path}: {error}") from None


@contextlib.contextmanager
def lock(slot: Path) -> Iterator[bool]:
    """Holds the slot's lock where no process does: nobody adopts or begins to use it meanwhile.
    Was it held already, and so the slot's process alive?
    """
    try:
        descriptor = os.open(slot / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    except OSError as error:
        raise SpoolError(str(error)) from None
    try:
        alive = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alive = True
        yield alive
    finally:
        os.close(descriptor)


def _journal_bytes(slot: Path) -> int:
    """A gateway that runs deletes one after the other."""
    total = 0
    for file in slot.glob("journal-????????"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def read_slot(path: Path) -> Slot:
    """All about one slot; changes nothing."""
    waiting: int = 0
    oldest_at: float | None = None
    dead: tuple[DeadLetter, ...] = ()
    with lock(path) as alive, connect(path) as database:
        if database is not None:
            (waiting,) = database.execute("SELECT records FROM counts").fetchone()
            (oldest_at,) = database.execute(
                "SELECT (SELECT added_at FROM records ORDER BY row LIMIT 1)"
            ).fetchone()
            rows = database.execute(
                "SELECT key, body, status, answer, buried_at FROM dead ORDER BY row"
            )
            dead = tuple(DeadLetter(*row) for row in rows)
    return Slot(path, alive, waiting, oldest_at, _journal_bytes(path), dead)


def send_again(slot: Path, keys: list[str] | None) -> list[str]:
    """Puts dead letters back to those that wait, all of them for None; the keys that it found. The
    backend sees them under the same Idempotency-Key.
    """
    with lock(slot), connect(slot) as database:
        if database is None:
            return []
        database.execute("BEGIN IMMEDIATE")
        found = [key for (key,) in database.execute("SELECT key FROM dead ORDER BY row")]
        moved = [key for key in found if keys is None or key in keys]
        for key in moved:
            database.execute(
                "INSERT INTO records (key, body, added_at) SELECT key, body, ? FROM dead"
                " WHERE key = ? ON CONFLICT (key) DO NOTHING",
                (time.time(), key),
            )
            database.execute("DELETE FROM dead WHERE key = ?", (key,))
        database.execute("COMMIT")
        return moved


# ---- the command


def _each(paths: list[Path], do: Callable[[Path], T]) -> Iterator[T]:
    """A slot that is broken is named, and hides no other."""
    for path in paths:
        try:
            yield do(path)
        except SpoolError as error:
            error.show()


def _find_directory(given: str | None) -> Path:
    if given is None:
        try:
            given = options.spool_directory()
        except options.ConfigError as error:
            report(error)
            sys.exit(2)
    if not given:
        raise SpoolError("ACTIVITY_SPOOL_DIR is empty: that spool is in the gateway's memory")
    directory = Path(given).absolute()
    if not directory.is_dir():
        raise SpoolError(f"{directory}: no such directory; no gateway has run here yet")
    return directory


def _when(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _one_line(text: str) -> str:
    """Without what could move a terminal's cursor."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:ANSWER_SHOWN_CHARS]


def _show(slot: Slot) -> None:
    owner = "running" if slot.alive else "no process"
    line = f"{slot.path} ({owner}): {slot.waiting} waiting, {len(slot.dead)} refused for good"
    if slot.oldest_at:
        line += f", oldest since {_when(slot.oldest_at)}"
    if slot.journal_bytes:
        line += f", {slot.journal_bytes} bytes in the journal"
    click.echo(line)
    for letter in slot.dead:
        click.echo(
            f"  {letter.key}  {_when(letter.buried_at)}  {letter.status}"
            f"  {_one_line(letter.url())}  {_one_line(letter.answer)}"
        )


def _as_json(slot: Slot) -> dict[str, object]:
    return {
        "path": str(slot.path),
        "alive": slot.alive,
        "waiting": slot.waiting,
        "oldest_at": slot.oldest_at,
        "journal_bytes": slot.journal_bytes,
        "dead": [
            {
                "key": letter.key,
                "status": letter.status,
                "answer": letter.answer,
                "buried_at": letter.buried_at,
                "record": letter.body.decode(errors="replace"),
            }
            for letter in slot.dead
        ],
    }


@click.group(invoke_without_command=True)
@click.option(
    "--directory",
    type=click.Path(file_okay=False),
    help="The spool; by default ACTIVITY_SPOOL_DIR of the environment or .env.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs, with the records' bodies.")
@click.pass_context
def spool(context: click.Context, directory: str | None, as_json: bool) -> None:
    """Show the activity records that wait, and those that the backend refused for good."""
    context.obj = _find_directory(directory)
    if context.invoked_subcommand is not None:
        return
    paths = slots(context.obj)
    found = list(_each(paths, read_slot))
    if as_json:
        click.echo(json.dumps([_as_json(slot) for slot in found], indent=2))
    else:
        for slot in found:
            _show(slot)
    if not paths:
        click.echo(f"{context.obj}: empty", err=as_json)
    sys.exit(0 if len(found) == len(paths) else 1)


@spool.command()
@click.argument("keys", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that was refused.")
@click.pass_context
def resend(context: click.Context, keys: tuple[str, ...], everything: bool) -> None:
    """Send refused records again: those with these KEYS, or --all.

    A running gateway sends them within seconds, otherwise the next one that starts. Exit status 1:
    a key was not found, or a slot could not be read.
    """
    if bool(keys) == everything:
        raise click.UsageError("name the keys of records, or --all; not both")
    paths = slots(context.obj)
    found = list(_each(paths, lambda path: send_again(path, None if everything else list(keys))))
    moved = [key for keys_of_slot in found for key in keys_of_slot]
    for key in moved:
        click.echo(f"{key}: waits for delivery")
    missing = [key for key in keys if key not in moved]
    for key in missing:
        click.echo(f"{key}: no such refused record", err=True)
    sys.exit(1 if missing or len(found) < len(paths) else 0)
