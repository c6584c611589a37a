"""The tables. Times are UTC without a zone, the way the contract writes `created_at`."""

from __future__ import annotations

from datetime import UTC
from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import ForeignKey
from sqlalchemy import Table
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column


def utc_now() -> datetime:
    """The current UTC time in whole seconds."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


class Base(DeclarativeBase):
    """Base of all tables.

    An id is never used twice: activity names users and proxies for ever, and the next user must
    not inherit the unexpired tokens of a deleted one.
    """

    __table_args__ = ({"sqlite_autoincrement": True},)


class User(Base):
    """Somebody for whom tokens are issued."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    is_active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Proxy(Base):
    """An upstream proxy. `turn` orders the rotation: the lowest is next."""

    __tablename__ = "proxies"

    id: Mapped[int] = mapped_column(primary_key=True)
    ip: Mapped[str]
    port: Mapped[int]
    protocol: Mapped[str]
    username: Mapped[str | None]
    password: Mapped[str | None]
    is_working: Mapped[bool] = mapped_column(default=True)
    turn: Mapped[int] = mapped_column(default=0, index=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    @property
    def address(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{host}:{self.port}"

    @property
    def has_password(self) -> bool:
        """Whether a password is stored; the administration shows no more than this."""
        return self.password is not None


class BlacklistRule(Base):
    """A regular expression in the dialect of Python's `re`."""

    __tablename__ = "blacklist"

    id: Mapped[int] = mapped_column(primary_key=True)
    pattern: Mapped[str]
    description: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))


class BlacklistVersion(Base):
    """One row whose value changes with every change of the blacklist; see the triggers below."""

    __tablename__ = "blacklist_version"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[str]


class Activity(Base):
    """What a gateway reported.

    No foreign keys: a report about a user or proxy that is gone, or that this database never
    knew, is still a report.
    """

    __tablename__ = "activity"

    id: Mapped[int] = mapped_column(primary_key=True)
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    user_id: Mapped[int | None] = mapped_column(index=True)
    endpoint: Mapped[str]
    method: Mapped[str]
    status_code: Mapped[int]
    target_url: Mapped[str]
    proxy_id: Mapped[int | None] = mapped_column(index=True)
    timestamp: Mapped[float] = mapped_column(index=True)
    received_at: Mapped[datetime] = mapped_column(default=utc_now)


# The ETag of the list. Triggers, so that no way to change the table can forget it (not even a
# shell on the database file); random, so that a restored backup never repeats an old value.
_NEW_VERSION = "lower(hex(randomblob(16)))"


def _first_version(_table: Table, connection: Connection, **_options: Any) -> None:
    connection.exec_driver_sql(f"INSERT INTO blacklist_version VALUES (1, {_NEW_VERSION})")


def _version_triggers(_table: Table, connection: Connection, **_options: Any) -> None:
    for change in ("INSERT", "UPDATE", "DELETE"):
        connection.exec_driver_sql(
            f"CREATE TRIGGER blacklist_{change.lower()} AFTER {change} ON blacklist BEGIN"
            f" UPDATE blacklist_version SET value = {_NEW_VERSION}; END"
        )


event.listen(BlacklistVersion.__table__, "after_create", _first_version)
event.listen(BlacklistRule.__table__, "after_create", _version_triggers)
