"""HTTP/2 from end to end, as gRPC needs it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from mitm_forwarder import layers
from mitm_forwarder.http2 import RoutedHttp2Client
from tests.forwarding.peers import CHUNK
from tests.forwarding.peers import Listener
from tests.forwarding.rig import Rig

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
