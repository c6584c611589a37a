"""The SQLite database: one file, write-ahead log, one short session for each unit of work."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager

from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import text
from sqlalchemy.orm import Session
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from examples.proxy_manager.models import Base

# As many connections as Starlette has worker threads, so that no thread waits for one.
POOL_SIZE = 40


class Database:
    """Owns the engine. Any thread may call; each session belongs to the thread that opened it."""

    def __init__(self, url: str) -> None:
        # hide_parameters: an error's text must not carry passwords or URLs into the log.
        self._engine = create_engine(url, hide_parameters=True, pool_size=POOL_SIZE, max_overflow=0)
        event.listen(self._engine, "connect", _prepare_connection)
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)

    def create_schema(self) -> None:
        """Create what is missing. Safe when several workers start at once."""
        with self._engine.connect() as connection:
            connection.execute(text("PRAGMA journal_mode = WAL"))
            connection.commit()
            connection.execute(text("BEGIN IMMEDIATE"))
            Base.metadata.create_all(connection)
            connection.commit()

    def begin(self) -> AbstractContextManager[Session]:
        """A session in a transaction: committed at the end of the block, or rolled back."""
        return self._sessions.begin()

    def close(self) -> None:
        """Close all idle connections."""
        self._engine.dispose()


def _prepare_connection(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    # With a write-ahead log this loses nothing when the process dies, only when the machine does.
    connection.execute("PRAGMA synchronous = NORMAL")
