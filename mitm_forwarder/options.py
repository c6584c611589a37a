"""Environment, `.env` and mitmproxy options, read into one frozen Config.

The fields of Config are the table that everything else is made from: variables, options, defaults,
bounds and help. Sources, in order of precedence: `--set forwarder_x=…`, the environment, `.env` in
the current directory, the default. Secrets are never options, since mitmweb shows those.
Works without a running mitmproxy. Any thread; reads files, so not on a request's path.
"""

from __future__ import annotations

import io
import logging
import os
import stat
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from pathlib import Path
from string import Template
from typing import Any
from typing import Protocol

from dotenv.parser import parse_stream

from mitm_forwarder import turbo
from mitm_forwarder.kinds import BASE_URL
from mitm_forwarder.kinds import BOOLEAN
from mitm_forwarder.kinds import CHALLENGE
from mitm_forwarder.kinds import CLAIM_NAMES
from mitm_forwarder.kinds import DIRECTORY
from mitm_forwarder.kinds import ENDPOINT
from mitm_forwarder.kinds import FILE
from mitm_forwarder.kinds import LISTEN
from mitm_forwarder.kinds import ON_FULL
from mitm_forwarder.kinds import SECONDS
from mitm_forwarder.kinds import SPOOL_DIRECTORY
from mitm_forwarder.kinds import TARGETS
from mitm_forwarder.kinds import TOKEN
from mitm_forwarder.kinds import TOKEN_MAX_BYTES
from mitm_forwarder.kinds import TURBO
from mitm_forwarder.kinds import Kind
from mitm_forwarder.kinds import absolute_path
from mitm_forwarder.kinds import count
from mitm_forwarder.kinds import seconds
from mitm_forwarder.kinds import size
from mitm_forwarder.logs import mask

logger = logging.getLogger(__name__)

PREFIX = "forwarder_"
SHOWN_MAX_CHARS = 80


class ConfigError(Exception):
    """Why the configuration cannot be used. Each of `problems` is one complete line: the variable
    (or option), what is wrong with it, what is allowed. A secret's text is in none of them.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


# ---- the table


def _variable(
    kind: Kind,
    default: str | None,
    help: str,
    *,
    required: bool = False,
    secret: bool = False,
    empty_counts: bool = False,
) -> Any:
    row = {
        "kind": kind,
        "default": default,
        "help": help,
        "required": required,
        "secret": secret,
        "empty_counts": empty_counts,
    }
    return field(repr=not secret, metadata=row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The configuration. Floats are seconds, ints are bytes or counts, tokens are bare."""

    system_token: str = _variable(
        TOKEN, None, "bearer token for /blacklist and /activity", required=True, secret=True
    )
    default_user_jwt: str | None = _variable(
        TOKEN, None, "user token for clients that send none", secret=True
    )
    require_user_jwt: bool = _variable(
        BOOLEAN, "true", "answer 401 when there is no user token at all"
    )
    fastapi_base_url: str = _variable(
        BASE_URL,
        "http://127.0.0.1:8000",
        "where the backend is",
    )
    fastapi_proxy_endpoint: str = _variable(ENDPOINT, "/proxy", "path that gives an upstream proxy")
    fastapi_blacklist_endpoint: str = _variable(
        ENDPOINT, "/blacklist", "path that gives the blacklist rules"
    )
    fastapi_activity_endpoint: str = _variable(
        ENDPOINT, "/activity", "path that takes activity records"
    )
    fastapi_ca_bundle: str | None = _variable(
        FILE, None, "PEM file of the CAs that may sign the backend's certificate (unset: system's)"
    )
    fastapi_client_cert: str | None = _variable(
        FILE, None, "PEM file of the client certificate shown to the backend"
    )
    fastapi_client_key: str | None = _variable(
        FILE, None, "PEM file of its key, when FASTAPI_CLIENT_CERT does not hold it"
    )
    blacklist_refresh_seconds: float = _variable(
        seconds(0.1, 86400), "60", "how often the blacklist is fetched"
    )
    blacklist_max_stale_seconds: float = _variable(
        seconds(1, 31536000, zero="never"), "86400", "answer 503 when the blacklist is older"
    )
    blacklist_max_bytes: int = _variable(
        size(2, 4 << 30), "64MiB", "largest answer to /blacklist that is taken"
    )
    blacklist_max_shrink_percent: int = _variable(
        count(0, 99),
        "0",
        "refuse a blacklist that has lost more of its rules than this at once; 0 obeys any list",
    )
    httpx_timeout: float = _variable(
        SECONDS,
        "30.0",
        "bounds queue, backend, dials and retries together; and again the time to the response",
    )
    connect_timeout: float = _variable(SECONDS, "10", "bounds one connect and handshake")
    queue_timeout: float = _variable(
        SECONDS, "5", "how long a request may wait when MAX_CONCURRENT_REQUESTS run"
    )
    stream_idle_timeout: float = _variable(SECONDS, "300", "ends a stream in which nothing moves")
    upstream_idle_timeout: float = _variable(SECONDS, "60", "closes unused upstream connections")
    shutdown_timeout: float = _variable(
        seconds(0.001, 3600), "8", "how long running requests may take to end at shutdown"
    )
    stream_threshold_bytes: int = _variable(
        size(0, 1 << 30), "1MiB", "larger bodies are streamed, not held in memory"
    )
    mitm_listen_port: int = _variable(
        count(1, 65535), "8080", "port of the launcher and the image (mitmdump itself: -p)"
    )
    max_concurrent_requests: int = _variable(
        count(1, 1_000_000), "100", "requests that may run at once; as many again may wait"
    )
    proxy_retries: int = _variable(
        count(0, 100), "2", "further upstream proxies to ask for when one cannot be reached"
    )
    auth_challenge: int = _variable(CHALLENGE, "401", "how a missing user token is asked for")
    forward_authorization: bool = _variable(
        BOOLEAN, "false", "leave the user token's Authorization header on the request"
    )
    user_id_claim: str = _variable(
        CLAIM_NAMES,
        "user_id,sub,id",
        "claims of an accepted token that may hold the user's id; the first found counts",
    )
    deny_private_targets: bool = _variable(
        BOOLEAN, "false", "answer 403 for targets that are private addresses or names"
    )
    deny_ip_literals: bool = _variable(
        BOOLEAN, "false", "answer 403 for targets that are IP addresses instead of names"
    )
    allow_targets: str | None = _variable(
        TARGETS, None, "targets that are allowed although they would be denied"
    )
    state_dir: str = _variable(
        DIRECTORY, "$XDG_STATE_HOME/mitm-forwarder", "where the last good blacklist is kept"
    )
    activity_spool_dir: str = _variable(
        SPOOL_DIRECTORY,
        "$STATE_DIR/spool",
        "where activity records wait for the backend; the empty variable means memory only"
        " (an empty option counts as unset)",
        empty_counts=True,
    )
    activity_spool_max_bytes: int = _variable(
        size(1 << 20, 1 << 40), "1GiB", "how large the spool may grow"
    )
    activity_on_full: str = _variable(
        ON_FULL,
        "reject",
        "what happens when the spool is full: new requests are answered 503, or the oldest records"
        " are dropped",
    )
    metrics_listen: tuple[str, int] | None = _variable(
        LISTEN,
        "127.0.0.1:9475",
        "where Prometheus may fetch /metrics; the empty variable means nowhere"
        " (an empty option counts as unset)",
        empty_counts=True,
    )
    metrics_token: str | None = _variable(
        TOKEN, None, "bearer token that /metrics asks for", secret=True
    )
    turbo: frozenset[str] | None = _variable(
        TURBO,
        None,
        "cuts into mitmproxy's own cost (unset: all by mitm-forwarder run, safe with -s)",
    )

    @property
    def activity_drops_oldest(self) -> bool:
        """ACTIVITY_ON_FULL=drop."""
        return self.activity_on_full == "drop"

    @property
    def proxy_url(self) -> str:
        """GET: an upstream proxy for a target and a user."""
        return self.fastapi_base_url + self.fastapi_proxy_endpoint

    @property
    def blacklist_url(self) -> str:
        """GET: the rules."""
        return self.fastapi_base_url + self.fastapi_blacklist_endpoint

    @property
    def activity_url(self) -> str:
        """POST: one record."""
        return self.fastapi_base_url + self.fastapi_activity_endpoint


@dataclass(frozen=True, slots=True)
class Found:
    """A text, and where it came from in the words of an error: NAME='text' in .env."""

    name: str
    text: str
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Variable:
    """One row of the table. `default` is the text that a user would write; None means unset, and
    `$XDG_STATE_HOME` and `$STATE_DIR` in it are replaced.
    """

    field: str
    kind: Kind
    default: str | None
    help: str
    required: bool
    secret: bool
    empty_counts: bool

    @property
    def name(self) -> str:
        return self.field.upper()

    @property
    def option(self) -> str | None:
        """The mitmproxy option; secrets have none."""
        return None if self.secret else PREFIX + self.field

    def parse(self, found: Found) -> Any:
        """The value; ConfigError with its one line."""
        try:
            return self.kind.parse(found.text)
        except ValueError as error:
            shown = "" if self.secret else f"={_shown(found.text)}"
            raise ConfigError(
                [f"{found.name}{shown}{found.origin}: {error}; allowed: {self.kind.allowed}"]
            ) from None


VARIABLES = tuple(Variable(field=row.name, **row.metadata) for row in fields(Config))


def _shown(text: str) -> str:
    masked = mask(text)
    return repr(masked if len(masked) <= SHOWN_MAX_CHARS else masked[:SHOWN_MAX_CHARS] + "…")


# ---- sources


class Loader(Protocol):
    """The part of mitmproxy's addonmanager.Loader that add_options needs."""

    def add_option(self, name: str, typespec: type, default: Any, help: str) -> None: ...


def add_options(loader: Loader) -> None:
    """Declare every option as a string whose default "" means unset (mitmproxy has no floats).

    Must give the same texts each time: a hot reload that changes one resets the user's value.
    """
    for variable in VARIABLES:
        if variable.option is not None:
            default = "unset" if variable.default is None else variable.default
            text = f"{variable.help}; {variable.kind.allowed}. {variable.name}, default: {default}."
            loader.add_option(variable.option, str, "", text)


class _Sources:
    """Where texts come from, in order of precedence."""

    def __init__(
        self, options: object | None, environ: Mapping[str, str] | None, cwd: Path | None
    ) -> None:
        self.options = options
        self.environ = os.environ if environ is None else environ
        self.dotenv = _read_dotenv((cwd or Path.cwd()) / ".env")

    def find(self, variable: Variable) -> Found | None:
        if variable.option is not None:
            text = str(getattr(self.options, variable.option, None) or "").strip()
            if text:
                return Found(variable.option, text)
        return self.find_name(variable.name, variable.empty_counts)

    def find_name(self, name: str, empty_counts: bool = False) -> Found | None:
        for source, origin in ((self.environ, ""), (self.dotenv, " in .env")):
            text = source.get(name)
            if text is not None and (text.strip() or empty_counts):
                return Found(name, text.strip(), origin)
        return None

    def state_home(self) -> str:
        """As the XDG base directory specification has it: relative paths do not count."""
        given = self.environ.get("XDG_STATE_HOME", "")
        home = self.environ.get("HOME") or "~"
        return given if os.path.isabs(given) else os.path.join(home, ".local", "state")


def _read_dotenv(path: Path) -> dict[str, str]:
    """Variables of the file; empty when there is none. A line that cannot be read is an error: what
    it was meant to set would silently be the default.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError([f".env: cannot be read ({reason}); allowed: lines NAME=value"]) from None
    values: dict[str, str] = {}
    problems = []
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            problems.append(
                f".env: line {binding.original.line} cannot be read; allowed: NAME=value,"
                " with matching quotes if any"
            )
        elif binding.key is not None:
            values[binding.key] = binding.value or ""
    if problems:
        raise ConfigError(problems)
    return values


def load(
    options: object | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    *,
    secrets: bool = True,
) -> Config:
    """The whole configuration. `options` is mitmproxy's (or None), `environ` defaults to the
    process's, `cwd` is where `.env` is looked for; without `secrets` they are empty, and may be
    missing. Raises ConfigError with every problem there is.
    """
    sources = _Sources(options, environ, cwd)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for variable in VARIABLES:
        if variable.secret and not secrets:
            values[variable.field] = ""
            continue
        try:
            values[variable.field] = _value(variable, sources, values)
        except ConfigError as error:
            problems += error.problems
    # True: there was a problem with the certificate, which has been reported.
    if values.get("fastapi_client_key") and not values.get("fastapi_client_cert", True):
        problems.append("FASTAPI_CLIENT_KEY: set without FASTAPI_CLIENT_CERT; allowed: both")
    if problems:
        raise ConfigError(problems)
    return Config(**values)


def early_turbo() -> frozenset[str] | None:
    """TURBO before mitmproxy's arguments are read: those cuts of it that are to be put in by then.
    None when it is unset, or wrong, which `load` will say.
    """
    variable = next(row for row in VARIABLES if row.field == "turbo")
    try:
        wanted = _value(variable, _Sources(None, None, None), {})
    except ConfigError:
        return None
    return None if wanted is None else frozenset(wanted & frozenset(turbo.EARLY))


def spool_directory() -> str:
    """ACTIVITY_SPOOL_DIR of the environment or .env, for who only looks into the spool: what a
    gateway needs beyond that, the token above all, may be missing here. Raises ConfigError.
    """
    sources, values = _Sources(None, None, None), dict[str, Any]()
    for variable in VARIABLES:
        if variable.field in ("state_dir", "activity_spool_dir"):
            values[variable.field] = _value(variable, sources, values)
    found: str = values["activity_spool_dir"]
    return found


def _value(variable: Variable, sources: _Sources, values: Mapping[str, Any]) -> Any:
    if variable.secret:
        return _Secret(variable, sources).value
    found = sources.find(variable)
    if found is not None:
        return variable.parse(found)
    if variable.default is None:
        return None
    text = Template(variable.default).safe_substitute(
        XDG_STATE_HOME=sources.state_home(), STATE_DIR=values.get("state_dir", "")
    )
    return variable.parse(Found(variable.name, text))


# ---- secrets


class _Secret:
    """One secret's value, and the file it came from if it did."""

    def __init__(self, variable: Variable, sources: _Sources) -> None:
        self.variable = variable
        self.file: Found | None = None
        self.stamp: tuple[int, ...] | None = None
        self.value: str | None = None
        direct = sources.find(variable)
        file = sources.find_name(f"{variable.name}_FILE")
        if direct and file:
            raise ConfigError(
                [
                    f"{direct.name}{direct.origin}: {file.name} is set{file.origin} as well;"
                    " allowed: one of the two"
                ]
            )
        if direct:
            self.value = variable.parse(direct)
        elif file:
            self.file = file
            self.stamp, self.value = self._read(file)
        elif variable.required:
            raise ConfigError(
                [
                    f"{variable.name}: not set; allowed: {variable.kind.allowed};"
                    f" or {variable.name}_FILE naming a file that holds it"
                ]
            )

    def _read(self, file: Found) -> tuple[tuple[int, ...], Any]:
        label = f"{file.name}={_shown(file.text)}{file.origin}"
        try:
            # Without O_NONBLOCK, opening a FIFO would wait for a writer.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(absolute_path(file.text), flags), "rb") as stream:
                status = os.fstat(stream.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError("is not a regular file")
                raw = stream.read(2 * TOKEN_MAX_BYTES)
        except (OSError, ValueError) as error:
            what = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else error
            raise ConfigError([f"{label}: {what}; allowed: a file that holds the token"]) from None
        text = raw.decode("ascii", errors="replace").strip()
        return _stamp(status), self.variable.parse(Found(label, text))

    def refresh(self) -> bool:
        """Read the file again if it is another than before. Keeps the old value when the new one
        cannot be used: a rotation may be caught half-way.
        """
        if self.file is None:
            return False
        try:
            stamp = _stamp(os.stat(absolute_path(self.file.text)))
        except OSError:
            stamp = ()
        if stamp == self.stamp:
            return False
        self.stamp = stamp
        try:
            self.stamp, value = self._read(self.file)
        except ConfigError as error:
            logger.warning("%s; the token in use stays", error)
            return False
        changed = bool(value != self.value)
        self.value = value
        return changed


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Secrets:
    """The tokens, kept up to date with their files. One thread at a time.

    Raises ConfigError like load, but only about the tokens.
    """

    def __init__(self, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        sources = _Sources(None, environ, cwd)
        self._secrets = {v.field: _Secret(v, sources) for v in VARIABLES if v.secret}

    @property
    def system_token(self) -> str:
        value = self._secrets["system_token"].value
        assert value is not None
        return value

    @property
    def default_user_jwt(self) -> str | None:
        return self._secrets["default_user_jwt"].value

    @property
    def metrics_token(self) -> str | None:
        return self._secrets["metrics_token"].value

    def values(self) -> tuple[str | None, ...]:
        """All of them, for what must show none."""
        return tuple(secret.value for secret in self._secrets.values())

    def changed(self) -> bool:
        """Look at the files (one stat each) and take over what is new; True when a token is."""
        changes = [secret.refresh() for secret in self._secrets.values()]
        return any(changes)
