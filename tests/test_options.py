"""Variables, `.env`, options and secret files, as people really write them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.test import taddons

from mitm_forwarder import options
from mitm_forwarder.options import Config
from mitm_forwarder.options import ConfigError
from mitm_forwarder.options import Secrets

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI3In0.c2lnbmF0dXJl"


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """load(NAME=value, …): with a system token, an empty directory and no other environment.

    `dotenv` is the content of `.env`, `chosen` are mitmproxy options.
    """

    def call(dotenv: bytes | str = b"", chosen: dict[str, str] | None = None, **env: str) -> Config:
        raw = dotenv if isinstance(dotenv, bytes) else dotenv.encode()
        (tmp_path / ".env").write_bytes(raw)
        environ = {"SYSTEM_TOKEN": "system", "HOME": str(tmp_path), **env}
        return options.load(SimpleNamespace(**(chosen or {})), environ, tmp_path)

    return call


def problems(call: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        call(*args, **kwargs)
    assert str(raised.value) == "\n".join(raised.value.problems)
    assert all(line.isprintable() for line in raised.value.problems)
    return raised.value.problems


# ---- the table


def test_defaults_are_those_of_the_design(load: Any, tmp_path: Path) -> None:
    config = load()
    expected: dict[str, Any] = {
        "system_token": "system",
        "default_user_jwt": None,
        "require_user_jwt": True,
        "fastapi_base_url": "http://127.0.0.1:8000",
        "blacklist_refresh_seconds": 60.0,
        "blacklist_max_stale_seconds": 86400.0,
        "blacklist_max_bytes": 64 << 20,
        "httpx_timeout": 30.0,
        "stream_threshold_bytes": 1 << 20,
        "mitm_listen_port": 8080,
        "max_concurrent_requests": 100,
        "auth_challenge": 401,
        "forward_authorization": False,
        "user_id_claim": "user_id,sub,id",
        "state_dir": str(tmp_path / ".local/state/mitm-forwarder"),
        "activity_spool_dir": str(tmp_path / ".local/state/mitm-forwarder/spool"),
        "activity_spool_max_bytes": 1 << 30,
        "activity_on_full": "reject",
        "activity_drops_oldest": False,
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.blacklist_url == "http://127.0.0.1:8000/blacklist"


def test_every_row_is_complete() -> None:
    assert [v.field for v in options.VARIABLES] == [f.name for f in dataclasses.fields(Config)]
    for variable in options.VARIABLES:
        for text in (variable.help, variable.kind.allowed):
            assert text and text == text.strip() and "\n" not in text
        if variable.default is not None:
            variable.kind.parse(variable.default)


def test_secrets_are_neither_options_nor_shown(load: Any) -> None:
    assert [v.name for v in options.VARIABLES if v.option is None] == [
        "SYSTEM_TOKEN",
        "DEFAULT_USER_JWT",
        "METRICS_TOKEN",
    ]
    config = load(DEFAULT_USER_JWT=JWT, SYSTEM_TOKEN="s3cr3t-canary", METRICS_TOKEN="m3tr1c-canary")
    for secret in ("s3cr3t-canary", "m3tr1c-canary", JWT):
        assert secret not in repr(config)


@pytest.mark.parametrize(
    "text, value",
    [
        (None, ("127.0.0.1", 9475)),
        ("", None),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:9000", ("127.0.0.1", 9000)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("[::1]:9475", ("::1", 9475)),
    ],
)
def test_metrics_listen(load: Any, text: str | None, value: object) -> None:
    assert load(**({} if text is None else {"METRICS_LISTEN": text})).metrics_listen == value


@pytest.mark.parametrize(
    "text",
    ["9475", ":9475", "127.0.0.1", "127.0.0.1:65536", "::1:9475", "[::1]", "host.test:1", "1.2:80"],
)
def test_metrics_listen_that_is_no_place(load: Any, text: str) -> None:
    (line,) = problems(load, METRICS_LISTEN=text)
    assert line.startswith("METRICS_LISTEN=") and "allowed: an IP address and a port" in line


def test_config_cannot_be_changed(load: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().httpx_timeout = 1.0


# ---- where values come from


def test_option_wins_over_environment_over_dotenv_over_default(load: Any) -> None:
    dotenv = "HTTPX_TIMEOUT=3\nCONNECT_TIMEOUT=3\nQUEUE_TIMEOUT=3\n"
    config = load(dotenv, {"forwarder_httpx_timeout": "1"}, HTTPX_TIMEOUT="2", CONNECT_TIMEOUT="2")
    assert (config.httpx_timeout, config.connect_timeout, config.queue_timeout) == (1, 2, 3)
    assert config.stream_idle_timeout == 300


def test_dotenv_is_read_as_people_write_it(load: Any) -> None:
    config = load(
        b"\xef\xbb\xbf# a comment\r\n"
        b"export HTTPX_TIMEOUT='12.5'\r\n"
        b'FASTAPI_BASE_URL="http://api:8000/"   # with a comment\r\n'
        b"REQUIRE_USER_JWT=off # another\r\n"
        b"\r\n"
        b"  USER_ID_CLAIM = uid\r\n"
        b"UNRELATED\r\n"
        b"FASTAPI_PROXY_ENDPOINT=/p${HOME}\r\n"
    )
    assert config.httpx_timeout == 12.5
    assert config.fastapi_base_url == "http://api:8000"
    assert config.require_user_jwt is False
    assert config.user_id_claim == "uid"
    assert config.fastapi_proxy_endpoint == "/p${HOME}"


def test_the_seeds_example_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "SYSTEM_TOKEN=your-system-token-here\nFASTAPI_BASE_URL=http://127.0.0.1:8000\n"
        "BLACKLIST_REFRESH_SECONDS=60\nHTTPX_TIMEOUT=30.0\nMITM_LISTEN_PORT=8080\n"
        "MAX_CONCURRENT_REQUESTS=100\nREQUIRE_USER_JWT=true\n"
        "DEFAULT_USER_JWT=Bearer your-default-jwt-token  # Optional: if clients send none\n"
    )
    config = options.load(None, {"HOME": "/"}, tmp_path)
    assert config.system_token == "your-system-token-here"
    assert config.default_user_jwt == "your-default-jwt-token"


def test_a_broken_line_in_dotenv_is_an_error(load: Any) -> None:
    (line,) = problems(load, 'HTTPX_TIMEOUT=3\nREQUIRE_USER_JWT="true\n')
    assert line.startswith(".env: line 2 cannot be read; allowed: NAME=value")


def test_there_need_be_no_dotenv(tmp_path: Path) -> None:
    assert options.load(None, {"SYSTEM_TOKEN": "t", "HOME": "/"}, tmp_path).httpx_timeout == 30


def test_dotenv_that_is_no_text_is_an_error(load: Any) -> None:
    assert problems(load, b"A=\xff\xfe") == (
        ".env: cannot be read (it is not UTF-8); allowed: lines NAME=value",
    )


def test_an_empty_variable_is_as_if_unset(load: Any) -> None:
    config = load("QUEUE_TIMEOUT=7\n", QUEUE_TIMEOUT=" ", HTTPX_TIMEOUT="", DEFAULT_USER_JWT="")
    assert (config.queue_timeout, config.httpx_timeout) == (7, 30)
    assert config.default_user_jwt is None
    assert load("", {"forwarder_httpx_timeout": ""}, HTTPX_TIMEOUT="4").httpx_timeout == 4


def test_an_empty_spool_directory_means_memory_only(load: Any) -> None:
    assert load(ACTIVITY_SPOOL_DIR="").activity_spool_dir == ""
    # Of the two empty ones the nearer counts, and an empty option is one that was not given.
    assert load("ACTIVITY_SPOOL_DIR=/x\n", ACTIVITY_SPOOL_DIR="").activity_spool_dir == ""
    assert load("", {"forwarder_activity_spool_dir": ""}).activity_spool_dir.endswith("/spool")


def test_directories_follow_each_other(load: Any, tmp_path: Path) -> None:
    assert load(STATE_DIR="/var/x").activity_spool_dir == "/var/x/spool"
    assert load(XDG_STATE_HOME="/xdg").state_dir == "/xdg/mitm-forwarder"
    assert load(XDG_STATE_HOME="relative").state_dir.startswith(str(tmp_path))
    assert load(STATE_DIR="~").state_dir == os.path.expanduser("~")
    assert load(STATE_DIR="some/dir").state_dir == os.path.abspath("some/dir")


# ---- values


@pytest.mark.parametrize("text", ["true", "True", "1", "YES", "y", "on", " On "])
def test_true(load: Any, text: str) -> None:
    assert load(FORWARD_AUTHORIZATION=text).forward_authorization is True


@pytest.mark.parametrize("text", ["false", "FALSE", "0", "no", "N", "off"])
def test_false(load: Any, text: str) -> None:
    assert load(REQUIRE_USER_JWT=text).require_user_jwt is False


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64KiB", 65536),
        ("64 kib", 65536),
        ("2MiB", 2 << 20),
        ("1GIB", 1 << 30),
    ],
)
def test_sizes(load: Any, text: str, size: int) -> None:
    assert load(STREAM_THRESHOLD_BYTES=text).stream_threshold_bytes == size


@pytest.mark.parametrize(
    ("base", "endpoint", "url"),
    [
        ("http://api:8000", "/proxy", "http://api:8000/proxy"),
        ("http://api:8000/", "proxy", "http://api:8000/proxy"),
        ("http://api:8000//", "//proxy", "http://api:8000/proxy"),
        ("https://example.com/api/v1/", "proxy/next", "https://example.com/api/v1/proxy/next"),
        ("http://[::1]:8000", "/proxy/", "http://[::1]:8000/proxy/"),
        ("http://my_service.:80", "/p", "http://my_service.:80/p"),
    ],
)
def test_base_and_endpoints_join(load: Any, base: str, endpoint: str, url: str) -> None:
    config = load(
        FASTAPI_BASE_URL=base,
        FASTAPI_PROXY_ENDPOINT=endpoint,
        FASTAPI_BLACKLIST_ENDPOINT=endpoint,
        FASTAPI_ACTIVITY_ENDPOINT=endpoint,
    )
    assert {config.proxy_url, config.blacklist_url, config.activity_url} == {url}


@pytest.mark.parametrize("text", [JWT, f"Bearer {JWT}", f"bearer   {JWT}", f"  Bearer {JWT} "])
def test_tokens_lose_their_scheme(load: Any, text: str) -> None:
    config = load(SYSTEM_TOKEN=text, DEFAULT_USER_JWT=text)
    assert (config.system_token, config.default_user_jwt) == (JWT, JWT)


def test_a_token_that_only_begins_like_a_scheme_stays(load: Any) -> None:
    assert load(SYSTEM_TOKEN="bearerish").system_token == "bearerish"


def test_zero_is_never_where_that_is_a_meaning(load: Any) -> None:
    assert load(BLACKLIST_MAX_STALE_SECONDS="0").blacklist_max_stale_seconds == 0
    assert load(PROXY_RETRIES="0").proxy_retries == 0


def test_claims_are_normalised(load: Any) -> None:
    assert load(USER_ID_CLAIM=" uid , sub").user_id_claim == "uid,sub"


# ---- errors


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("REQUIRE_USER_JWT", "maybe", "not a boolean"),
        ("HTTPX_TIMEOUT", "abc", "not a number of seconds"),
        ("HTTPX_TIMEOUT", "30s", "not a number of seconds"),
        ("HTTPX_TIMEOUT", "nan", "not a number of seconds"),
        ("HTTPX_TIMEOUT", "inf", "not a number of seconds"),
        ("HTTPX_TIMEOUT", "1_0", "not a number of seconds"),
        ("HTTPX_TIMEOUT", "-1", "not a number of seconds"),
        ("HTTPX_TIMEOUT", "٣", "not a number of seconds"),
        ("HTTPX_TIMEOUT", "0", "out of range"),
        ("HTTPX_TIMEOUT", "9" * 400, "out of range"),
        ("SHUTDOWN_TIMEOUT", "0", "out of range"),
        ("MITM_LISTEN_PORT", "0", "out of range"),
        ("MITM_LISTEN_PORT", "65536", "out of range"),
        ("MITM_LISTEN_PORT", "80.0", "not a whole number"),
        ("MAX_CONCURRENT_REQUESTS", "0", "out of range"),
        ("STREAM_THRESHOLD_BYTES", "64MB", "not a size"),
        ("STREAM_THRESHOLD_BYTES", "-1", "not a size"),
        ("ACTIVITY_SPOOL_MAX_BYTES", "1", "out of range"),
        ("AUTH_CHALLENGE", "403", "not one of the two"),
        ("ACTIVITY_ON_FULL", "block", "not one of the two"),
        ("FASTAPI_BASE_URL", "api:8000", "does not start with http:// or https://"),
        ("FASTAPI_BASE_URL", "ftp://api", "does not start with http:// or https://"),
        ("FASTAPI_BASE_URL", "http://", "has no host, or one that cannot be a name"),
        ("FASTAPI_BASE_URL", "http://a..b,c", "has no host, or one that cannot be a name"),
        ("FASTAPI_BASE_URL", "http://api:", "has no port after the colon"),
        ("FASTAPI_BASE_URL", "http://api:0", "has no port after the colon"),
        ("FASTAPI_BASE_URL", "http://api:99999", "not a URL (Port out of range 0-65535)"),
        ("FASTAPI_BASE_URL", "http://api/?a", "has a '?'"),
        ("FASTAPI_BASE_URL", "http://api/#a", "has a '#'"),
        ("FASTAPI_BASE_URL", "http://a b", "has a space, a control character"),
        ("FASTAPI_PROXY_ENDPOINT", "http://api/proxy", "is a URL"),
        ("FASTAPI_PROXY_ENDPOINT", "/proxy?x", "has a '?'"),
        ("FASTAPI_CA_BUNDLE", "/no/such", "cannot be read (No such file or directory)"),
        ("FASTAPI_CA_BUNDLE", "/", "cannot be read (Is a directory)"),
        ("STATE_DIR", "/dev/null", "is not a directory"),
        ("STATE_DIR", "~no-such-user/x", "there is no such home directory"),
        ("USER_ID_CLAIM", "a,,b", "has an empty name"),
    ],
)
def test_a_bad_value_is_one_line_with_name_reason_and_rule(
    load: Any, name: str, text: str, what: str
) -> None:
    kind = next(v.kind for v in options.VARIABLES if v.name == name)
    for found in (
        problems(load, **{name: text}),
        problems(load, "", {f"forwarder_{name.lower()}": text}),
    ):
        assert len(found) == 1
        assert what in found[0] and found[0].endswith(f"; allowed: {kind.allowed}")
    assert problems(load, **{name: text})[0].startswith(f"{name}=")
    assert found[0].startswith(f"forwarder_{name.lower()}=")


def test_an_error_says_when_the_value_is_from_dotenv(load: Any) -> None:
    (line,) = problems(load, "HTTPX_TIMEOUT=x\n")
    assert line.startswith("HTTPX_TIMEOUT='x' in .env: not a number of seconds; allowed: ")


def test_all_problems_are_told_at_once(load: Any) -> None:
    found = problems(load, HTTPX_TIMEOUT="x", MITM_LISTEN_PORT="x", SYSTEM_TOKEN="")
    assert [line.split(":")[0].split("=")[0] for line in found] == [
        "SYSTEM_TOKEN",
        "HTTPX_TIMEOUT",
        "MITM_LISTEN_PORT",
    ]


def test_a_missing_system_token_is_told_with_both_ways_to_give_it(load: Any) -> None:
    (line,) = problems(load, SYSTEM_TOKEN="")
    assert line.startswith("SYSTEM_TOKEN: not set; allowed: ") and "SYSTEM_TOKEN_FILE" in line


@pytest.mark.parametrize("bad", ["can ary", "canary\u00e9", "canary\x01", "canary" * 2000])
@pytest.mark.parametrize("name", ["SYSTEM_TOKEN", "DEFAULT_USER_JWT"])
def test_a_bad_secret_is_never_shown(load: Any, name: str, bad: str) -> None:
    (line,) = problems(load, **{name: bad})
    assert line.startswith(f"{name}: ") and "canary" not in line and "ary" not in line


def test_a_password_in_the_base_url_is_never_shown(load: Any) -> None:
    (line,) = problems(load, FASTAPI_BASE_URL="http://me:canary@api")
    assert "canary" not in line and "holds a user name or password" in line


def test_a_bearer_prefix_alone_is_an_empty_token(load: Any) -> None:
    assert "is empty" in problems(load, SYSTEM_TOKEN="Bearer")[0]


def test_client_key_needs_the_certificate(load: Any, tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.write_text("x")
    (line,) = problems(load, FASTAPI_CLIENT_KEY=str(pem))
    assert line == "FASTAPI_CLIENT_KEY: set without FASTAPI_CLIENT_CERT; allowed: both"
    # A certificate that cannot be read is one problem and not two.
    assert len(problems(load, FASTAPI_CLIENT_KEY=str(pem), FASTAPI_CLIENT_CERT="/no")) == 1
    config = load(FASTAPI_CLIENT_KEY=str(pem), FASTAPI_CLIENT_CERT=str(pem))
    assert config.fastapi_client_key == config.fastapi_client_cert == str(pem)


# ---- secret files


def test_a_secret_from_a_file(load: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"Bearer {JWT}\n")
    config = load(SYSTEM_TOKEN="", SYSTEM_TOKEN_FILE=str(file))
    assert config.system_token == JWT
    assert load(f"DEFAULT_USER_JWT_FILE={file}\n").default_user_jwt == JWT


def test_a_secret_given_twice_is_an_error(load: Any) -> None:
    (line,) = problems(load, "SYSTEM_TOKEN_FILE=/x\n")
    assert line == (
        "SYSTEM_TOKEN: SYSTEM_TOKEN_FILE is set in .env as well; allowed: one of the two"
    )


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: None, "cannot be read (No such file or directory)"),
        (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.write_text("\n"), "is empty"),
        (lambda path: path.write_text("canary canary"), "has a space"),
        (lambda path: path.write_bytes(b"canary\xff"), "not ASCII"),
        (lambda path: path.write_bytes(b"canary" * 9999), "is too long"),
    ],
)
def test_a_secret_file_that_will_not_do(load: Any, tmp_path: Path, make: Any, what: str) -> None:
    path = tmp_path / "token"
    make(path)
    (line,) = problems(load, SYSTEM_TOKEN="", SYSTEM_TOKEN_FILE=str(path))
    assert line.startswith("SYSTEM_TOKEN_FILE='") and what in line and "canary" not in line


def test_tokens_rotate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    secrets = Secrets({"SYSTEM_TOKEN_FILE": str(file), "DEFAULT_USER_JWT": "user"}, tmp_path)
    assert (secrets.system_token, secrets.default_user_jwt) == ("first", "user")
    assert secrets.changed() is False

    def replace(text: str) -> None:
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", file)

    replace("second\n")
    assert secrets.changed() is True and secrets.system_token == "second"
    assert secrets.changed() is False
    replace("second")
    assert secrets.changed() is False and secrets.system_token == "second"

    # Half a rotation: the token in use stays, with one warning a state and not one a look.
    replace("not usable canary")
    assert secrets.changed() is False and secrets.changed() is False
    file.unlink()
    assert secrets.changed() is False and secrets.changed() is False
    assert secrets.system_token == "second"
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2 and all("the token in use stays" in text for text in warnings)
    assert "canary" not in caplog.text

    file.write_text("third")
    assert secrets.changed() is True and secrets.system_token == "third"


def test_both_secret_files_are_looked_at(tmp_path: Path) -> None:
    files = [tmp_path / "system", tmp_path / "user"]
    for file in files:
        file.write_text("old")
    names = ("SYSTEM_TOKEN_FILE", "DEFAULT_USER_JWT_FILE")
    secrets = Secrets(dict(zip(names, map(str, files), strict=True)), tmp_path)
    for file in files:
        file.write_text("newer")
    assert secrets.changed() is True
    assert (secrets.system_token, secrets.default_user_jwt) == ("newer", "newer")


# ---- mitmproxy


class OptionsAddon:
    def load(self, loader: Any) -> None:
        options.add_options(loader)


async def test_mitmproxy_takes_the_options(tmp_path: Path) -> None:
    addon = OptionsAddon()
    with taddons.context(addon) as context:
        context.options.set("forwarder_httpx_timeout=7", "forwarder_require_user_jwt=no")
        config = options.load(context.options, {"SYSTEM_TOKEN": "t"}, tmp_path)
        assert config.httpx_timeout == 7 and config.require_user_jwt is False
        assert "forwarder_system_token" not in context.options
        assert "forwarder_default_user_jwt" not in context.options


async def test_a_hot_reload_keeps_the_users_value() -> None:
    addon = OptionsAddon()
    with taddons.context(addon) as context:
        context.options.set("forwarder_httpx_timeout=7")
        context.master.addons.remove(addon)
        context.master.addons.add(OptionsAddon())
        assert context.options.forwarder_httpx_timeout == "7"
