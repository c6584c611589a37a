"""As much of HTTP/1.1 as a forward proxy needs: heads, and bodies and tunnels passed on."""

from __future__ import annotations

from asyncio import IncompleteReadError
from asyncio import LimitOverrunError
from asyncio import StreamReader
from asyncio import StreamWriter
from dataclasses import dataclass

HEAD_LIMIT = 64 * 1024
CHUNK = 64 * 1024
# RFC 9110 section 7.6.1: these concern one connection only and are not passed on.
HOP_BY_HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization"}
HOP_BY_HOP |= {"proxy-connection", "te", "trailer", "upgrade"}
DIGITS = frozenset("0123456789")
HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")


class Malformed(Exception):
    """What arrived is not HTTP/1, or its length is not clear."""


@dataclass
class Head:
    """The start line and the headers of a message."""

    start: str
    headers: list[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        """All values of a header; the name in lower case."""
        return [value for key, value in self.headers if key.lower() == name]

    def tokens(self, name: str) -> set[str]:
        """The members of a comma-separated header, in lower case."""
        return {part.strip().lower() for value in self.values(name) for part in value.split(",")}

    def next_hop(self, start: str, extra: dict[str, str]) -> bytes:
        """The head to pass on: without hop-by-hop headers, `extra` added or replaced."""
        dropped = HOP_BY_HOP | self.tokens("connection") | {name.lower() for name in extra}
        kept = [(name, value) for name, value in self.headers if name.lower() not in dropped]
        lines = [start, *(f"{name}: {value}" for name, value in [*kept, *extra.items()]), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def is_chunked(self) -> bool:
        """Whether the body is chunked; no other coding is understood."""
        codings = [value.lower() for value in self.values("transfer-encoding")]
        # With a Content-Length too, two readers may see two different ends: request smuggling.
        if codings and (codings != ["chunked"] or self.values("content-length")):
            raise Malformed("unclear message length")
        return bool(codings)

    def content_length(self) -> int | None:
        """The value of Content-Length; None if there is none."""
        lengths = set(self.values("content-length"))
        if not lengths:
            return None
        text = lengths.pop()
        if lengths or not text or not DIGITS.issuperset(text):
            raise Malformed("bad Content-Length")
        return int(text)

    def is_framed(self) -> bool:
        """Whether the head tells where the body ends."""
        return self.is_chunked() or self.content_length() is not None


async def read_head(reader: StreamReader) -> Head | None:
    """The next message's head; None if the connection ended before it."""
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except IncompleteReadError as error:
        if error.partial:
            raise Malformed("incomplete head") from None
        return None
    except LimitOverrunError:
        raise Malformed("head too large") from None
    start, *lines = data.decode("latin-1")[:-4].split("\r\n")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or {"\r", "\n", "\0"} & set(line):
            raise Malformed("malformed header")
        headers.append((name, value.strip(" \t")))
    return Head(start, headers)


async def copy_body(reader: StreamReader, writer: StreamWriter, head: Head) -> None:
    """Pass a body on; one without framing until the sender closes."""
    length = head.content_length()
    if head.is_chunked():
        await _copy_chunks(reader, writer)
    elif length is not None:
        await _copy_exactly(reader, writer, length)
    else:
        await _copy_until_end(reader, writer)


async def pump(reader: StreamReader, writer: StreamWriter) -> None:
    """One direction of a tunnel. An end is passed on as an end, an error closes."""
    try:
        await _copy_until_end(reader, writer)
        writer.write_eof()
    except OSError:
        writer.close()


async def _copy_until_end(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()


async def _copy_exactly(reader: StreamReader, writer: StreamWriter, count: int) -> None:
    while count:
        data = await reader.read(min(CHUNK, count))
        if not data:
            raise Malformed("the body ended early")
        writer.write(data)
        await writer.drain()
        count -= len(data)


async def _copy_chunks(reader: StreamReader, writer: StreamWriter) -> None:
    size = -1
    while size != 0:
        line = await _read_line(reader)
        digits = line.partition(b";")[0].strip()
        if not digits or not HEX_DIGITS.issuperset(digits):
            raise Malformed("bad chunk size")
        size = int(digits, 16)
        writer.write(line)
        # The line end behind a chunk's data goes with it; behind the last chunk come trailers.
        await _copy_exactly(reader, writer, size + 2 if size else 0)
    while (line := await _read_line(reader)) != b"\r\n":
        writer.write(line)
    writer.write(line)
    await writer.drain()


async def _read_line(reader: StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n")
    except (IncompleteReadError, LimitOverrunError):
        raise Malformed("the body ended early") from None
