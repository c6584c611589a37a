"""Settings from the environment, checked once, before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

# RFC 7518 section 3.2: a key for HS256 has at least as many bytes as its hash.
JWT_SECRET_MIN_BYTES = 32
YEAR_SECONDS = 365 * 24 * 3600


class SettingsError(Exception):
    """A setting is missing or wrong; the text is one line for the operator, without secrets."""


@dataclass(frozen=True)
class Settings:
    """Everything the application takes from outside. Secrets stay out of `repr`."""

    system_token: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    database_url: str = "sqlite:///proxy_manager.db"
    jwt_issuer: str = "proxy-manager"
    token_ttl_seconds: int = 3600
    proxy_lease_seconds: int = 0


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read and check all settings; raises SettingsError on the first that is wrong."""
    return Settings(
        system_token=_system_token(environ),
        jwt_secret=_jwt_secret(environ),
        database_url=_database_url(environ),
        jwt_issuer=environ.get("JWT_ISSUER", "").strip() or Settings.jwt_issuer,
        token_ttl_seconds=_seconds(environ, "TOKEN_TTL_SECONDS", Settings.token_ttl_seconds, 1),
        proxy_lease_seconds=_seconds(
            environ, "PROXY_LEASE_SECONDS", Settings.proxy_lease_seconds, 0
        ),
    )


def _system_token(environ: Mapping[str, str]) -> str:
    token = environ.get("SYSTEM_TOKEN", "").strip()
    if not token:
        raise SettingsError("SYSTEM_TOKEN is missing: set it to the token the gateway sends")
    if not all("!" <= char <= "~" for char in token):
        raise SettingsError("SYSTEM_TOKEN must consist of visible ASCII characters without spaces")
    return token


def _jwt_secret(environ: Mapping[str, str]) -> str:
    secret = environ.get("JWT_SECRET", "")
    if len(secret.encode()) < JWT_SECRET_MIN_BYTES:
        raise SettingsError(
            f"JWT_SECRET must have at least {JWT_SECRET_MIN_BYTES} bytes, for example the output"
            " of `openssl rand -hex 32`"
        )
    return secret


def _database_url(environ: Mapping[str, str]) -> str:
    url = environ.get("DATABASE_URL", "").strip() or Settings.database_url
    try:
        parts = make_url(url)
    except ArgumentError:
        parts = None
    # A database in memory would be another one in each thread.
    if parts is None or parts.get_backend_name() != "sqlite" or not parts.database:
        raise SettingsError("DATABASE_URL must name an SQLite file, like sqlite:///manager.db")
    if parts.database == ":memory:":
        raise SettingsError("DATABASE_URL must name an SQLite file, not :memory:")
    if not Path(parts.database).parent.is_dir():
        raise SettingsError("DATABASE_URL names a file in a directory that does not exist")
    return url


def _seconds(environ: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and least <= int(text) <= YEAR_SECONDS):
        raise SettingsError(
            f"{name} must be a whole number of seconds from {least} to {YEAR_SECONDS}"
        )
    return int(text)
