"""The cuts against stock: the same traffic, hooks and bytes; back-pressure; re-entrancy."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import threading
import types
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Coroutine
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import make_dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import rsa
from mitmproxy import certs
from mitmproxy import connection
from mitmproxy import http
from mitmproxy import log as mitmproxy_log
from mitmproxy import options as mitmproxy_options
from mitmproxy import optmanager
from mitmproxy.net.http import url
from mitmproxy.proxy import commands
from mitmproxy.proxy import context
from mitmproxy.proxy import events
from mitmproxy.proxy import layer
from mitmproxy.proxy import mode_servers
from mitmproxy.proxy import mode_specs
from mitmproxy.test import taddons
from OpenSSL import crypto

from mitm_forwarder import options
from mitm_forwarder import turbo
from mitm_forwarder.turbo import authority
from mitm_forwarder.turbo import cut
from mitm_forwarder.turbo import log
from mitm_forwarder.turbo import pkey
from mitm_forwarder.turbo import post

pytestmark = pytest.mark.smoke

needs_eager = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks")


# ---- the registry


def test_uninstall_leaves_stock() -> None:
    places: tuple[tuple[Any, str], ...] = (
        (http.MessageData, "__post_init__"),
        (optmanager._Option, "current"),
        (context.Context, "fork"),
        (crypto.PKey, "from_cryptography_key"),
        (crypto.X509, "from_cryptography"),
        (certs, "create_ca"),
        (mode_servers, "ProxyConnectionHandler"),
    )

    def now() -> list[Any]:
        return [owner.__dict__[name] for owner, name in places]

    stock = now()
    added = turbo.install({"post", "opt", "fork", "pkey", "eckey"})
    assert sorted(added) == ["eckey", "fork", "opt", "pkey", "post"]
    assert turbo.install({"post"}) == []
    assert [a is b for a, b in zip(now(), stock, strict=True)] == [False] * 6 + [True]
    turbo.uninstall(added)
    assert now() == stock and turbo.installed() == ()


def test_other_source_stays_stock(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mitmproxy that differs in one line from what a cut was written against."""
    source = cut.inspect.getsource
    monkeypatch.setattr(cut.inspect, "getsource", lambda x: source(x) + "# one more line")
    assert turbo.install({"post", "opt"}) == []
    assert [r.getMessage() for r in caplog.records] == [
        f"TURBO: {name} stays off: this mitmproxy differs from those that it was written against"
        for name in ("post", "opt")
    ]


def test_cut_without_what_it_needs(caplog: pytest.LogCaptureFixture) -> None:
    assert turbo.install({"push"}) == []
    assert "push stays off: it needs inline, malloc" in caplog.text


def test_select() -> None:
    mine = turbo.select(None, {"post", "opt"}, [])
    assert mine == ["post", "opt"]
    mine = turbo.select({"opt", "fork"}, {"post"}, mine)
    assert mine == ["opt", "fork"] == list(turbo.installed())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all", turbo.ALL),
        ("SAFE", turbo.SAFE),
        ("off", frozenset()),
        ("post, dispatch", frozenset(("post", "dispatch"))),
    ],
)
def test_variable(text: str, names: frozenset[str]) -> None:
    config = options.load(environ={"SYSTEM_TOKEN": "x", "HOME": "/", "TURBO": text})
    assert config.turbo == names


def test_wrong_variable() -> None:
    with pytest.raises(options.ConfigError, match="TURBO='fast': there is no 'fast'; allowed: all"):
        options.load(environ={"SYSTEM_TOKEN": "x", "HOME": "/", "TURBO": "fast"})


# ---- the small ones


def message_fields() -> dict[str, Any]:
    return {
        "http_version": b"HTTP/1.1",
        "headers": http.Headers(),
        "content": b"x",
        "trailers": None,
        "timestamp_start": 1.0,
        "timestamp_end": None,
        "host": "a.test",
        "port": 80,
        "method": b"GET",
        "scheme": b"http",
        "authority": b"",
        "path": b"/",
    }


@pytest.mark.parametrize("value", [None, 1, 1.5, "x", b"x", True, http.Headers(), [], ()])
@pytest.mark.parametrize("name", message_fields())
def test_post_as_stock(name: str, value: Any) -> None:
    """Each field with values of every type: accepted by both, or refused by both in one text."""
    fields = message_fields() | {name: value}

    def outcome() -> str:
        try:
            http.RequestData(**fields)
        except TypeError as error:
            return str(error)
        return "accepted"

    stock = outcome()
    turbo.install({"post"})
    assert outcome() == stock


def test_post_knows_plain_messages() -> None:
    """What it is for: real messages do not reach mitmproxy's check."""
    assert post.is_plain(http.Request.make("GET", "http://a.test/").data)
    assert post.is_plain(http.Response.make().data)
    assert not post.is_plain(http.RequestData(**message_fields() | {"timestamp_start": 1}))


def test_opt_copies_what_can_change() -> None:
    turbo.install({"opt"})
    manager = optmanager.OptManager()
    for name, kind, value in (("a", str, "x"), ("b", int, 3), ("c", bool, True)):
        manager.add_option(name, kind, value, "")
        assert getattr(manager, name) is value
    manager.add_option("d", Sequence[str], ["x"], "")
    manager.d.append("y")
    assert manager.d == ["x"]
    manager.a = "z"
    assert manager.a == "z"
    manager.reset()
    assert manager.a == "x"


AUTHORITIES = [
    "a.test",
    "a.test:80",
    "a.test:x",
    "[::1]:1",
    "",
    ":",
    "a..b",
    "a" * 70,
    "-",
    "1.2.3.4:0",
]
AUTHORITIES += [
    "a.test:99999",
    "bücher.example:443",
    "xn--bcher-kva.example",
    "a" * 300 + ":1",
    "a b",
]


@pytest.mark.parametrize("check", [True, False])
def test_authority_as_stock(check: bool) -> None:
    """Texts and bytes, good and bad, twice each, in both readings of `check`."""
    asked = [*AUTHORITIES, *(x.encode() for x in AUTHORITIES), b"\xff\xfe", b"xn--\xff"] * 2

    def answers() -> list[Any]:
        found: list[Any] = []
        for text in asked:
            try:
                found.append(url.parse_authority(text, check))
            except ValueError as error:
                found.append(str(error))
        return found

    stock = answers()
    turbo.install({"authority"})
    assert answers() == stock


def test_authority_is_bounded() -> None:
    turbo.install({"authority"})
    for number in range(authority.KEPT_MAX + 10):
        assert url.parse_authority(f"h{number}.test:1", True) == (f"h{number}.test", 1)
    known = url.parse_authority.__closure__[0].cell_contents  # type: ignore[attr-defined]
    assert len(known) == authority.KEPT_MAX


def test_fork_as_stock() -> None:
    client = connection.Client(peername=("a", 1), sockname=("b", 2), timestamp_start=0)
    original = context.Context(client, mitmproxy_options.Options())
    original.layers.append(layer.NextLayer(original))

    class Mine(context.Context):
        pass

    stock = original.fork()
    turbo.install({"fork"})
    forked = original.fork()
    assert vars(forked) == vars(stock) and forked.layers is not original.layers
    assert forked.server is original.server
    assert type(Mine(client, original.options).fork()) is context.Context


def test_pkey_once_for_each_object() -> None:
    turbo.install({"pkey"})
    one, two = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    first = crypto.PKey.from_cryptography_key(one)
    assert crypto.PKey.from_cryptography_key(one) is first
    other = crypto.PKey.from_cryptography_key(two)
    assert other is not first
    numbers = other.to_cryptography_key().private_numbers()  # type: ignore[union-attr]
    assert numbers == two.private_numbers()
    with pytest.raises(TypeError):
        crypto.PKey.from_cryptography_key("no key")  # type: ignore[arg-type]


def test_pkey_is_bounded() -> None:
    calls: list[object] = []

    class Holder:
        get = pkey.remember(lambda source: calls.append(source) or object(), 2)

    sources = [object() for _ in range(3)]
    for source in (*sources, sources[2], sources[0]):
        Holder.get(source)
    assert calls == [*sources, sources[0]]


@pytest.mark.parametrize(
    ("size", "kind"), [(2048, ec.EllipticCurvePrivateKey), (3072, rsa.RSAPrivateKey)]
)
def test_new_authority(size: int, kind: type, tmp_path: Any) -> None:
    """The store that is written can be read again and signs certificates that verify."""
    turbo.install({"eckey"})
    certs.CertStore.from_store(tmp_path, "mitmproxy", size)
    turbo.uninstall(["eckey"])
    store = certs.CertStore.from_store(tmp_path, "mitmproxy", size)
    assert isinstance(store.default_privatekey, kind)
    leaf = store.get_cert("a.test", []).cert._cert
    leaf.verify_directly_issued_by(store.default_ca._cert)


@pytest.mark.parametrize("in_loop", [True, False])
def test_log_events_only_for_listeners(in_loop: bool) -> None:
    said: list[str] = []

    class Listener:
        name = "listener"

        def add_log(self, entry: mitmproxy_log.LogEntry) -> None:
            said.append(entry.msg)

    async def main() -> list[str]:
        with taddons.context() as tctx:
            loop = asyncio.get_running_loop()
            master = types.SimpleNamespace(addons=tctx.master.addons, event_loop=loop)
            handler = log.QuietLogEvents(master)  # type: ignore[arg-type]
            handler.loop_thread = threading.get_ident() if in_loop else 0
            logger = logging.getLogger("a.logger")
            logger.propagate = False  # the test context listens itself
            logger.addHandler(handler)
            try:
                logger.warning("to nobody")
                await asyncio.sleep(0)
                # Inside a container, as a script's addons are.
                holder = types.SimpleNamespace(name="holder", addons=[Listener()])
                tctx.master.addons.add(holder)
                logger.warning("to somebody")
                await asyncio.sleep(0)
            finally:
                logger.removeHandler(handler)
        return [line.partition("to ")[2] for line in said if "to " in line]

    assert asyncio.run(main()) == ["somebody"]


# ---- the connection handler


class Script(layer.Layer):
    """A top layer that does what a test says for each event, and notes what it is told."""

    def __init__(self, ctx: context.Context, act: Callable[[Any, events.Event], Any]) -> None:
        super().__init__(ctx)
        self.act = act

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield from self.act(self, event) or ()


class Addons:
    """Notes each hook; `acts` says what to do in it."""

    def __init__(self, trace: list[Any], acts: dict[str, Callable[..., Any]]) -> None:
        self.trace, self.acts = trace, acts

    async def handle_lifecycle(self, hook: commands.StartHook) -> None:
        self.trace.append(("hook", hook.name))
        if act := self.acts.get(hook.name):
            result = act(hook)
            if result is not None:
                await result
            self.trace.append(("hook ends", hook.name))


def make_hook(name: str, blocking: bool) -> type[commands.StartHook]:
    cls = make_dataclass(name, [("data", Any)], bases=(commands.StartHook,))
    cls.blocking = blocking  # type: ignore[attr-defined]
    return cls


TellHook = make_hook("ForwarderTestTellHook", False)
AskHook = make_hook("ForwarderTestAskHook", True)


@asynccontextmanager
async def proxied(
    names: set[str], act: Callable[[Any, events.Event], Any], addons: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, Any]]:
    """A client's streams and the handler of its connection, whose layer is a Script."""
    added = [name for name in ("inline", "push", "coalesce") if name in names]
    undo = []
    for name in added:
        undo.append(importlib.import_module(turbo.MODULES[name]).CUT.install())
    opts = mitmproxy_options.Options()
    for name, value in (("tcp_timeout", 600),):
        if name not in opts:
            opts.add_option(name, int, value, "")
    made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        master = types.SimpleNamespace(addons=addons)
        mode = mode_specs.ProxyMode.parse("regular")
        handler: Any = mode_servers.ProxyConnectionHandler(master, reader, writer, opts, mode)  # type: ignore[no-untyped-call]
        handler.layer = Script(handler.layer.context, act)
        made.set_result(handler)
        await handler.handle_client()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        yield reader, writer, await made
        writer.close()
    finally:
        server.close()
        for take_back in reversed(undo):
            take_back()


SETS = [
    set(),
    {"inline"},
    {"inline", "push"},
    {"inline", "coalesce"},
    {"inline", "push", "coalesce"},
]


def in_all_ways(main: Callable[[set[str]], Coroutine[Any, Any, Any]]) -> None:
    """Stock and every combination of the cuts give the same."""
    stock = asyncio.run(main(set()))
    for names in SETS[1:]:
        assert asyncio.run(main(names)) == stock, names


@needs_eager
@pytest.mark.parametrize("waits", [False, True])
def test_same_order_of_hooks_and_bytes(waits: bool) -> None:
    """Blocking and other hooks, sends between, an exception, an unknown command, half-close."""

    async def main(names: set[str]) -> Any:
        trace: list[Any] = []

        def act(self: Any, event: events.Event) -> Any:
            trace.append(("event", type(event).__name__))
            client = self.context.client
            if isinstance(event, events.DataReceived):
                trace.append(("data", event.data))
                yield commands.SendData(client, b"1")
                yield TellHook(client)
                trace.append("told")
                yield commands.SendData(client, b"2")
                yield AskHook(client)
                trace.append("asked")
                yield commands.SendData(client, b"3")
                yield TellHook(client)
                if event.data == b"crash":
                    raise ValueError("a layer crashes")
                if event.data == b"bad":
                    yield commands.Command()
                if event.data == b"end":
                    yield commands.CloseTcpConnection(client, half_close=True)

        async def later(hook: Any) -> None:
            for _ in range(3):
                await asyncio.sleep(0)

        def note(hook: Any) -> None:
            trace.append(asyncio.current_task() is not None)

        acts = {"forwarder_test_ask": later if waits else note, "forwarder_test_tell": note}
        received = b""
        async with proxied(names, act, Addons(trace, acts)) as (reader, writer, _):
            for data in (b"one", b"crash", b"bad", b"end"):
                writer.write(data)
                received += await reader.readexactly(3)
            received += await reader.read()
        return received, trace

    in_all_ways(main)
    received, trace = asyncio.run(main(set()))
    assert received == b"123" * 4 and trace.count("asked") == 4


@needs_eager
def test_event_in_the_middle_of_another() -> None:
    """mitmproxy's issue 7027: an event that a handler causes waits until the layer is ready."""

    async def main(names: set[str]) -> Any:
        trace: list[Any] = []
        handlers: list[Any] = []
        tasks: list[Any] = []

        def act(self: Any, event: events.Event) -> Any:
            trace.append(("begins", type(event).__name__))
            if isinstance(event, events.DataReceived):
                # As a task that an eager task factory starts at once does.
                coroutine = handlers[0].server_event(events.Wakeup(commands.RequestWakeup(0)))
                task = asyncio.Task(coroutine, loop=asyncio.get_running_loop(), eager_start=True)  # type: ignore[call-arg]
                tasks.append(task)
                yield TellHook(self.context.client)
                yield commands.SendData(self.context.client, b"x")
            trace.append(("ends", type(event).__name__))

        async with proxied(names, act, Addons(trace, {})) as (reader, writer, handler):
            handlers.append(handler)
            writer.write(b"go")
            assert await reader.readexactly(1) == b"x"
            while len(trace) < 7:
                await asyncio.sleep(0)
        return [x for x in trace if x[0] != "hook"]

    in_all_ways(main)
    assert asyncio.run(main({"inline"}))[2:] == [
        ("begins", "DataReceived"),
        ("ends", "DataReceived"),
        ("begins", "Wakeup"),
        ("ends", "Wakeup"),
    ]


@needs_eager
@pytest.mark.parametrize("names", SETS[1:], ids=["inline", "push", "coalesce", "all"])
def test_back_pressure(names: set[str]) -> None:
    """A client that sends, and does not read what comes back, is not read for ever: the echo of
    100 MB never sits in memory. When it reads again, all arrives, in order.
    """
    piece = bytes(range(256)) * 4096

    async def main() -> None:
        seen = 0

        def act(self: Any, event: events.Event) -> Any:
            nonlocal seen
            if isinstance(event, events.DataReceived):
                seen += len(event.data)
                yield commands.SendData(self.context.client, event.data)

        async with proxied(names, act, Addons([], {})) as (reader, writer, handler):
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            sender = asyncio.ensure_future(send(writer, piece, 100))
            last = -1
            while seen != last:
                last = seen
                for _ in range(10):
                    await asyncio.sleep(0.02)
            assert not sender.done() and 0 < seen < 40 << 20
            (io,) = handler.transports.values()
            assert io.writer.transport.get_write_buffer_size() < 2 << 20
            reader._transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(100):
                assert await reader.readexactly(len(piece)) == piece
            await sender

    asyncio.run(asyncio.wait_for(main(), 60))


async def send(writer: asyncio.StreamWriter, piece: bytes, count: int) -> None:
    for _ in range(count):
        writer.write(piece)
        await writer.drain()


@needs_eager
@pytest.mark.parametrize("how", ["eof", "abort", "close"])
def test_ends_as_stock(how: str) -> None:
    """The client closes, resets, or is closed by the layer: the same events, then the hook."""

    async def main(names: set[str]) -> Any:
        trace: list[Any] = []

        def act(self: Any, event: events.Event) -> Any:
            state = getattr(getattr(event, "connection", None), "state", None)
            trace.append((type(event).__name__, str(state)))
            if isinstance(event, events.DataReceived) and event.data.endswith(b"!"):
                yield commands.SendData(self.context.client, b"bye")
                yield commands.CloseConnection(self.context.client)
            elif isinstance(event, events.ConnectionClosed):
                yield commands.CloseConnection(self.context.client)

        addons = Addons(trace, {})
        async with proxied(names, act, addons) as (reader, writer, _):
            writer.write(b"data")
            while ("DataReceived", "ConnectionState.OPEN") not in trace and len(trace) < 3:
                await asyncio.sleep(0)
            if how == "eof":
                writer.write_eof()
            elif how == "abort":
                writer.transport.abort()
            else:
                writer.write(b"!")
            if how != "abort":
                trace.append(await reader.read())
            while ("hook", "client_disconnected") not in trace:
                await asyncio.sleep(0.001)
        return trace

    in_all_ways(lambda names: asyncio.wait_for(main(names), 20))
