"""The hooks one by one: which of them asks the engine what, and that every doubt ends in an answer.

The engine is a stand-in that does what a test tells it to, but for the tests of configuration.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import exceptions
from mitmproxy import http
from mitmproxy import websocket
from mitmproxy.addons.block import Block
from mitmproxy.addons.onboarding import Onboarding
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.test import taddons
from mitmproxy.test import tflow
from mitmproxy.test import tutils
from wsproto.frame_protocol import Opcode

from mitm_forwarder import errors
from mitm_forwarder import layers
from mitm_forwarder.addon import Forwarder

REQUEST_ID = "5f8a6a1e-0000-4000-8000-000000000001"
THRESHOLD = 1000


class Engine:
    """Notes its calls; `pending` is what begin() returns, `recordable` what record() does."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.pending: Awaitable[None] | None = None
        self.begin_error: Exception | None = None
        self.recordable = True
        self.has_tunnel_token = False

    def begin(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        self.calls.append("begin")
        if self.begin_error:
            raise self.begin_error
        flow.__dict__["_forwarder"] = SimpleNamespace(id=REQUEST_ID, deadline=0.0, routed=True)
        return self.pending

    def record(self, flow: http.HTTPFlow) -> bool:
        self.calls.append("record")
        return self.recordable

    def connect(self, flow: http.HTTPFlow) -> bool:
        self.calls.append("connect")
        return self.has_tunnel_token


class Bridge:
    """In the place of the real one."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.draining = False
        self.finished: list[http.HTTPFlow] = []
        self.config = SimpleNamespace(
            stream_threshold_bytes=THRESHOLD,
            auth_challenge=401,
            require_user_jwt=True,
            default_user_jwt=None,
        )

    def finish(self, flow: http.HTTPFlow) -> None:
        self.finished.append(flow)

    def answer(self, reason: str, request_id: str, method: str, detail: str | None) -> Any:
        return errors.make_response(reason, request_id, method=method, detail=detail)


@pytest.fixture
def bridge() -> Bridge:
    return Bridge()


@pytest.fixture
def addon(bridge: Bridge) -> Iterator[Forwarder]:
    """With the stand-in; mitmproxy's options are those of an empty master."""
    addon = Forwarder()
    with taddons.context(Onboarding()):
        addon.bridge = bridge  # type: ignore[assignment]
        yield addon


def a_flow(**options: Any) -> http.HTTPFlow:
    """A live flow that waits for its answer."""
    flow = tflow.tflow(**options)
    flow.live = True
    return flow


async def planned(addon: Forwarder, **options: Any) -> http.HTTPFlow:
    """One that the engine has seen, and that has a response by now."""
    flow = a_flow()
    await addon.requestheaders(flow)
    flow.response = tutils.tresp(**options)
    return flow


def error_of(flow: http.HTTPFlow) -> str:
    assert flow.response is not None
    reason: str = json.loads(flow.response.get_text() or "")["error"]
    return reason


# ---- requestheaders


async def test_engine_is_asked_and_awaited(addon: Forwarder, bridge: Bridge) -> None:
    bridge.engine.pending = asyncio.get_running_loop().create_future()
    hook = asyncio.create_task(addon.requestheaders(a_flow()))
    await asyncio.sleep(0)
    assert bridge.engine.calls == ["begin"]
    assert not hook.done()
    bridge.engine.pending.set_result(None)  # type: ignore[attr-defined]
    await asyncio.wait_for(hook, 5)


async def test_exception_becomes_an_answer(
    addon: Forwarder, bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    bridge.engine.begin_error = RuntimeError("a bug")
    flow = a_flow()
    await addon.requestheaders(flow)
    assert error_of(flow) == "internal"
    assert flow.response is not None and flow.response.status_code == 502
    assert "a bug" in caplog.text


@pytest.mark.parametrize("how", ["fails", "cancelled"])
async def test_future_that_brings_no_decision(addon: Forwarder, bridge: Bridge, how: str) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if how == "fails":
        future.set_exception(RuntimeError("a bug"))
    else:
        future.cancel()
    bridge.engine.pending = future
    flow = a_flow()
    await addon.requestheaders(flow)
    assert error_of(flow) == "internal"


async def test_flows_that_are_not_ours(addon: Forwarder, bridge: Bridge) -> None:
    """Read from a file, or answered by somebody before us."""
    dead = tflow.tflow()
    dead.live = False
    answered = a_flow(resp=True)
    for flow in (dead, answered):
        before = flow.response
        await addon.requestheaders(flow)
        assert flow.response is before
    assert bridge.engine.calls == []


@pytest.mark.parametrize(
    "host, port, is_page",
    [
        ("mitm.it", 80, True),
        ("mitm.it", 8080, False),
        ("mitm.it.test", 80, False),
        ("x.mitm.it", 80, False),
    ],
)
async def test_certificate_page(
    addon: Forwarder, bridge: Bridge, host: str, port: int, is_page: bool
) -> None:
    flow = a_flow(req=tutils.treq(host=host, port=port))
    await addon.requestheaders(flow)
    assert bridge.engine.calls == ([] if is_page else ["begin"])
    assert flow.response is None


async def test_certificate_page_that_is_off(addon: Forwarder, bridge: Bridge) -> None:
    with taddons.context(Onboarding()) as context:
        context.options.update(onboarding=False)
        await addon.requestheaders(a_flow(req=tutils.treq(host="mitm.it", port=80)))
    assert bridge.engine.calls == ["begin"]


async def test_without_a_configuration_nothing_is_planned(addon: Forwarder) -> None:
    """The layers answer 502 to what has no plan."""
    addon.bridge = None
    flow = a_flow()
    await addon.requestheaders(flow)
    addon.http_connect(flow)
    flow.response = tutils.tresp()
    addon.responseheaders(flow)
    addon.response(flow)
    addon.error(flow)
    assert "_forwarder" not in flow.__dict__


@pytest.mark.parametrize(
    "headers, is_streamed",
    [
        ({}, False),
        ({"content-length": str(THRESHOLD)}, False),
        ({"content-length": str(THRESHOLD + 1)}, True),
        ({"content-length": "-1"}, False),
    ],
)
async def test_uploads(addon: Forwarder, headers: dict[str, str], is_streamed: bool) -> None:
    flow = a_flow()
    flow.request.headers = http.Headers(**{k.replace("-", "_"): v for k, v in headers.items()})
    await addon.requestheaders(flow)
    assert bool(flow.request.stream) is is_streamed


# ---- responseheaders


@pytest.mark.parametrize(
    "method, status, length, is_streamed",
    [
        ("GET", 200, str(THRESHOLD), False),
        ("GET", 200, str(THRESHOLD + 1), True),
        ("GET", 200, None, True),
        ("GET", 200, "many", True),
        ("GET", 204, None, False),
        ("GET", 304, None, False),
        ("GET", 101, None, False),
        ("HEAD", 200, str(THRESHOLD + 1), False),
    ],
)
async def test_downloads(
    addon: Forwarder,
    bridge: Bridge,
    method: str,
    status: int,
    length: str | None,
    is_streamed: bool,
) -> None:
    """What is streamed is recorded now, since its first byte leaves before `response`."""
    flow = await planned(addon, status_code=status)
    assert flow.response is not None
    flow.request.method = method
    flow.response.headers.pop("content-length", None)
    if length is not None:
        flow.response.headers["content-length"] = length
    addon.responseheaders(flow)
    assert bool(flow.response.stream) is is_streamed
    assert bridge.engine.calls == ["begin", *(["record"] if is_streamed else [])]
    assert bridge.finished == []


async def test_stream_that_cannot_be_recorded_is_killed(addon: Forwarder, bridge: Bridge) -> None:
    flow = await planned(addon)
    assert flow.response is not None
    flow.response.headers.pop("content-length", None)
    bridge.engine.recordable = False
    addon.responseheaders(flow)
    assert flow.error is not None and flow.error.msg == flow.error.KILLED_MESSAGE


# ---- response, error, WebSocket


async def test_response_is_recorded_and_ends_the_request(addon: Forwarder, bridge: Bridge) -> None:
    flow = await planned(addon)
    addon.response(flow)
    assert bridge.engine.calls == ["begin", "record"]
    assert bridge.finished == [flow]


async def test_response_that_cannot_be_recorded(addon: Forwarder, bridge: Bridge) -> None:
    flow = await planned(addon)
    bridge.engine.recordable = False
    addon.response(flow)
    assert error_of(flow) == "not_recorded"
    assert flow.response is not None and flow.response.status_code == 503
    assert flow.response.headers["x-request-id"] == REQUEST_ID
    assert bridge.finished == [flow]


async def test_error_is_recorded_and_ends_the_request(addon: Forwarder, bridge: Bridge) -> None:
    flow = await planned(addon)
    flow.response = None
    addon.error(flow)
    assert bridge.engine.calls == ["begin", "record"]
    assert bridge.finished == [flow]


async def test_websocket_ends_with_its_connection(addon: Forwarder, bridge: Bridge) -> None:
    flow = await planned(addon, status_code=101)
    flow.websocket = websocket.WebSocketData()
    addon.response(flow)
    assert bridge.engine.calls == ["begin", "record"]
    assert bridge.finished == []
    for text in (b"one", b"two", b"three"):
        flow.websocket.messages.append(websocket.WebSocketMessage(Opcode.TEXT, True, text))
        addon.websocket_message(flow)
        assert [message.content for message in flow.websocket.messages] == [text]
    addon.websocket_end(flow)
    assert bridge.finished == [flow]


def test_flows_without_a_plan_are_left_alone(addon: Forwarder, bridge: Bridge) -> None:
    flow = a_flow(resp=True)
    before = flow.get_state()
    addon.responseheaders(flow)
    addon.response(flow)
    addon.websocket_end(flow)
    addon.error(flow)
    assert flow.get_state() == before
    assert bridge.engine.calls == []
    assert bridge.finished == []


# ---- http_connect


@pytest.mark.parametrize(
    "challenge, is_required, default, has_token, is_asked",
    [
        (407, True, None, False, True),
        (407, True, None, True, False),
        (407, True, "a.b.c", False, False),
        (407, False, None, False, False),
        (401, True, None, False, False),
    ],
)
def test_connect(
    addon: Forwarder,
    bridge: Bridge,
    challenge: int,
    is_required: bool,
    default: str | None,
    has_token: bool,
    is_asked: bool,
) -> None:
    bridge.config.auth_challenge = challenge
    bridge.config.require_user_jwt = is_required
    bridge.config.default_user_jwt = default
    bridge.engine.has_tunnel_token = has_token
    flow = a_flow(req=tutils.treq(method=b"CONNECT"))
    addon.http_connect(flow)
    assert bridge.engine.calls == ["connect"]
    assert (flow.response is not None) is is_asked
    if is_asked:
        assert error_of(flow) == "no_token"


# ---- configuration, with a real engine


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A complete configuration, for a backend that refuses."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("SYSTEM_TOKEN", "a-system-token")
        monkeypatch.setenv("STATE_DIR", str(tmp_path))
        monkeypatch.setenv("SHUTDOWN_TIMEOUT", "1")
        monkeypatch.setenv("FASTAPI_BASE_URL", f"http://127.0.0.1:{reserved.getsockname()[1]}")
        yield monkeypatch


@pytest.fixture
async def context(environ: pytest.MonkeyPatch) -> AsyncIterator[taddons.context]:
    """A master with the addons whose options ours looks at."""
    with taddons.context(Proxyserver(), Onboarding(), Block()) as context:
        yield context


def load(context: taddons.context) -> Forwarder:
    """The addon as mitmproxy's script loader puts it in place; not running."""
    addon = Forwarder()
    context.master.addons.add(addon)
    context.configure(addon)
    return addon


@pytest.fixture
async def loaded(context: taddons.context) -> AsyncIterator[Forwarder]:
    """The same, at the end as well."""
    addon = load(context)
    yield addon
    ending = addon.done()
    assert ending is None


def test_configured(loaded: Forwarder, context: taddons.context) -> None:
    assert loaded.bridge is not None
    opts = context.options
    assert (opts.connection_strategy, opts.upstream_cert, opts.rawtcp) == ("lazy", False, False)
    assert opts.block_global is False


async def test_bad_configuration_at_start(
    context: taddons.context, environ: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors at start make mitmproxy exit; until then nothing is planned."""
    environ.delenv("SYSTEM_TOKEN")
    environ.setenv("HTTPX_TIMEOUT", "soon")
    addon = load(context)
    assert addon.bridge is None
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [line.partition(":")[0].partition("=")[0] for line in lines] == [
        "SYSTEM_TOKEN",
        "HTTPX_TIMEOUT",
    ]
    flow = a_flow()
    await addon.requestheaders(flow)
    assert "_forwarder" not in flow.__dict__
    addon.running()
    addon.done()


@pytest.mark.parametrize("name", ["connection_strategy", "upstream_cert", "rawtcp", "block_global"])
def test_what_a_user_had_set_is_set_back_in_words(
    loaded: Forwarder, context: taddons.context, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    assert "is set back" not in caplog.text  # defaults are nobody's wish
    value = "eager" if name == "connection_strategy" else True
    safe = getattr(context.options, name)
    context.options.update(**{name: value})
    assert getattr(context.options, name) == safe
    assert f"{name} is set back to {safe}" in caplog.text


def test_block_global_is_the_users_where_no_token_is_required(
    context: taddons.context, environ: pytest.MonkeyPatch
) -> None:
    environ.setenv("REQUIRE_USER_JWT", "no")
    addon = load(context)
    assert context.options.block_global is True
    addon.done()


async def test_new_configuration_is_a_new_engine(
    loaded: Forwarder, context: taddons.context
) -> None:
    loaded.running()
    first = loaded.bridge
    context.options.update(forwarder_httpx_timeout="7")
    assert loaded.bridge is not None and loaded.bridge is not first
    assert loaded.bridge.response_timeout == 7.0
    same = loaded.bridge
    context.options.update(onboarding=False)
    assert loaded.bridge is same


async def test_bad_value_while_running_keeps_the_engine(
    loaded: Forwarder, context: taddons.context
) -> None:
    loaded.running()
    before = loaded.bridge
    with pytest.raises(exceptions.OptionsError, match=r"forwarder_httpx_timeout.*seconds"):
        context.options.update(forwarder_httpx_timeout="soon")
    # mitmproxy takes the option back, which is one more change: maybe another engine, never another
    # configuration.
    assert loaded.bridge is not None and before is not None
    assert loaded.bridge.config == before.config
    flow = a_flow()
    await asyncio.wait_for(loaded.requestheaders(flow), 30)
    assert error_of(flow) == "no_token"


async def test_reload(loaded: Forwarder, context: taddons.context) -> None:
    """`done` and `load` of the same addon, as mitmproxy does when the script is touched."""
    loaded.running()
    loaded.done()
    assert loaded.bridge is None
    assert layers.engine() is None
    context.configure(loaded)
    loaded.running()
    assert loaded.bridge is not None
    assert layers.engine() is loaded.bridge


async def test_end_of_the_process(context: taddons.context, environ: pytest.MonkeyPatch) -> None:
    """`done` is awaited then; what runs still finds its engine, what is new is refused."""
    addon = load(context)
    addon.running()
    context.master.should_exit.set()
    ending = addon.done()
    assert ending is not None and addon.bridge is not None
    task = asyncio.ensure_future(ending)
    await asyncio.sleep(0)
    flow = a_flow()
    flow.request.headers["authorization"] = "Bearer a-token"
    await addon.requestheaders(flow)
    assert error_of(flow) == "shutting_down"
    addon.response(flow)
    await asyncio.wait_for(task, 30)


@pytest.mark.parametrize(
    "wanted, listening, is_warned",
    [("8080", 9000, False), ("9000", 9000, False), ("9000", 9001, True)],
)
async def test_port_of_the_launcher(
    context: taddons.context,
    environ: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wanted: str,
    listening: int,
    is_warned: bool,
) -> None:
    environ.setenv("MITM_LISTEN_PORT", wanted)
    addon = load(context)
    context.options.update(listen_port=listening)
    addon.running()
    assert ("MITM_LISTEN_PORT" in caplog.text) is is_warned
    addon.done()


async def test_unknown_option(
    loaded: Forwarder, context: taddons.context, caplog: pytest.LogCaptureFixture
) -> None:
    """A slip in a name must not pass as the default."""
    context.options.set("forwarder_htpx_timeout=1", "other=2", defer=True)
    loaded.running()
    assert "forwarder_htpx_timeout: there is no such option" in caplog.text
    assert "other" not in caplog.text
