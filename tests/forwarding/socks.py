"""A scripted SOCKS proxy for the rig: versions 4, 4a and 5, every name is loopback."""

from __future__ import annotations

import asyncio
import socket
import struct

from tests.forwarding.peers import Proxy


class SocksProxy(Proxy):
    """`mood` says how it fails: "well", "in pieces" (a byte at a time), "refuses", "garbage",
    "mute", "dying", "wants password", "wrong password", "strange reply".
    """

    def __init__(self, mood: str = "well") -> None:
        super().__init__(None, mood)
        self.targets: list[tuple[str, int]] = []
        """Host and port of each request, as they came."""
        self.users: list[str | None] = []
        self.offers: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mood == "mute":
            await reader.read()
            return
        version = (await reader.readexactly(1))[0]
        if self.mood == "dying":
            return
        if self.mood == "garbage":
            await self._say(writer, b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read()
            return
        if version == 4:
            await self._serve4(reader, writer)
        else:
            await self._serve5(reader, writer)

    async def _say(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        size = 1 if self.mood == "in pieces" else len(data)
        for i in range(0, len(data), size):
            writer.write(data[i : i + size])
            await writer.drain()
            await asyncio.sleep(0.001)

    async def _serve4(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command, port, address = struct.unpack("!BH4s", await reader.readexactly(7))
        assert command == 1
        user = (await reader.readuntil(b"\0"))[:-1].decode()
        host = socket.inet_ntoa(address)
        if host.startswith("0.0.0."):
            host = (await reader.readuntil(b"\0"))[:-1].decode()
        self.users.append(user or None)
        self.targets.append((host, port))
        if self.mood == "refuses":
            await self._say(writer, b"\0\x5b" + bytes(6))
            return
        await self._go(reader, writer, port, b"\0\x5a" + bytes(6))

    async def _serve5(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        offered = await reader.readexactly((await reader.readexactly(1))[0])
        self.offers.append(offered)
        wants = self.mood in ("wants password", "wrong password") or offered[0] == 2
        user = None
        if wants and 2 not in offered:
            await self._say(writer, b"\5\xff")
            return
        await self._say(writer, b"\5\2" if wants else b"\5\0")
        if wants:
            assert await reader.readexactly(1) == b"\1"
            user = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            secret = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            user = f"{user}:{secret}"
            refused = self.mood == "wrong password"
            await self._say(writer, b"\1\1" if refused else b"\1\0")
            if refused:
                return
        self.users.append(user)
        head = await reader.readexactly(4)
        assert head[:3] == b"\5\1\0"
        if head[3] == 1:
            host = socket.inet_ntoa(await reader.readexactly(4))
        elif head[3] == 4:
            host = socket.inet_ntop(socket.AF_INET6, await reader.readexactly(16))
        else:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        self.targets.append((host, port))
        if self.mood == "refuses":
            await self._say(writer, b"\5\5\0\1" + bytes(6))
        elif self.mood == "strange reply":
            await self._say(writer, b"\5\0\0\7" + bytes(6))
        else:
            bound = b"\3\4name" if self.mood == "in pieces" else b"\1" + bytes(4)
            await self._go(reader, writer, port, b"\5\0\0" + bound + bytes(2))

    async def _go(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, answer: bytes
    ) -> None:
        inner = await asyncio.open_connection("127.0.0.1", port)
        self.opened.append(inner[1].get_extra_info("sockname")[1])
        try:
            await self._say(writer, answer)
            await self._relay(reader, writer, *inner, plain=False)
        finally:
            inner[1].close()
