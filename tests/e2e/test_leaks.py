"""Every way in which mitmproxy would dial by itself, in a network namespace that counts dials.

In there only the backend and an upstream proxy can be reached. Each way either works through the
proxy or is refused; not one packet goes anywhere else.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.world import World
from tests.support.backend import wait_until
from tests.support.gateway import SCRIPT
from tests.support.gateway import Gateway
from tests.support.namespace import Namespace
from tests.support.namespace import missing

WHY_NOT = missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")

RAISES = "\n".join(
    f"def {name}(*_): raise RuntimeError"
    for name in (
        "client_connected client_disconnected server_connect server_connected server_connect_error "
        "server_disconnected next_layer tls_clienthello tls_start_client tls_start_server "
        "tls_established_client tls_established_server http_connect http_connected "
        "http_connect_upstream requestheaders request responseheaders response error "
        "forwarder_failover forwarder_resolve tcp_start tcp_message tcp_end tcp_error"
    ).split()
)
MEDDLES = """
def server_connect(data):
    data.server.error = None
    data.server.address = ("192.0.2.9", 80)
"""
REPLAYS = """
import asyncio
from mitmproxy import ctx, http
from mitmproxy.test import tflow

def running():
    asyncio.get_running_loop().call_later(1, replay)

def replay():
    flow = tflow.tflow()
    flow.live = False
    flow.request = http.Request.make("GET", "{url}", headers={{"Authorization": "Bearer {token}"}})
    ctx.master.commands.call("replay.client", [flow])
"""


class Inside(Gateway):
    """A gateway in a namespace, where nobody outside can see its port."""

    space: Namespace

    def _spawn(self) -> None:
        self._command = [*self.space.prefix, *self._command]
        super()._spawn()

    def _accepts(self) -> bool:
        self.space.allow(self.port)
        return True


@dataclass
class Room:
    """A namespace, a gateway in it, and what the tests do there."""

    space: Namespace
    gateway: Gateway
    world: World

    def curl(self, *arguments: str, proxy: str | None = "http") -> str:
        """The status, "000" when there was no answer."""
        command = [*self.space.prefix, "curl", "-q", "-s", "-k", "-m", "8", "-o", "/dev/null"]
        command += ["-w", "%{http_code}", "-H", f"Authorization: Bearer {self.world.token}"]
        if proxy is not None:
            command += ["-x", f"{proxy}://127.0.0.1:{self.gateway.port}"]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=30, check=False
        ).stdout

    def both(self, proxy: str | None = "http") -> list[str]:
        """The statuses of a plain request and one in TLS."""
        return [self.curl(self.world.url(tls=tls), proxy=proxy) for tls in (False, True)]

    def tunnel(self, payload: bytes) -> None:
        """CONNECT to the origin, and bytes of any kind."""
        target = f"127.0.0.1:{self.world.origin.http_port}"
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
        code = (
            "import socket,sys;s=socket.create_connection(('127.0.0.1',int(sys.argv[1])),5);"
            "s.settimeout(3);s.sendall(bytes.fromhex(sys.argv[2]));s.recv(999);"
            "s.sendall(bytes.fromhex(sys.argv[3]))\n"
            "try: s.recv(999)\nexcept OSError: pass"
        )
        arguments = [str(self.gateway.port), head.hex(), payload.hex()]
        self.space.run("python3", "-c", code, *arguments)


@pytest.fixture
def room(session_world: World, confdir: Path, tmp_path: Path) -> Iterator[Callable[..., Room]]:
    """Starts a gateway in a namespace of its own, and looks at the count in the end."""
    world = session_world
    world.backend.clear_faults()
    world.give(world.proxy.port, proxy_id=world.proxy_id)
    seen = len(world.origin.peers)
    with ExitStack() as stack:
        spaces = []

        def start(*options: str, script: Path = SCRIPT) -> Room:
            space = stack.enter_context(Namespace([_port(world.backend.url), world.proxy.port]))
            spaces.append(space)
            trust = ["--set", f"ssl_verify_upstream_trusted_ca={world.origin.ca_file}"]
            gateway = Inside(
                tmp_path / f"gateway-{len(spaces)}",
                world.backend.url,
                world.backend.system_token,
                confdir=confdir,
                options=[*trust, *options],
                script=script,
                env={"CONNECT_TIMEOUT": "3", "HTTPX_TIMEOUT": "5"},
            )
            gateway.space = space
            return Room(space, stack.enter_context(gateway), world)

        yield start
        assert [space.strays() for space in spaces] == [0] * len(spaces)
    world.backend.clear_faults()
    assert world.origin.strangers(world.openers, seen) == []


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_the_count_counts(session_world: World, confdir: Path, tmp_path: Path) -> None:
    """mitmproxy without the addon dials the target, and a name is looked up: both are seen."""
    world = session_world
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with Namespace([_port(world.backend.url)]) as space:
        gateway = Inside(
            tmp_path / "gateway",
            world.backend.url,
            "token",
            confdir=confdir,
            script=empty,
            wait_for_rules=False,
        )
        gateway.space = space
        with gateway:
            room = Room(space, gateway, world)
            assert space.strays() == 0
            assert room.curl(world.url()) == "502"
            dialled = space.strays()
            assert dialled > 0
            send = "import socket; socket.socket(2, 2).sendto(b'x', ('9.9.9.9', 53))"
            subprocess.run([*space.prefix, "python3", "-c", send], check=False, timeout=20)
            asked = space.strays()
            assert asked > dialled
            for host in ("[::1]", "[2001:db8::1]"):
                room.curl(f"http://{host}:8080/")
            assert space.strays() >= asked + 2


@pytest.mark.parametrize(
    ("options", "statuses"),
    [
        ([], ["200", "200"]),
        (["--set", "connection_strategy=eager"], ["200", "200"]),
        (["--set", "upstream_cert=true", "--set", "rawtcp=true"], ["200", "200"]),
        (["--set", "stream_large_bodies=1"], ["200", "200"]),
        (["--ignore-hosts", ".*"], ["200", "000"]),
        (["--tcp-hosts", ".*"], ["200", "000"]),
        (["--mode", "upstream:http://192.0.2.1:3128"], ["200", "200"]),
        (["--map-remote", "|//127.0.0.1|//localhost"], ["200", "200"]),
        (["--map-remote", "|//127.0.0.1|//169.254.169.254"], ["403", "403"]),
    ],
    ids=lambda value: "_".join(value) or "plain",
)
def test_options(room: Callable[..., Room], options: list[str], statuses: list[str]) -> None:
    here = room(*options)
    for payload in (b"\0\1\2 no HTTP\r\n\r\n", b"\x16\x03\x01\0\5hello"):
        here.tunnel(payload)
    assert here.both() == statuses


def test_socks_mode(room: Callable[..., Room]) -> None:
    here = room("--mode", "socks5")
    assert here.both("socks5h") == ["200", "200"]
    assert here.both("socks5") == ["200", "200"]


def test_reverse_mode(room: Callable[..., Room], session_world: World) -> None:
    here = room("--mode", f"reverse:http://127.0.0.1:{session_world.origin.http_port}")
    assert here.curl(f"http://127.0.0.1:{here.gateway.port}/echo", proxy=None) == "200"
    there = room("--mode", f"reverse:https://127.0.0.1:{session_world.origin.https_port}")
    assert there.curl(f"http://127.0.0.1:{there.gateway.port}/echo", proxy=None) == "200"
    tcp = room("--mode", f"reverse:tcp://127.0.0.1:{session_world.origin.http_port}")
    assert tcp.curl(f"http://127.0.0.1:{tcp.gateway.port}/echo", proxy=None) == "000"


def test_transparent_mode(room: Callable[..., Room], session_world: World) -> None:
    here = room("--mode", "transparent")
    for port in (session_world.origin.http_port, session_world.origin.https_port):
        to_gateway = ["-j", "REDIRECT", "--to-ports", str(here.gateway.port)]
        match = ["-p", "tcp", "-d", "127.0.0.1", "--dport", str(port)]
        here.space.run("iptables", "-t", "nat", "-A", "OUTPUT", *match, *to_gateway)
    assert here.both(proxy=None) == ["200", "200"]


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("script", [RAISES, MEDDLES], ids=["raises", "meddles"])
def test_other_scripts(room: Callable[..., Room], tmp_path: Path, where: str, script: str) -> None:
    other = tmp_path / "other.py"
    other.write_text(script)
    first, second = (other, SCRIPT) if where == "before" else (SCRIPT, other)
    here = room("-s", str(second), "--ignore-hosts", "example.com", script=first)
    here.tunnel(b"\0\1\2 no HTTP\r\n\r\n")
    assert not {"000"} == set(here.both())


def test_server_replay(room: Callable[..., Room], tmp_path: Path) -> None:
    """A saved answer is decided about and recorded like any other; nothing is dialled for it."""
    recorded = tmp_path / "flows"
    here = room("-w", str(recorded))
    url = here.world.url("/recorded")
    assert here.curl(url) == "200"
    here.gateway.stop()
    options = ["--set", "server_replay_ignore_params=n", "--set", "keepserving=true"]
    there = room("--server-replay", str(recorded), *options)
    again = here.world.url("/recorded")
    assert there.curl(again) == "200"
    here.world.record(again, 200, proxy_id=here.world.proxy_id)
    assert there.both() == ["200", "200"]
    assert len(here.world.origin.requests_of("/recorded")) == 1


def test_client_replay(room: Callable[..., Room], session_world: World, tmp_path: Path) -> None:
    url = session_world.url("/replayed")
    other = tmp_path / "replays.py"
    other.write_text(REPLAYS.format(url=url, token=session_world.token))
    room("-s", str(other))
    wait_until(
        lambda: session_world.origin.requests_of("/replayed") or None, 20, "the replay to arrive"
    )
    session_world.record(url, 200, proxy_id=session_world.proxy_id)


@pytest.mark.parametrize("text", ["def broken(:\n", None], ids=["broken", "deleted"])
def test_reload(room: Callable[..., Room], tmp_path: Path, text: str | None) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.read_text())
    here = room("--ignore-hosts", ".*", script=script)
    assert here.both()[0] == "200"
    seen = len(here.gateway.log())
    if text is None:
        script.unlink()
        wait_until(lambda: here.curl(here.world.url()) == "502", 20, "the loss to be noticed")
    else:
        script.write_text(text)
        here.gateway.wait_for_log("(?i)error|invalid syntax", after=seen)
    here.tunnel(b"\0\1\2 no HTTP\r\n\r\n")
    assert here.both() == ["502", "000"]


def test_http3_and_udp_modes(room: Callable[..., Room], session_world: World) -> None:
    """What would carry UDP is refused."""
    here = room("--mode", "reverse:udp://192.0.2.1:9", "--mode", "regular")
    code = (
        "import socket,sys;s=socket.socket(2,2);s.settimeout(2);"
        "s.sendto(b'x',('127.0.0.1',int(sys.argv[1])))\ntry: s.recv(9)\nexcept OSError: pass"
    )
    port = int(here.gateway.wait_for_log(r"udp://\S+ listening at \S*?:(\d+)")[1])
    rule = ["-p", "udp", "-d", "127.0.0.1", "--dport", str(port), "-j", "ACCEPT"]
    here.space.run("iptables", "-I", "OUTPUT", "1", *rule)
    here.space.run("python3", "-c", code, str(port))
