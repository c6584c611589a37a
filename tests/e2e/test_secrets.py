"""Tokens are canaries: after much traffic, with every log there is, each is where it belongs."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.world import World
from tests.support import proxies
from tests.support.backend import Backend
from tests.support.gateway import Gateway
from tests.support.proxies import ExampleProxy
from tests.support.proxies import Tap

LOUD = ["-v", "--set", "flow_detail=4", "--set", "proxy_debug=true"]
# What a client itself puts into its URL is for the target, and for the backend as target_url.
OWN_QUERY = re.compile(rb"/query\?token=[\w.-]+&access_token=[\w.-]+")
PROXY_PASSWORD = "canary-of-the-proxy"


@dataclass
class Traffic:
    """What many requests have left behind."""

    world: World
    directory: Path
    system_token: str
    user_tokens: list[str] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    to_proxy: bytes = b""

    def files(self) -> dict[str, bytes]:
        """Log, saved flows, state and spool of the gateway, which has ended."""
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in self.directory.rglob("*")
            if path.is_file()
        }


def spellings(token: str) -> list[bytes]:
    """A token as it would look in a dump: as it is, and as the password of Basic credentials."""
    basic = base64.b64encode(f"me:{token}".encode())
    # From an offset that does not depend on what stands around it.
    return [token.encode(), token.rpartition(".")[2].encode(), basic, basic[4:44]]


def send_everything(here: World, traffic: Traffic) -> None:
    world = here
    for tls in (False, True):
        for path in ("/echo", "/bytes/2000000", "/ws", "/hangs-up", "/status/500"):
            for carriage in ("Authorization", "password"):
                token = world.backend.add_user()
                traffic.user_tokens.append(token)
                proxy = f"http://me:{token}@127.0.0.1:{here.gateway.port}"
                headers = ["-H", f"Authorization: Bearer {token}"]
                done = here.curl(
                    "--http2",
                    "-i",
                    *(headers if carriage == "Authorization" else []),
                    world.url(path, tls=tls),
                    proxy=proxy if carriage == "password" else None,
                )
                traffic.answers.append((done.stdout + done.stderr).encode())


def send_failures(here: World, traffic: Traffic) -> None:
    token = here.backend.add_user()
    traffic.user_tokens.append(token)
    for fault in ({"status": 401}, {"status": 404}, {"status": 500}, {"status": 200, "body": "?"}):
        here.backend.fault("/proxy", **fault)  # type: ignore[arg-type]
        traffic.answers.append(here.get(here.url(), token=token).body)
    with proxies.reserved_port() as port:
        here.give(port, username="me", password=PROXY_PASSWORD)
        traffic.answers.append(here.get(here.url(), token=token).body)
    here.backend.clear_faults()
    forged = token[:-4] + "AAAA"
    traffic.user_tokens.append(forged)
    traffic.answers.append(here.get(here.url(), token=forged).body)
    url = here.url(f"/query?token={token}&access_token={token}")
    traffic.answers.append(here.get(url, token=token).body[:0])


@pytest.fixture(scope="module")
def traffic(
    session_world: World, confdir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Traffic]:
    """A gateway of its own, a tap before its upstream proxy, and a backend of its own."""
    directory = tmp_path_factory.mktemp("secrets") / "secret-gateway"
    with ExitStack() as stack:
        backend = stack.enter_context(Backend())
        origin = session_world.origin
        proxy = stack.enter_context(ExampleProxy())
        session_world.openers.append(proxy)
        tap = stack.enter_context(Tap(proxy.port))
        backend.add_proxy("127.0.0.1", tap.port)
        options = [*LOUD, "-w", str(directory / "flows.mitm")]
        options += ["--set", f"ssl_verify_upstream_trusted_ca={origin.ca_file}"]
        gateway = stack.enter_context(
            Gateway(
                directory,
                backend.url,
                backend.system_token,
                confdir=confdir,
                options=options,
                # A proxy for the environment must not see the control plane's calls.
                env={"http_proxy": f"http://127.0.0.1:{tap.port}", "MAX_CONCURRENT_REQUESTS": "50"},
            )
        )
        here = replace(
            session_world, backend=backend, gateway=gateway, proxy_id=1, token=backend.add_user()
        )
        traffic = Traffic(here, directory, backend.system_token, [here.token])
        send_everything(here, traffic)
        send_failures(here, traffic)
        backend.fault("/activity", status=503)
        traffic.answers.append(here.get(here.url(), token=here.token).body)
        assert gateway.stop() == 0
        traffic.to_proxy = tap.all_received()
        yield traffic


@pytest.mark.smoke
def test_system_token_goes_to_two_endpoints_only(traffic: Traffic) -> None:
    system = f"Bearer {traffic.system_token}"
    by_path: dict[str, set[str | None]] = {}
    for call in traffic.world.backend.calls():
        by_path.setdefault(call.path, set()).add(call.authorization)
    assert by_path.pop("/blacklist") == {system}
    assert by_path.pop("/activity") == {system}
    users = {f"Bearer {token}" for token in traffic.user_tokens}
    assert by_path.pop("/proxy") == users
    assert by_path == {}


@pytest.mark.smoke
def test_no_token_leaves_through_the_proxy(traffic: Traffic) -> None:
    assert b"CONNECT 127.0.0.1:" in traffic.to_proxy
    assert b"GET http://127.0.0.1:" in traffic.to_proxy
    arrived = repr(traffic.world.origin.requests).encode()
    assert b"/query" in arrived
    for content in (traffic.to_proxy, arrived):
        check_clean(traffic, "what left", OWN_QUERY.sub(b"", content))
    assert b"proxy-authorization" not in traffic.to_proxy.lower()


@pytest.mark.smoke
def test_no_token_in_anything_written(traffic: Traffic) -> None:
    """Log, saved flows, spool, state. Only records and flows have the URL as it was asked for."""
    written = traffic.files()
    log = written["gateway.log"].lower()
    assert b"/bytes/2000000" in log and b"authorization" in log
    assert any("spool" in name for name in written)
    for name, content in written.items():
        if name == "flows.mitm" or "spool" in name:
            content = OWN_QUERY.sub(b"", content)
        check_clean(traffic, name, content)
        assert PROXY_PASSWORD.encode() not in content, name


def check_clean(traffic: Traffic, name: str, content: bytes) -> None:
    """None of the tokens, in no spelling."""
    for token in [*traffic.user_tokens, traffic.system_token]:
        for spelling in spellings(token):
            assert spelling not in content, (name, spelling, context(content, spelling))


def context(content: bytes, needle: bytes) -> bytes:
    """Where it was found."""
    at = content.find(needle)
    return content[max(0, at - 200) : at + 60]


def test_no_token_in_answers(traffic: Traffic) -> None:
    assert len(traffic.answers) > 20
    for token in [*traffic.user_tokens, traffic.system_token, PROXY_PASSWORD]:
        for spelling in spellings(token):
            assert not any(spelling in answer for answer in traffic.answers)


def test_control_plane_ignores_the_environments_proxy(traffic: Traffic) -> None:
    for path in (b"/proxy", b"/blacklist", b"/activity"):
        assert f"127.0.0.1:{traffic.world.backend.port}".encode() + path not in traffic.to_proxy


def test_spool_belongs_to_its_owner(traffic: Traffic) -> None:
    files = [path for path in (traffic.directory / "state").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, path


def test_request_line(start: Start, world: World) -> None:
    """One line a request: method, URL without its query, status, proxy, duration, id."""
    gateway = start()
    url = world.url("/line?secret=1")
    answer = replace(world, gateway=gateway).get(url)
    assert answer.status == 200
    key = world.record(url, 200, proxy_id=world.proxy_id)["key"]
    line = gateway.wait_for_log(rf"GET http://127\.0\.0\.1:\d+/line\S* 200 .*{key}")[0]
    assert "secret=1" not in line
    assert f"proxy={world.proxy_id}" in line
    assert "ms" in line
    assert gateway.log().count(key) == 1
