"""A real mitmproxy in this process between real sockets: scripted origins, scripted upstream
proxies, and an engine that does what a test tells it to.

`Rig.close` fails when an origin saw a connection that no proxy had opened, and when mitmproxy
logged a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mitmproxy import connection
from mitmproxy import http
from mitmproxy import options
from mitmproxy.tools.dump import DumpMaster

from mitm_forwarder import layers
from mitm_forwarder import modes
from mitm_forwarder import socks
from mitm_forwarder import tunnels
from mitm_forwarder.errors import make_response
from mitm_forwarder.routes import Route
from tests.forwarding.peers import CHUNK
from tests.forwarding.peers import Head
from tests.forwarding.peers import Listener
from tests.forwarding.peers import Origin
from tests.forwarding.peers import Proxy
from tests.forwarding.peers import make_certificate

PATIENCE = 10.0


async def until(condition: Any, what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition, at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        await asyncio.sleep(0.01)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class Engine:
    """Plays the C core and the addon: hooks on one side, layers.Hooks on the other."""

    connect_timeout = 1.0
    response_timeout = 1.0
    stream_idle_timeout = 1.0
    upstream_idle_timeout = 60.0
    max_connections = 100

    def __init__(self) -> None:
        self.routes: list[Route] = []
        """What the next request gets, in the order of tries; empty means that it is not routed."""
        self.budget = 5.0
        self.plans = True
        self.delay = 0.0
        self.reasons: list[str] = []
        self.verdict: Any = True
        self.on_requestheaders: Any = None
        self.on_responseheaders: Any = None
        self.on_response: Any = None
        self.ended: list[tuple[str, http.HTTPFlow]] = []
        self.finished: list[http.HTTPFlow] = []
        self.left: list[http.HTTPFlow] = []
        self.failing_retry = False

    # the addon's side
    def load(self, _: Any) -> None:
        layers.install_replay()

    def done(self) -> None:
        layers.uninstall_replay()

    def client_connected(self, client: connection.Client) -> None:
        layers.lift_dial_limit(client)

    def next_layer(self, nextlayer: Any) -> None:
        layers.choose_layer(nextlayer)

    def http_connect_upstream(self, flow: http.HTTPFlow) -> None:
        tunnels.authorize_connect(flow)

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        modes.name_target(flow)
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.plans:
            plan = SimpleNamespace(
                id=str(uuid.uuid4()),
                deadline=time.monotonic() + self.budget,
                routed=bool(self.routes),
                rest=list(self.routes),
            )
            flow.__dict__["_forwarder"] = plan
            self.route(flow)
        if self.on_requestheaders:
            self.on_requestheaders(flow)

    def route(self, flow: http.HTTPFlow) -> None:
        rest = flow.__dict__["_forwarder"].rest
        if rest:
            address = (flow.request.host, flow.request.port)
            flow.server_conn = connection.Server(address=address, via=rest.pop(0))

    async def forwarder_failover(self, flow: http.HTTPFlow) -> None:
        await layers.failover(flow)

    async def forwarder_resolve(self, resolution: socks.Resolution) -> None:
        await socks.resolve(resolution)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if "stream" in flow.request.query:
            flow.response.stream = True
        if self.on_responseheaders:
            self.on_responseheaders(flow)

    def response(self, flow: http.HTTPFlow) -> None:
        self.ended.append(("response", flow))
        if self.on_response:
            self.on_response(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        self.ended.append(("error", flow))

    # the engine's side
    def judge(self, flow: http.HTTPFlow) -> bool:
        if isinstance(self.verdict, Exception):
            raise self.verdict
        if not self.verdict:
            flow.response = make_response("blacklisted", flow.__dict__["_forwarder"].id)
        return bool(self.verdict)

    def leave(self, flow: http.HTTPFlow) -> None:
        self.left.append(flow)

    def finish(self, flow: http.HTTPFlow) -> None:
        self.finished.append(flow)

    async def retry(self, flow: http.HTTPFlow, reason: str) -> None:
        self.reasons.append(reason)
        if self.failing_retry:
            raise asyncio.CancelledError
        if time.monotonic() < flow.__dict__["_forwarder"].deadline:
            self.route(flow)


class Crashes(logging.Handler):
    """What mitmproxy logs as an error, minus what a test expects."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


class Rig:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = Engine()
        self.crashes = Crashes()
        self.listeners: list[Listener] = []

    async def start(self, **opts: Any) -> None:
        self.certificate = self.directory / "origin.pem"
        if not self.certificate.exists():
            make_certificate(self.directory)
        self.origin = await self.add(Origin())
        self.secure_origin = await self.add(Origin(self.certificate))
        self.proxy = await self.add(Proxy())
        self.engine.routes = [self.route()]
        layers.use(self.engine)
        settings = options.Options(
            listen_host="127.0.0.1", listen_port=0, confdir=str(self.directory)
        )
        self.master = DumpMaster(settings, with_termlog=False, with_dumper=False)
        opts = {"connection_strategy": "lazy", "upstream_cert": False, "rawtcp": False, **opts}
        self.master.options.update(ssl_insecure=True, **opts)
        # Where a -s script stands: before NextLayer, after the proxy server.
        chain = self.master.addons.chain
        self.master.addons.register(self.engine)
        chain.insert(chain.index(self.master.addons.get("scriptloader")), self.engine)
        logging.getLogger().addHandler(self.crashes)
        self.running = asyncio.ensure_future(self.master.run())
        server = self.master.addons.get("proxyserver")
        await until(lambda: self.running.done() or server.listen_addrs(), "mitmproxy listens")
        self.port: int = server.listen_addrs()[0][1]

    async def add(self, listener: Any) -> Any:
        await listener.start()
        self.listeners.append(listener)
        return listener

    async def close(self) -> None:
        self.master.shutdown()
        await self.running
        layers.use(None)
        logging.getLogger().removeHandler(self.crashes)
        for listener in self.listeners:
            await listener.stop()
        opened = {p for x in self.listeners if isinstance(x, Proxy) for p in x.opened}
        seen = {p for x in self.listeners if isinstance(x, Origin) for p in x.peers}
        assert seen <= opened, "an origin was reached without a proxy"
        assert not self.crashes.messages

    # ---- what tests ask for

    def route(self, proxy: Proxy | None = None, user: str | None = None, port: int = 0) -> Route:
        proxy = proxy or self.proxy
        kind = "https" if proxy.tls else "http"
        password = "secret" if user else None
        return Route(kind, "127.0.0.1", port or proxy.port, user, password, 7)

    async def failing(self, mood: str, tls: bool = False) -> Route:
        return self.route(await self.add(Proxy(self.certificate if tls else None, mood)))

    def dead(self) -> Route:
        return self.route(port=free_port())

    def url(self, path: str = "/", host: str = "origin.test") -> str:
        return f"http://{host}:{self.origin.port}{path}"

    def secure_url(self, path: str = "/") -> str:
        return f"https://origin.test:{self.secure_origin.port}{path}"

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def curl(self, *arguments: str) -> Curl:
        """curl through the gateway, one JSON line of --write-out for each transfer."""
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", "-k", "--max-time", str(PATIENCE), "--noproxy", "",
            "-x", f"http://127.0.0.1:{self.port}", "-w", "\n%{json}\n", *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        lines = out.decode().splitlines()
        transfers = [json.loads(line) for line in lines if line.startswith('{"')]
        reports = [x for x in transfers if "http_version" in x]
        return Curl(
            [r["http_code"] for r in reports],
            [r["http_version"] for r in reports],
            [r["num_connects"] for r in reports],
            [x for x in transfers if "request_id" in x],
            out.decode(),
            process.returncode or 0,
            err.decode(),
        )


class Curl(SimpleNamespace):
    def __init__(
        self,
        codes: list[int],
        versions: list[str],
        connects: list[int],
        answers: list[dict[str, Any]],
        out: str,
        returncode: int,
        err: str,
    ) -> None:
        super().__init__(
            codes=codes,
            versions=versions,
            connects=connects,
            answers=answers,
            out=out,
            returncode=returncode,
            err=err,
        )


class Client:
    """A client connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def request(self, url: str, method: str = "GET", headers: str = "") -> None:
        host = url.split("/")[2]
        self.send(f"{method} {url} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode())

    async def head(self) -> Head:
        return Head(await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE))

    async def response(self, bodyless: bool = False) -> tuple[Head, bytes]:
        head = await self.head()
        if bodyless:
            return head, b""
        return head, await asyncio.wait_for(self.reader.readexactly(head.length), PATIENCE)

    async def get(self, url: str, headers: str = "") -> tuple[Head, bytes]:
        self.request(url, headers=headers)
        return await self.response()

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while more := await asyncio.wait_for(self.reader.read(CHUNK), PATIENCE):
                data += more
        return data

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self.writer.wait_closed(), PATIENCE)


# ---- what tests ask of an answer


def reason(answer: tuple[Head, bytes]) -> str:
    """The reason code of an error answer, after a look at all that such an answer must have."""
    head, body = answer
    error = json.loads(body)
    assert head.headers["content-type"] == "application/json"
    assert head.headers["proxy-status"].startswith("mitm-forwarder; error=")
    assert head.headers["x-request-id"] == error["request_id"]
    assert error["detail"]
    code: str = error["error"]
    return code


async def usable(client: Client, rig: Rig) -> bool:
    """Does the next request on the same connection succeed?"""
    rig.engine.routes = [rig.route()]
    head, body = await client.get(rig.url())
    return (head.status, body) == (200, b"ok")
