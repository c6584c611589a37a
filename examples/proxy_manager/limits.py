"""A bound on request bodies: FastAPI reads them before it looks at any token."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.types import ASGIApp
from starlette.types import Message
from starlette.types import Receive
from starlette.types import Scope
from starlette.types import Send

MAX_BODY_BYTES = 1024 * 1024


class BodyLimit:
    """ASGI middleware: more than MAX_BODY_BYTES ends in 413, whatever Content-Length says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what arrives."""
        received = 0

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                # FastAPI lets an HTTPException out of its body reading and answers with it.
                raise HTTPException(413, f"The body has more than {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, counting_receive if scope["type"] == "http" else receive, send)
