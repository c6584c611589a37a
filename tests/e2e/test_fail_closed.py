"""Whatever is broken or set against us: nothing is ever dialled but an upstream proxy.

The `world` fixture looks at the origin after each test here: not one connection of a stranger.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.world import World
from tests.support.backend import wait_until
from tests.support.gateway import SCRIPT
from tests.support.gateway import Gateway

Around = Callable[[Gateway], World]


def exchange(gateway: Gateway, *steps: bytes, half_close: bool = False) -> bytes:
    """Each step is sent after an answer to the one before; all that came back until the end."""
    answer = b""
    with contextlib.closing(socket.create_connection(("127.0.0.1", gateway.port), 10)) as sock:
        for number, step in enumerate(steps):
            try:
                sock.sendall(step)
                if half_close and number + 1 == len(steps):
                    sock.shutdown(socket.SHUT_WR)
                while data := sock.recv(65536):
                    answer += data
                    if number + 1 < len(steps):
                        break
            except (ConnectionResetError, BrokenPipeError):
                break
    return answer


def connect_head(world: World, port: int) -> bytes:
    return (
        f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Proxy-Authorization: Bearer {world.token}\r\n\r\n"
    ).encode()


@pytest.mark.smoke
@pytest.mark.parametrize(
    "option", ["connection_strategy=eager", "rawtcp=true", "upstream_cert=true"]
)
def test_options_that_would_bypass(start: Start, world: World, option: str) -> None:
    """Set back, in words, and requests work."""
    gateway = start(options=["--set", option])
    here = replace(world, gateway=gateway)
    gateway.wait_for_log(option.partition("=")[0] + " is set back")
    for tls in (False, True):
        url = here.url(tls=tls)
        assert here.get(url).status == 200
        here.record(url, 200, proxy_id=here.proxy_id)
        assert here.get(here.url(tls=tls), token=None).status == 401


@pytest.mark.smoke
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--ignore-hosts", ".*"], id="ignore_hosts"),
        pytest.param(["--allow-hosts", "other.test"], id="allow_hosts"),
        pytest.param(["--tcp-hosts", ".*"], id="tcp_hosts"),
    ],
)
def test_hosts_that_mitmproxy_would_pass_through(
    start: Start, world: World, options: list[str]
) -> None:
    gateway = start(options=options)
    here = replace(world, gateway=gateway)
    seen = len(world.origin.peers)
    for port in (world.origin.http_port, world.origin.https_port):
        answer = exchange(gateway, connect_head(world, port), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" not in answer
    with pytest.raises((OSError, http.client.HTTPException)), here.client(tls=True) as client:
        client.request("GET", here.url(tls=True), token=here.token)
    assert len(world.origin.peers) == seen


def test_bytes_that_are_no_http_in_a_tunnel(world: World) -> None:
    seen = len(world.origin.peers)
    for payload in (b"SSH-2.0-client\r\n\r\n", b"\x00\x01\x02\x03" * 100, b"*1\r\n$4\r\nPING\r\n"):
        head = connect_head(world, world.origin.http_port)
        exchange(world.gateway, head, payload, half_close=True)
    assert len(world.origin.peers) == seen
    assert world.get(world.url()).status == 200


def test_tunnel_without_a_token(world: World) -> None:
    """CONNECT alone reaches nobody, with or without TLS behind it."""
    seen = len(world.origin.peers)
    with world.client(tls=True) as client:
        assert client.request("GET", world.url(tls=True)).status == 401
    assert len(world.origin.peers) == seen


@pytest.mark.parametrize("mode", ["regular", "upstream"])
def test_modes(start: Start, world: World, mode: str) -> None:
    """The backend's proxy is used, not that of mitmproxy's own mode."""
    options = [] if mode == "regular" else ["--mode", "upstream:http://127.0.0.1:9"]
    here = replace(world, gateway=start(options=options))
    for tls in (False, True):
        assert here.get(here.url(tls=tls)).status == 200


# ---- other scripts

RAISES = """
def {hook}(*args):
    raise RuntimeError("a script before ours")
"""


@pytest.mark.parametrize(
    "hook",
    [
        "server_connect",
        "requestheaders",
        "request",
        "next_layer",
        "http_connect",
        "responseheaders",
    ],
)
def test_an_earlier_script_that_raises(
    start: Start, world: World, tmp_path: Path, hook: str
) -> None:
    """mitmproxy then skips the hook in every later script. Requests may fail; none goes direct."""
    earlier = tmp_path / "earlier.py"
    earlier.write_text(RAISES.format(hook=hook))
    options = ["-s", str(SCRIPT)]
    if hook == "server_connect":
        options += ["--ignore-hosts", ".*"]  # with which it is the only hook that is left
    here = replace(world, gateway=start(script=earlier, options=options))
    for tls in (False, True):
        for _ in range(2):
            here.curl("-k", "-H", f"Authorization: Bearer {here.token}", here.url(tls=tls))
            here.curl("-k", here.url(tls=tls))
    assert hook == "server_connect" or "a script before ours" in here.gateway.log()


MAPS = """
def request(flow):
    if "move-me" in flow.request.path:
        flow.request.host = "{host}"
        flow.request.path = "{path}"
"""


@pytest.mark.smoke
def test_a_script_that_moves_requests(start: Start, world: World, tmp_path: Path) -> None:
    """The URL that leaves is the URL that was judged, or it is judged again."""
    with world.rule("forbidden-place"):
        for path, status in (("/forbidden-place", 403), ("/allowed-place", 200)):
            later = tmp_path / "later.py"
            later.write_text(MAPS.format(host="127.0.0.1", path=path))
            here = replace(world, gateway=start(options=["-s", str(later)]))
            assert here.get(here.url("/move-me")).status == status
        assert not world.origin.requests_of("/forbidden-place")


# ---- hot reload


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A copy of the two lines that a user gives to -s."""
    copy = tmp_path / "mitm_forwarder_addon.py"
    copy.write_text(SCRIPT.read_text())
    return copy


def rewrite(script: Path, text: str) -> None:
    """mitmproxy looks at the time stamp once a second."""
    later = script.stat().st_mtime + 10
    script.write_text(text)
    os.utime(script, (later, later))


@pytest.mark.smoke
@pytest.mark.parametrize(
    "broken, noticed",
    [
        pytest.param("def broken(:\n", "error|invalid syntax|Error", id="syntax"),
        pytest.param("raise RuntimeError('at import')\n", "at import", id="import"),
        pytest.param(
            "def load(loader):\n    raise RuntimeError('in load')\n", "in load", id="load"
        ),
        pytest.param("addons = []\n", "oading script", id="empty"),
        pytest.param(None, "[Rr]emov", id="deleted"),
    ],
)
def test_broken_reload(
    start: Start, world: World, script: Path, broken: str | None, noticed: str
) -> None:
    """A script that is broken, empty or gone serves nobody; repaired, it works again."""
    gateway = start(script=script)
    here = replace(world, gateway=gateway)
    assert here.get(here.url()).status == 200
    text, mark = script.read_text(), len(gateway.log())
    if broken is None:
        script.unlink()
    else:
        rewrite(script, broken)
    gateway.wait_for_log(noticed, after=mark)

    def is_refused() -> bool:
        done = here.curl(
            "-H", f"Authorization: Bearer {here.token}", "-w", "%{http_code}", here.url()
        )
        return done.stdout.endswith("502")

    # Either 502, or while the old script is still in place, through the proxy; never direct.
    wait_until(is_refused, 15, "the broken script to be out of use")
    seen = len(world.origin.peers)
    for tls in (False, True):
        here.curl("-k", "-H", f"Authorization: Bearer {here.token}", here.url(tls=tls))
        here.curl("-k", here.url(tls=tls))
    assert len(world.origin.peers) == seen
    if broken is None:
        return  # mitmproxy forgets a script that is gone
    mark = len(gateway.log())
    rewrite(script, text)
    gateway.wait_for_log("Refreshed blacklist cache", after=mark)
    assert here.get(here.url(tls=True)).status == 200


@pytest.mark.smoke
def test_good_reload(start: Start, world: World, script: Path) -> None:
    """Requests that run meanwhile come to their end; records are neither lost nor doubled."""
    gateway = start(script=script)
    here = replace(world, gateway=gateway)
    before, across = here.url(), here.url("/gate/reload")
    assert here.get(before).status == 200
    with here.client() as client, here.client() as idle:
        assert idle.request("GET", here.url(), token=here.token).status == 200
        client.socket.sendall(
            f"GET {across} HTTP/1.1\r\nHost: 127.0.0.1:{here.origin.http_port}\r\n"
            f"Authorization: Bearer {here.token}\r\n\r\n".encode()
        )
        here.wait_for_arrival("reload")
        mark = len(gateway.log())
        rewrite(script, script.read_text() + "\n# touched\n")
        gateway.wait_for_log("Refreshed blacklist cache", after=mark)
        here.origin.open_gate("reload")
        assert client.socket.recv(65536).startswith(b"HTTP/1.1 ")
        # A connection from before the reload is served as well as a new one.
        assert idle.request("GET", here.url(), token=here.token).status == 200
    after = here.url(tls=True)
    assert here.get(after).status == 200
    assert here.get(here.url(), token=None).status == 401
    here.record(before, 200, proxy_id=here.proxy_id)
    here.record(after, 200, proxy_id=here.proxy_id)
    wait_until(lambda: len(here.records(across)) == 1, 15, "the record of the request in between")
    assert gateway.stop() == 0


# ---- mitmproxy's own pages


@pytest.mark.smoke
def test_certificate_page(world: World) -> None:
    """http://mitm.it needs no token, calls nobody and is not reported."""
    calls = len(world.backend.calls("/proxy"))
    done = world.curl("-i", "http://mitm.it/")
    assert " 200 OK" in done.stdout.splitlines()[0]
    assert "certificate" in done.stdout
    pem = world.curl("http://mitm.it/cert/pem")
    assert "BEGIN CERTIFICATE" in pem.stdout
    assert len(world.backend.calls("/proxy")) == calls
    world.settle()
    assert not [row for row in world.backend.activity() if "mitm.it" in row["target_url"]]


def test_certificate_page_of_another_port_or_path_is_no_exception(world: World) -> None:
    for url in ("http://mitm.it:8081/", "http://x.mitm.it/", "http://mitm.it.test/"):
        done = world.curl("-o", "/dev/null", "-w", "%{http_code}", url)
        assert done.stdout == "401", (url, done)
