"""An HTTP/2 client, frame by frame, inside a CONNECT of the gateway's."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

import h2.config
import h2.connection
import h2.events

from tests.forwarding.peers import CHUNK
from tests.forwarding.rig import PATIENCE
from tests.forwarding.rig import Rig
from tests.forwarding.rig import until

WINDOW = 65535
"""What a stream may send before the client opens its window, unless told otherwise."""


class Stream:
    """What has come for one request."""

    def __init__(self) -> None:
        self.status = 0
        self.data = bytearray()
        self.ended = False
        self.reset: int | None = None

    def take(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.status = int(dict(event.headers)[b":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.data += event.data
        elif isinstance(event, h2.events.StreamEnded):
            self.ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.reset = int(event.error_code)


class H2Client:
    """It reads all the time, and opens the window of the whole connection, but no stream's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.wire = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.wire.initiate_connection()
        self.wire.increment_flow_control_window(1 << 30)
        self.streams: dict[int, Stream] = {}
        self.flush()
        self.task = asyncio.ensure_future(self._read())

    @classmethod
    async def connect(cls, rig: Rig, authority: str) -> H2Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert head.split()[1] == b"200"
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        await writer.start_tls(context, server_hostname=authority.partition(":")[0])
        client = cls(reader, writer)
        window = WINDOW  # before the gateway has opened it
        await until(lambda: client.wire.outbound_flow_control_window > window, "its windows")
        return client

    async def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self.reader.read(CHUNK):
                for event in self.wire.receive_data(data):
                    stream = self.streams.get(getattr(event, "stream_id", None) or 0)
                    if stream is not None:
                        stream.take(event)
                self.flush()

    def flush(self) -> None:
        self.writer.write(self.wire.data_to_send())

    def request(self, url: str, method: str = "GET", length: int = 0) -> int:
        _, _, authority, path = url.split("/", 3)
        stream_id = self.wire.get_next_available_stream_id()
        self.streams[stream_id] = Stream()
        head = [
            (":method", method),
            (":scheme", "https"),
            (":authority", authority),
            (":path", f"/{path}"),
        ]
        if length:
            head.append(("content-length", str(length)))
        self.wire.send_headers(stream_id, head, end_stream=not length)
        self.flush()
        return stream_id

    def open_window(self, stream_id: int, size: int = 1 << 30) -> None:
        self.wire.increment_flow_control_window(size, stream_id)
        self.flush()

    async def send(self, stream_id: int, data: bytes) -> None:
        """A part of an upload, as soon as the gateway takes it."""
        while data:
            room = min(
                self.wire.local_flow_control_window(stream_id), self.wire.max_outbound_frame_size
            )
            assert room > 0, "the gateway's windows are as large as any of our uploads"
            self.wire.send_data(stream_id, data[:room])
            data = data[room:]
        self.flush()
        await self.writer.drain()

    def end(self, stream_id: int) -> None:
        self.wire.end_stream(stream_id)
        self.flush()

    def reset(self, stream_id: int) -> None:
        self.wire.reset_stream(stream_id)
        self.flush()

    async def close(self) -> None:
        self.task.cancel()
        self.writer.transport.abort()
        await asyncio.gather(self.task, return_exceptions=True)
