"""Where settings come from, and what a bad one looks like: a line that helps, and no service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.world import World
from tests.support.gateway import Gateway

SECRET = "canary-canary-canary"

Refused = Callable[..., str]


@pytest.fixture
def refused(confdir: Path, tmp_path: Path) -> Refused:
    """Starts a gateway that must refuse; its output."""

    def refused(env: dict[str, str] | None = None, options: list[str] | None = None) -> str:
        gateway = Gateway(
            tmp_path / "refusing-gateway",
            "http://127.0.0.1:9",
            SECRET,
            confdir=confdir,
            env=env,
            options=options or [],
            wait=False,
        )
        with gateway:
            assert gateway.wait() != 0
        return gateway.log()

    return refused


def check_line(output: str, name: str, allowed: str) -> None:
    """One line names the variable and what is allowed; nothing looks like a crash."""
    (line,) = [line for line in output.splitlines() if name in line]
    assert allowed in line
    assert "Traceback" not in output
    assert SECRET not in output
    assert len(output.splitlines()) <= 5, output


# The rest of the table is tested where it is read; here, that a problem of any kind stops mitmdump.
BAD = [
    pytest.param("SYSTEM_TOKEN", f"{SECRET} with spaces", "allowed", id="token"),
    pytest.param("DEFAULT_USER_JWT", f"Basic {SECRET}", "allowed", id="scheme"),
    pytest.param("SYSTEM_TOKEN_FILE", "/nowhere/at/all", "allowed", id="file"),
    pytest.param("FASTAPI_BASE_URL", "ftp://127.0.0.1", "http", id="url"),
    pytest.param("HTTPX_TIMEOUT", "soon", "seconds", id="seconds"),
    pytest.param("MAX_CONCURRENT_REQUESTS", "0", "1 to", id="count"),
    pytest.param("REQUIRE_USER_JWT", "perhaps", "true", id="boolean"),
    pytest.param("STREAM_THRESHOLD_BYTES", "1MB", "MiB", id="size"),
]


@pytest.mark.parametrize("name, value, allowed", BAD)
def test_bad_variable(refused: Refused, name: str, value: str, allowed: str) -> None:
    env = {name: value}
    if name == "SYSTEM_TOKEN_FILE":
        env["SYSTEM_TOKEN"] = ""
    check_line(refused(env), name, allowed)


@pytest.mark.smoke
def test_missing_system_token(refused: Refused) -> None:
    check_line(refused({"SYSTEM_TOKEN": ""}), "SYSTEM_TOKEN", "SYSTEM_TOKEN_FILE")


def test_every_problem_is_named(refused: Refused) -> None:
    output = refused({"HTTPX_TIMEOUT": "x", "MAX_CONCURRENT_REQUESTS": "y"})
    check_line(output, "HTTPX_TIMEOUT", "seconds")
    check_line(output, "MAX_CONCURRENT_REQUESTS", "1 to")


def test_bad_option(refused: Refused) -> None:
    output = refused(options=["--set", "forwarder_httpx_timeout=soon"])
    check_line(output, "forwarder_httpx_timeout", "seconds")


def test_secrets_are_no_options(start: Start, tmp_path: Path) -> None:
    """mitmweb would show them."""
    script = tmp_path / "names.py"
    script.write_text(
        "from mitmproxy import ctx\ndef running():\n    print(*ctx.options.keys(), flush=True)\n"
    )
    gateway = start(options=["-s", str(script)])
    names = gateway.wait_for_log(".*forwarder_httpx_timeout.*")[0].split()
    assert "forwarder_system_token" not in names
    assert "forwarder_default_user_jwt" not in names


def test_unusable_state_directory(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "a-file"
    file.touch()
    output = refused({"STATE_DIR": str(file)})
    assert "STATE_DIR" in output or "ACTIVITY_SPOOL_DIR" in output or str(file) in output
    assert "Traceback" not in output


# ---- where a value comes from


def write_dotenv(directory: Path, text: str) -> None:
    directory.mkdir(parents=True)
    (directory / ".env").write_bytes(text.encode())


def test_dotenv(start: Start, world: World, tmp_path: Path) -> None:
    """Quotes, export, comments, CRLF; the environment wins, and an option wins over both."""
    directory = tmp_path / "with-dotenv"
    write_dotenv(
        directory,
        f"# a comment\r\nexport SYSTEM_TOKEN='{world.backend.system_token}'\r\n"
        f'FASTAPI_BASE_URL="{world.backend.url}/"  # with a slash\r\n'
        f"DEFAULT_USER_JWT=Bearer {world.token}\r\nHTTPX_TIMEOUT=nonsense\r\n"
        "FASTAPI_PROXY_ENDPOINT=nowhere\r\nMAX_CONCURRENT_REQUESTS=nonsense\r\n",
    )
    gateway = start(
        directory=directory,
        env={
            "SYSTEM_TOKEN": "",
            "FASTAPI_BASE_URL": "",
            "HTTPX_TIMEOUT": "20",
            "FASTAPI_PROXY_ENDPOINT": "wrong",
        },
        options=[
            "--set",
            "forwarder_fastapi_proxy_endpoint=proxy",
            "--set",
            "forwarder_max_concurrent_requests=7",
        ],
    )
    url = world.url("/dotenv")
    assert replace(world, gateway=gateway).get(url, token=None).status == 200
    world.record(url, 200, proxy_id=world.proxy_id)


def test_token_file_that_changes(start: Start, world: World, tmp_path: Path) -> None:
    """Tokens rotate without a restart."""
    file = tmp_path / "token"
    file.write_text("not-yet-the-right-one\n")
    gateway = start(env={"SYSTEM_TOKEN": "", "SYSTEM_TOKEN_FILE": str(file)}, wait_for_rules=False)
    gateway.wait_for_log("Blacklist refresh failed: .*SYSTEM_TOKEN")
    file.write_text(f"{world.backend.system_token}\n")
    gateway.wait_for_log("Refreshed blacklist cache")
    assert replace(world, gateway=gateway).get(world.url()).status == 200


def test_option_set_while_running_is_refused_whole(start: Start, world: World) -> None:
    """A bad value keeps what was in force. (Only a command or mitmweb can set one at run time.)"""
    script = Path(world.gateway.directory) / "sets.py"
    script.write_text(
        "from mitmproxy import ctx, exceptions\n"
        "def request(flow):\n"
        "    if 'set-bad' in flow.request.path:\n"
        "        try:\n"
        "            ctx.options.update(forwarder_httpx_timeout='soon')\n"
        "        except exceptions.OptionsError as error:\n"
        "            print('refused:', error)\n"
    )
    gateway = start(options=["-s", str(script)])
    here = replace(world, gateway=gateway)
    here.get(here.url("/set-bad"))
    gateway.wait_for_log("refused: forwarder_httpx_timeout.*seconds")
    assert here.get(here.url()).status == 200
