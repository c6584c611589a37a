"""Every protocol to real upstream proxies, for every kind of target and client, and every failure.

With FORWARDING_TABLE=FILE each result is appended to the file, as a line of JSON: `make
forwarding-table` makes docs/forwarding.md of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wsproto import events as ws

from tests.e2e.test_bodies import WebSocket
from tests.e2e.world import World
from tests.e2e.world import error_of
from tests.forwarding.peers import make_certificate
from tests.support import proxies
from tests.support.gateway import Gateway
from tests.support.programs import CREDENTIALS
from tests.support.programs import Dante
from tests.support.programs import Haproxy
from tests.support.programs import Microsocks
from tests.support.programs import SquidWithUsers
from tests.support.programs import socks_is_silent
from tests.support.programs import socks_says

IMPATIENT = {"CONNECT_TIMEOUT": "1.5", "HTTPX_TIMEOUT": "4", "PROXY_RETRIES": "0"}

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
REQUESTS = ["http, h1", "https, h1", "https, h2", "ws", "wss"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the TLS to proxies; for 127.0.0.1 and *.test."""
    return make_certificate(tmp_path_factory.mktemp("proxy"))


@pytest.fixture(scope="module")
def trusting(
    session_world: World, confdir: Path, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The installation seen through a gateway that trusts the proxies' certificate, too."""
    directory = tmp_path_factory.mktemp("trusting")
    bundle = directory / "trust.pem"
    pem = certificate.read_text()
    pem = pem[pem.index("-----BEGIN CERTIFICATE") :]
    bundle.write_text(session_world.origin.ca_file.read_text() + pem)
    backend = session_world.backend
    with Gateway(
        directory / "gateway",
        backend.url,
        backend.system_token,
        confdir=confdir,
        options=["--set", f"ssl_verify_upstream_trusted_ca={bundle}"],
        env=IMPATIENT,
    ) as gateway:
        yield replace(session_world, gateway=gateway)


def note(**row: Any) -> None:
    """For the table."""
    if path := os.environ.get("FORWARDING_TABLE"):
        with Path(path).open("a") as file:
            file.write(json.dumps(row) + "\n")


# ---- the programs


@dataclass
class Way:
    """A protocol, the program that speaks it, and what the backend says about it."""

    protocol: str
    program: str
    make: Callable[[ExitStack, World, Path], Any]
    credentials: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        return {"protocol": self.protocol, **(CREDENTIALS if self.credentials else {})}

    @property
    def is_strict(self) -> bool:
        """CONNECT to the ports of TLS only, as the packages have it."""
        return "Squid" in self.program or self.program == "tinyproxy"

    @property
    def name(self) -> str:
        return self.protocol + (" with credentials" if self.credentials else "")


def program(kind: Any) -> Callable[[ExitStack, World, Path], Any]:
    def make(stack: ExitStack, world: World, certificate: Path) -> Any:
        if kind.path() is None:
            pytest.skip(f"{kind.name} is not installed (make test does so where it is packaged)")
        proxy = stack.enter_context(kind(world.origin.https_port))
        world.openers.append(proxy)
        return proxy

    return make


def behind_tls(kind: Any) -> Callable[[ExitStack, World, Path], Any]:
    def make(stack: ExitStack, world: World, certificate: Path) -> Any:
        if Haproxy.path() is None:
            pytest.skip("haproxy is not installed (make test does so where it is packaged)")
        behind = program(kind)(stack, world, certificate)
        return stack.enter_context(Haproxy(behind.port, certificate))

    return make


def example(stack: ExitStack, world: World, certificate: Path) -> Any:
    """The one of this project, which lets CONNECT go to every port."""
    return world.proxy


WAYS = [
    Way("http", "example proxy", example),
    Way("http", "Squid", program(proxies.Squid)),
    Way("http", "tinyproxy", program(proxies.Tinyproxy)),
    Way("http", "Squid", program(SquidWithUsers), credentials=True),
    Way("https", "HAProxy, Squid", behind_tls(proxies.Squid)),
    Way("https", "HAProxy, Squid", behind_tls(SquidWithUsers), credentials=True),
    Way("socks4", "Dante", program(Dante)),
    Way("socks4a", "Dante", program(Dante)),
    Way("socks5", "Dante", program(Dante)),
    Way("socks5", "microsocks", program(Microsocks), credentials=True),
    Way("socks5h", "Dante", program(Dante)),
]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way.name}-{way.program}")
def way(request: pytest.FixtureRequest, trusting: World, certificate: Path) -> Iterator[Any]:
    """A way, and its proxy's port."""
    with ExitStack() as stack:
        yield request.param, request.param.make(stack, trusting, certificate).port


def curl_h2(world: World, *urls: str) -> list[dict[str, Any]]:
    """What curl says of each transfer, over one HTTP/2 connection inside CONNECT."""
    arguments = ["--http2", "-H", f"Authorization: Bearer {world.token}", "-w", "\n%{json}\n"]
    done = world.curl(*arguments, *urls)
    return [json.loads(x) for x in done.stdout.splitlines() if '"http_version"' in x]


def talk(world: World, tls: bool, proxy_id: int) -> None:
    url = world.url("/ws", tls=tls)
    with world.client(tls=tls) as client:
        socket = WebSocket(world, client, url)
        assert isinstance(socket.first, ws.AcceptConnection), socket.first
        socket.send(ws.TextMessage("hello"))
        event = socket.receive()
        assert isinstance(event, ws.TextMessage) and event.data == "hello"
        socket.send(ws.TextMessage("close"))
    world.record(url, 101, proxy_id=proxy_id)


@pytest.mark.parametrize("kind", REQUESTS)
def test_works(trusting: World, way: tuple[Way, int], kind: str) -> None:
    world = trusting
    how, port = way
    world.backend.clear_faults()
    proxy_id = world.give(port, **how.fields)
    tls = kind in ("https, h1", "https, h2", "wss")
    result = "ok"
    if kind == "ws" and how.is_strict:
        with world.client() as client:
            answer = client.request("GET", world.url(), token=world.token, headers=UPGRADE)
        assert (answer.status, error_of(answer)) == (502, "proxy_refused")
        result = "502 ¹"
    elif kind.startswith("ws"):
        talk(world, tls, proxy_id)
    elif kind == "https, h2":
        urls = [world.url(tls=True) for _ in range(2)]
        transfers = curl_h2(world, *urls)
        assert [(t["http_code"], t["http_version"]) for t in transfers] == [(200, "2")] * 2
        for url in urls:
            world.record(url, 200, proxy_id=proxy_id)
    else:
        with world.client(tls=tls) as client:
            for _ in range(2):
                url = world.url(tls=tls)
                answer = client.request("GET", url, token=world.token)
                assert answer.status == 200, answer
                seen = {name.lower() for name, _ in answer.json()["headers"]}
                assert not seen & {"authorization", "proxy-authorization"}
                world.record(url, 200, proxy_id=proxy_id)
    note(protocol=how.name, program=how.program, request=kind, outcome="ok", result=result)


# ---- the failures


@dataclass
class Failure:
    """What the proxy does, by family; None: nothing listens. `behind` fails after the proxy."""

    name: str
    http: Any = None
    socks4: Any = None
    socks5: Any = None
    status: int = 502
    families: tuple[str, ...] = ("http", "https", "socks4", "socks5")


FAILURES = [
    Failure("nobody listens"),
    Failure("hangs up", proxies.closes, proxies.closes, proxies.closes),
    Failure("resets", proxies.resets, proxies.closes, proxies.closes),
    Failure("says nothing", proxies.is_silent, socks_is_silent, socks_is_silent, status=504),
    Failure(
        "refuses",
        proxies.says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        socks_says(b"\0\x5b" + bytes(6)),
        socks_says(b"\5\0", b"\5\2\0\1" + bytes(6)),
    ),
    Failure(
        "wants other credentials",
        proxies.says(
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
        ),
        socks_says(b"\0\x5d" + bytes(6)),
        socks_says(b"\5\xff"),
    ),
    Failure(
        "talks nonsense",
        proxies.says(b"\x15\x03\x01 what?\r\n\r\n"),
        socks_says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        socks_says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ),
    Failure("shows an unknown certificate", proxies.closes, families=("https",)),
    Failure("shows no certificate", proxies.is_silent, families=("https",), status=504),
]


def failing_port(
    stack: ExitStack, failure: Failure, family: str, certificate: Path, unknown: Path
) -> int:
    behaviour = getattr(failure, "http" if family == "https" else family)
    if behaviour is None:
        return stack.enter_context(proxies.reserved_port())
    scripted = stack.enter_context(proxies.ScriptedProxy(behaviour))
    if family != "https" or failure.name == "shows no certificate":
        return scripted.port
    if Haproxy.path() is None:
        pytest.skip("haproxy is not installed (make test does so where it is packaged)")
    shown = unknown if failure.name == "shows an unknown certificate" else certificate
    port: int = stack.enter_context(Haproxy(scripted.port, shown)).port
    return port


CASES = [(failure, family) for failure in FAILURES for family in failure.families]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[1]}-{case[0].name}")
def broken(
    request: pytest.FixtureRequest,
    certificate: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Failure, str, int]]:
    """A failure, the family of protocols, the port."""
    failure, family = request.param
    with ExitStack() as stack:
        unknown = make_certificate(tmp_path_factory.mktemp("unknown"))
        yield failure, family, failing_port(stack, failure, family, certificate, unknown)


@pytest.mark.parametrize("kind", REQUESTS)
def test_fails(trusting: World, broken: tuple[Failure, str, int], kind: str) -> None:
    """Our own answer with the right status; the same connection serves the next request."""
    world = trusting
    failure, family, port = broken
    protocol = {"socks4": "socks4a", "socks5": "socks5h"}.get(family, family)
    tls = kind in ("https, h1", "https, h2", "wss")
    expected = failure.status
    if family in ("http", "https") and failure.name == "refuses" and kind == "http, h1":
        expected = 403  # without a tunnel it cannot be told from the target's
    world.backend.clear_faults()
    world.give(port, protocol=protocol)
    url = world.url(tls=tls)
    if kind == "https, h2":
        first = curl_h2(world, url, world.url(tls=True))
        assert [t["http_code"] for t in first] == [expected] * 2
        assert [t["num_connects"] for t in first] == [1, 0]
    else:
        headers = UPGRADE if kind.startswith("ws") else {}
        with world.client(tls=tls) as client:
            answer = client.request("GET", url, token=world.token, headers=headers)
            assert answer.status == expected, answer
            if expected != 403:
                error_of(answer)
                assert f'next-hop="127.0.0.1:{port}"' in (answer.header("proxy-status") or "")
            world.backend.clear_faults()
            assert client.request("GET", world.url(tls=tls), token=world.token).status == 200
    note(protocol=family, program="", request=kind, outcome=failure.name, result=expected)
