"""What travels as JSON.

The names and types of the gateway's three endpoints are a contract (docs/openapi.yaml), and a
test compares the two.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime
from typing import Annotated
from typing import ClassVar
from typing import Literal
from typing import Self

from pydantic import AfterValidator
from pydantic import BaseModel
from pydantic import ConfigDict
from pydantic import Field
from pydantic import WithJsonSchema
from pydantic import model_validator

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\Z")


def _check_host(host: str) -> str:
    host = host.lower()
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    # A last label of digits is a mistyped IPv4 address, never a name.
    if not _HOSTNAME.match(host) or host.rpartition(".")[2].isdigit():
        raise ValueError("neither an IP address nor a host name")
    return host


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


# SQLite stores no larger integer.
Id = Annotated[int, Field(ge=0, le=2**63 - 1)]
Host = Annotated[str, AfterValidator(_check_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Protocol = Literal["http", "https", "socks4", "socks4a", "socks5", "socks5h"]
# No control characters, and no colon in the name of HTTP's Basic scheme (RFC 7617).
Username = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f:]+$")]
Password = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Pattern = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_check_pattern)]
Url = Annotated[str, Field(max_length=65536)]
# Not "date-time": that would need a zone, and the contract's example has none.
UtcTime = Annotated[
    datetime, WithJsonSchema({"type": "string", "examples": ["2024-01-01T00:00:00"]})
]


class Stored(BaseModel):
    """Read from a row of the database."""

    model_config = ConfigDict(from_attributes=True)


class Change(BaseModel):
    """A partial update: a field that is left out stays as it is."""

    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _reject_null(self) -> Self:
        for name in self.model_fields_set - self.nullable:
            if getattr(self, name) is None:
                raise ValueError(f"{name} must not be null")
        return self


class Error(BaseModel):
    """Why a request was refused."""

    detail: str


class Problem(BaseModel):
    """One thing that is wrong with a request; never the value itself."""

    loc: list[str | int]
    msg: str
    type: str


class Invalid(BaseModel):
    """Everything that is wrong with a request."""

    detail: list[Problem]


class Health(BaseModel):
    """The application answers and reaches its database."""

    status: Literal["ok"] = "ok"


class ProxyAnswer(Stored):
    """GET /proxy: the upstream proxy for one request."""

    id: Id
    ip: str
    port: Port
    address: str
    protocol: Protocol
    is_working: bool
    username: str | None = None
    password: str | None = None
    user_id: Id | None = None


class ProxyIn(BaseModel):
    """A proxy to add."""

    ip: Host
    port: Port
    protocol: Protocol = "http"
    username: Username | None = None
    password: Password | None = None
    is_working: bool = True


class ProxyChange(Change):
    """A change of a proxy."""

    nullable = frozenset({"username", "password"})

    ip: Host | None = None
    port: Port | None = None
    protocol: Protocol | None = None
    username: Username | None = None
    password: Password | None = None
    is_working: bool | None = None


class ProxyOut(Stored):
    """A proxy as the administration shows it: a password can be set but not read."""

    id: int
    ip: str
    port: int
    address: str
    protocol: Protocol
    username: str | None
    has_password: bool
    is_working: bool
    created_at: UtcTime


class RuleIn(BaseModel):
    """A blacklist rule to add; the pattern is searched for in the URL (`re.search`)."""

    pattern: Pattern
    description: Annotated[str, Field(max_length=1000)] | None = None
    created_by: Id | None = None


class RuleChange(Change):
    """A change of a rule."""

    nullable = frozenset({"description"})

    pattern: Pattern | None = None
    description: Annotated[str, Field(max_length=1000)] | None = None


class RuleOut(Stored):
    """A rule as everybody reads it."""

    id: Id
    pattern: str
    description: str | None
    created_at: UtcTime
    created_by: Id | None


class UserIn(BaseModel):
    """A user to add."""

    name: Annotated[str, Field(min_length=1, max_length=100)]


class UserChange(Change):
    """A change of a user; an inactive user's tokens are refused."""

    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    is_active: bool | None = None


class UserOut(Stored):
    """A user."""

    id: int
    name: str
    is_active: bool
    created_at: UtcTime


class TokenIn(BaseModel):
    """For whom a token is wanted, and for how long."""

    user_id: Id
    ttl_seconds: Annotated[int, Field(ge=1, le=365 * 24 * 3600)] | None = None


class TokenOut(BaseModel):
    """A new token, shown once; nothing of it is stored."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int


class ActivityIn(BaseModel):
    """POST /activity: one request, as the gateway saw it. Types are not coerced."""

    model_config = ConfigDict(strict=True)

    user_id: Id | None
    endpoint: Url
    method: Annotated[str, Field(min_length=1, max_length=64)]
    status_code: Annotated[int, Field(ge=100, le=599)]
    target_url: Url
    proxy_id: Id | None
    timestamp: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ActivityOut(Stored):
    """A stored activity record."""

    id: Id
    user_id: Id | None
    endpoint: str
    method: str
    status_code: int
    target_url: str
    proxy_id: Id | None
    timestamp: float
    received_at: UtcTime


class ActivityItem(ActivityOut):
    """A record as the administration shows it."""

    idempotency_key: str | None


class ActivityPage(BaseModel):
    """Records, newest first. `next_before_id` continues with the older ones; null at the end."""

    items: list[ActivityItem]
    next_before_id: int | None
