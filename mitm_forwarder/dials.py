"""A dial: the wish for an upstream connection, why it failed, and the question that follows.

Loop thread only.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import cast

from mitmproxy import http
from mitmproxy.net import server_spec
from mitmproxy.proxy import commands
from mitmproxy.proxy.layers.http import GetHttpConnection

from .errors import make_response
from .routes import Route
from .routes import engine
from .routes import plan_of

logger = logging.getLogger(__name__)


@dataclass
class ForwarderFailoverHook(commands.StartHook):
    """`forwarder_failover(flow)`: a dial has failed, the engine may name another route. Awaited."""

    flow: http.HTTPFlow


class DialError(str):
    """Why there is no upstream connection, in words, with the reason code that goes with it."""

    reason: str

    def __new__(cls, reason: str, text: str) -> DialError:
        self = super().__new__(cls, text)
        self.reason = reason
        return self


class Dial(GetHttpConnection):
    """The wish for an upstream connection by a deadline.

    mitmproxy compares these commands by value, so that one stream can take another's off the
    waiting list. Not ours.
    """

    fresh = False
    """It had to be waited for: no other request has used the connection before."""

    def __init__(
        self, request: http.Request, route: Route, deadline: float, *, reuse: bool = True
    ) -> None:
        via = cast(server_spec.ServerSpec, route)
        super().__init__((request.host, request.port), request.scheme == "https", via, "tcp")
        self.deadline = deadline
        self.reuse = reuse

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def reason_of(error: str) -> str:
    """The reason code; an error without one comes from a connection that mitmproxy gave up."""
    return error.reason if isinstance(error, DialError) else "proxy_refused"


async def failover(flow: http.HTTPFlow) -> None:
    """For the forwarder_failover hook: ask the engine. Never raises; what goes wrong becomes an
    answer.
    """
    hooks, plan = engine(), plan_of(flow)
    reason = flow.__dict__.pop("_forwarder_error", None)
    if hooks is None or plan is None or reason is None:
        return
    try:
        pending = hooks.retry(flow, reason)
        if pending is not None:
            await pending
    except (Exception, asyncio.CancelledError):
        # An exception that leaves a hook is lost, a cancellation even leaves the stream waiting for
        # ever.
        logger.exception("The engine failed to choose another route.")
        flow.response = make_response("internal", plan.id, method=flow.request.method)
