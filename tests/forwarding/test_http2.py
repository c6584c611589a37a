"""HTTP/2: gRPC from end to end, and that what one side does not take makes the other side wait."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from mitm_forwarder import layers
from mitm_forwarder.http2 import QUEUE_LIMIT
from mitm_forwarder.http2 import ForwarderHttp2Server
from mitm_forwarder.http2 import RoutedHttp2Client
from tests.forwarding.h2client import WINDOW
from tests.forwarding.h2client import H2Client
from tests.forwarding.peers import CHUNK
from tests.forwarding.peers import Head
from tests.forwarding.peers import Listener
from tests.forwarding.rig import Rig
from tests.forwarding.rig import until

SIZE = 64 << 20
GRPC = ["--http2", "-X", "POST", "-H", "Content-Type: application/grpc", "-H", "TE: trailers"]


class GrpcOrigin(Listener):
    """Takes uploads only while `open_window` is set; answers with a message and trailers."""

    protocols = ("h2",)

    def __init__(self, tls: Path) -> None:
        super().__init__(tls)
        self.open_window = asyncio.Event()
        self.received = 0
        self.heads: list[dict[bytes, bytes]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        wire.initiate_connection()
        while True:
            writer.write(wire.data_to_send())
            data = await reader.read(CHUNK)
            if not data:
                return
            for event in wire.receive_data(data):
                await self.answer(wire, event)

    async def answer(self, wire: h2.connection.H2Connection, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.heads.append(dict(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            self.received += len(event.data)
            await self.open_window.wait()
            wire.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            head = [(":status", "200"), ("content-type", "application/grpc")]
            wire.send_headers(event.stream_id, head)
            wire.send_data(event.stream_id, b"message")
            wire.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)


async def test_grpc(rig: Rig) -> None:
    """HTTP/2 to the target, whatever is streamed, and the trailers arrive."""
    origin = await rig.add(GrpcOrigin(rig.certificate))
    origin.open_window.set()
    url = f"https://origin.test:{origin.port}/service/method"
    result = await rig.curl(*GRPC, "-v", "--data-binary", "a message", "-H", "Content-Length:", url)
    assert result.codes == [200], result.err
    assert result.versions == ["2"]
    assert "message" in result.out
    assert "< grpc-status: 0" in result.err
    assert origin.received == len("a message")
    assert origin.heads[0][b"te"] == b"trailers"


async def test_an_upload_that_the_target_does_not_take(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is stopped, and goes on when the target does."""
    rig.engine.stream_idle_timeout = rig.engine.response_timeout = 30
    origin = await rig.add(GrpcOrigin(rig.certificate))
    upload = tmp_path / "upload"
    with upload.open("wb") as file:
        file.truncate(SIZE)
    url = f"https://origin.test:{origin.port}/service/method"
    target = ["-T", str(upload), "-H", "Content-Length:", url]
    stopped = await rig.curl(*GRPC, "-m", "3", "-w", "\n%{size_upload}\n", *target)
    assert stopped.returncode == 28
    assert 0 < int(stopped.out.split()[-1]) < SIZE // 2
    held = asyncio.Event()
    hold = layers.ForwarderLayer.hold

    def noted(self: Any, holder: Any) -> None:
        hold(self, holder)
        if isinstance(holder, RoutedHttp2Client):
            held.set()

    monkeypatch.setattr(layers.ForwarderLayer, "hold", noted)
    going = asyncio.ensure_future(rig.curl(*GRPC, "-m", "30", *target))
    await asyncio.wait_for(held.wait(), 10)
    origin.open_window.set()
    result = await going
    assert result.codes == [200], result.err
    assert origin.received >= SIZE


# ---- answers that the client does not take


class Flood(Listener):
    """Sends as many bytes as the path says."""

    sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            size = int(Head(await reader.readuntil(b"\r\n\r\n")).first[1][1:].partition("?")[0])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            while size:
                piece = min(size, CHUNK)
                writer.write(bytes(piece))
                await writer.drain()
                self.sent += piece
                size -= piece


class Http2Flood(Listener):
    """The same with HTTP/2."""

    protocols = ("h2",)
    sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        wire.initiate_connection()
        answers: set[asyncio.Task[None]] = set()
        while True:
            writer.write(wire.data_to_send())
            data = await reader.read(CHUNK)
            if not data:
                return
            for event in wire.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    answers.add(asyncio.ensure_future(self.answer(wire, writer, event)))

    async def answer(
        self,
        wire: h2.connection.H2Connection,
        writer: asyncio.StreamWriter,
        event: h2.events.RequestReceived,
    ) -> None:
        size = int(dict(event.headers)[b":path"][1:].partition(b"?")[0])
        wire.send_headers(event.stream_id, [(":status", "200")])
        window = wire.local_flow_control_window
        while size:
            await until(lambda: window(event.stream_id), "the gateway's window is open")
            piece = min(size, wire.max_outbound_frame_size, window(event.stream_id))
            wire.send_data(event.stream_id, bytes(piece), end_stream=piece == size)
            writer.write(wire.data_to_send())
            await writer.drain()
            self.sent += piece
            size -= piece


READ_AHEAD = 448 << 10
"""What asyncio may have read from a connection by the time it is told to stop."""


class Faces:
    """What the gateway does with the sockets of upstream connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.last: ForwarderHttp2Server | None = None
        set_reading = layers.ForwarderLayer.set_reading

        def noted(layer: Any, conn: Any, on: bool) -> None:
            set_reading(layer, conn, on)
            if conn is not layer.context.client:
                self.last = layer.connections[layer.context.client]

        monkeypatch.setattr(layers.ForwarderLayer, "set_reading", noted)

    async def hold(self, *streams: int) -> ForwarderHttp2Server:
        await until(lambda: self.last and set(streams) <= set(self.last.held), "streams are held")
        assert self.last is not None
        return self.last


async def settled(flood: Flood | Http2Flood) -> int:
    """How much the target could send, when for a while it could send no more."""
    sent = -1
    for _ in range(60):
        if sent == flood.sent:
            return sent
        sent = flood.sent
        await asyncio.sleep(0.5)
    raise AssertionError("the target was never stopped")


@pytest.mark.parametrize("kind", [Flood, Http2Flood])
async def test_an_answer_that_the_client_does_not_take(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, kind: type[Flood | Http2Flood]
) -> None:
    """The target is stopped, nobody else is, and it goes on when the client does."""
    rig.engine.stream_idle_timeout = rig.engine.response_timeout = 30
    flood, faces = await rig.add(kind(rig.certificate)), Faces(monkeypatch)
    url = f"https://origin.test:{flood.port}"
    client = await H2Client.connect(rig, url[8:])
    large = client.request(f"{url}/{SIZE}?stream=1")
    face = await faces.hold(large)
    assert await settled(flood) < SIZE // 2
    assert face._queued() < QUEUE_LIMIT + READ_AHEAD
    assert len(client.streams[large].data) == WINDOW

    if kind is Flood:  # a connection of its own, where HTTP/2 shares one
        beside = client.streams[client.request(f"{url}/{WINDOW}?stream=1")]
        await until(lambda: beside.ended, "a sibling is answered")
    other = await rig.curl("--http2", "-o", "/dev/null", f"{url}/{1 << 20}?stream=1")
    assert other.codes == [200], other.err

    client.open_window(large)
    await until(lambda: client.streams[large].ended, "all has arrived", 60)
    assert len(client.streams[large].data) == SIZE
    assert not face.held
    await client.close()


async def test_streams_that_nobody_reads_together(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is for all of a client; a reset or an answer's end gives its connection back."""
    rig.engine.stream_idle_timeout = rig.engine.response_timeout = 30
    flood, faces = await rig.add(Flood(rig.certificate)), Faces(monkeypatch)
    url = f"https://origin.test:{flood.port}"
    client = await H2Client.connect(rig, url[8:])
    large = [client.request(f"{url}/{SIZE}?stream=1") for _ in range(4)]
    face = await faces.hold(*large)
    assert await settled(flood) < len(large) * SIZE // 2
    assert face._queued() < QUEUE_LIMIT + len(large) * READ_AHEAD
    small = []
    for _ in range(8):  # one after the other: the same connection, as long as it is read again
        small.append(client.request(f"{url}/{4 * WINDOW}?stream=1"))
        stream = client.streams[small[-1]]
        await until(lambda stream=stream: len(stream.data) == WINDOW, "what the window takes")
    for stream_id in large:
        client.reset(stream_id)
    await until(lambda: not face.held, "the others are read again")
    for stream_id in small:
        client.open_window(stream_id)
    await until(lambda: all(client.streams[x].ended for x in small), "all is answered", 60)
    assert {len(client.streams[x].data) for x in small} == {4 * WINDOW}
    await client.close()


async def test_an_answer_that_is_never_taken(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is the idle time of a stream; then the stream is reset and the upstream closed."""
    flood, faces = await rig.add(Flood(rig.certificate)), Faces(monkeypatch)
    url = f"https://origin.test:{flood.port}"
    client = await H2Client.connect(rig, url[8:])
    large = client.request(f"{url}/{SIZE}?stream=1")
    face = await faces.hold(large)
    await until(lambda: client.streams[large].reset is not None, "the stream is reset")
    await until(lambda: flood.open == 0, "the upstream connection is closed")
    assert not face.held and face._queued() == 0
    await client.close()
