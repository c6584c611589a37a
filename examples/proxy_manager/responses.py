"""The answers beside success, as the OpenAPI document names them."""

from __future__ import annotations

from typing import Any

from examples.proxy_manager.schemas import Error
from examples.proxy_manager.schemas import Invalid

Responses = dict[int | str, dict[str, Any]]


def _header(description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": description, "schema": schema or {"type": "string"}}


CACHE_CONTROL = _header("How long the answer may be used again")
ETAG = _header("The version of the list, for If-None-Match")

UNAUTHORIZED: Responses = {
    401: {
        "model": Error,
        "description": "No token, or one that is not valid",
        "headers": {"WWW-Authenticate": _header("The Bearer challenge (RFC 6750)")},
    }
}
UNAVAILABLE: Responses = {
    503: {
        "model": Error,
        "description": "The database is busy; try again",
        "headers": {"Retry-After": _header("Seconds to wait", {"type": "integer"})},
    }
}
NOT_FOUND: Responses = {404: {"model": Error, "description": "No such thing"}}
CONFLICT: Responses = {409: {"model": Error, "description": "Conflicts with what is stored"}}
TOO_LARGE: Responses = {413: {"model": Error, "description": "The body is too large"}}
INVALID: Responses = {422: {"model": Invalid, "description": "Parameters or body are not valid"}}
ADMIN: Responses = {**UNAUTHORIZED, **INVALID, **UNAVAILABLE}
