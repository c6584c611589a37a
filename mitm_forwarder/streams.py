"""One request on its way: mitmproxy's HttpStream, with failover, deadlines and answers of our own.

In the order in which a request meets it: headers, an early answer, upload, connection and failover,
response, and what happens when time runs out or the upstream dies. Loop thread only.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands
from mitmproxy.proxy import events
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http import DropStream
from mitmproxy.proxy.layers.http import HttpStream
from mitmproxy.proxy.layers.http import SendHttp
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._events import RequestData
from mitmproxy.proxy.layers.http._events import RequestEndOfMessage
from mitmproxy.proxy.layers.http._events import RequestHeaders
from mitmproxy.proxy.layers.http._events import RequestProtocolError
from mitmproxy.proxy.layers.http._events import ResponseData
from mitmproxy.proxy.layers.http._events import ResponseEndOfMessage
from mitmproxy.proxy.layers.http._events import ResponseHeaders
from mitmproxy.proxy.layers.http._events import ResponseProtocolError
from mitmproxy.proxy.layers.http._hooks import HttpResponseHook

from . import compat
from .dials import Dial
from .dials import ForwarderFailoverHook
from .dials import reason_of
from .errors import make_response
from .routes import Form
from .routes import Hooks
from .routes import Route
from .routes import engine
from .routes import plan_of
from .socks import unreachable
from .tunnels import wire_host

if TYPE_CHECKING:
    from .layers import ForwarderLayer

logger = logging.getLogger(__name__)
clock = time.monotonic

UNROUTED = "refuse"
"""What becomes of a request without a plan. "stock" is for mitmproxy's own test suite and nothing
else.
"""

QUEUE_LIMIT = 1 << 20
"""Bytes of an upload that may wait for its stream before the client's connection is no longer read.
"""

DISCARD_LIMIT = 1 << 20
"""An answered HTTP/1 upload up to this size is read to its end, so that the connection can be used
again.
"""

DISCARD_SECONDS = 5.0
"""How long the rest of an answered upload may take. Closing at once would make the reset overtake
the answer.
"""


IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@dataclass
class Overdue(HttpEvent):
    """The time that `ForwarderStream.due` named has passed."""


class ForwarderStream(HttpStream):
    top: ForwarderLayer

    uploading = False
    """The client has not finished its request."""
    connected = False
    """context.server is an upstream connection that carries, or has carried, this request."""
    answered = False
    """The client has got its answer from us: whatever else comes, from either side, is dropped."""
    reused = False
    """The connection has carried requests before this one."""
    repeated = False
    """The request has been sent a second time; there is no third."""
    head_due = math.inf
    discard_due = math.inf
    last_seen = math.inf
    """When a piece of a body was last seen, from either side."""
    queued = 0
    holding = False

    # ---- what arrives

    def handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        """A paused stream queues what comes. That queue has no limit in mitmproxy; here the client
        waits.

        A plain function that returns the generator: pieces of a body pay for no extra frame.
        """
        if self._paused is not None:
            if type(event) is RequestData:
                self.queued += len(event.data)
                if self.queued > QUEUE_LIMIT:
                    self.holding = True
                    self.top.hold(self)  # again for each piece: turbo/push.py may have resumed
            elif isinstance(event, events.CommandCompleted):
                return self._resume(event)
            elif isinstance(event, RequestProtocolError):
                self._leave()
        return super().handle_event(event)

    def _leave(self) -> None:
        """The client has gone while a hook runs, maybe ours, in which the request waits for its
        turn. What follows is mitmproxy's: it looks at its queue when the hook is done.
        """
        hooks, flow = engine(), getattr(self, "flow", None)
        if hooks is not None and flow is not None and plan_of(flow) is not None:
            hooks.leave(flow)

    def _resume(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield from super().handle_event(event)
        if self._paused is None:
            self.queued = 0
            if self.holding:
                self.holding = False
                self.top.release(self)

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if self.answered:
            return self._discard(event)
        if isinstance(event, RequestData | ResponseData):
            self.last_seen = clock()
        elif isinstance(event, RequestEndOfMessage):
            self.uploading = False
            if self.connected:
                return self._end_upload(event)
        elif isinstance(event, ResponseHeaders):
            return self._begin_response(event)
        elif isinstance(event, Overdue):
            return self._overdue()
        elif isinstance(event, ResponseProtocolError) and self._may_answer():
            if self._may_repeat():
                return self._repeat()
            return self._fail("upstream_failed", event.message)
        return self._stock_event(event)

    def _stock_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        stock: layer.CommandGenerator[None] = super()._handle_event(event)
        return stock

    # ---- request headers

    def state_wait_for_request_headers(self, event: RequestHeaders) -> layer.CommandGenerator[None]:
        self.uploading = not event.end_stream
        yield from super().state_wait_for_request_headers(event)
        if self.uploading and not self.answered and plan_of(self.flow) is not None:
            self.last_seen = clock()
            yield from self._arm()

    def check_killed(self, emit_error_hook: bool) -> layer.CommandGenerator[bool]:
        """The first thing mitmproxy asks after each hook, hence the place for an answer set in
        `requestheaders`.

        mitmproxy would read the whole upload first, and crash if it is to be streamed.
        """
        if (yield from super().check_killed(emit_error_hook)):
            if not emit_error_hook:
                self._end_unheard()
            if plan_of(self.flow) is not None:
                # mitmproxy tells the client only. On HTTP/2 the upstream would go on sending, and
                # the stream would stay.
                yield from self._cut_upstream("killed")
                yield DropStream(self.stream_id)
            return True
        planned = UNROUTED == "refuse" or plan_of(self.flow) is not None
        at_the_head = self.client_state == self.state_wait_for_request_headers
        if not (self.uploading and planned and at_the_head) or self.answered:
            return False
        if self.flow.response is not None:
            yield from self._answer()
            return True
        if "content-length" not in self.flow.request.headers:
            # Of unknown size (HTTP/2 need not even say that there is a body): not to be kept.
            self.flow.request.stream = True
        return False

    def _end_unheard(self) -> None:
        """A flow that is killed in, or abandoned during, its response hook gets no further hook."""
        hooks = engine()
        if hooks is not None and plan_of(self.flow) is not None:
            hooks.finish(self.flow)

    # ---- the upstream connection

    def make_server_connection(self) -> layer.CommandGenerator[bool]:
        """Every request passes here after all addons' hooks, streamed or not: dial, and dial again
        elsewhere.
        """
        flow = self.flow
        plan, hooks = plan_of(flow), engine()
        if plan is None and UNROUTED == "stock":
            return (yield from super().make_server_connection())
        if plan is None or hooks is None or not plan.routed:
            yield from self._fail("not_planned")
            return False
        while self._may_leave(hooks):
            chosen = flow.server_conn
            assert isinstance(chosen.via, Route)
            route = chosen.via.for_request(flow.request)
            deadline = min(clock() + hooks.connect_timeout, plan.deadline)
            connection, error = None, unreachable(route, flow.request.host)
            if error is None:
                dial = Dial(flow.request, route, deadline, reuse=not self.repeated)
                connection, error = yield dial
                self.reused = not dial.fresh
            if connection is not None:
                self.context.server = flow.server_conn = connection
                self.connected = True
                if not self.uploading:
                    self.head_due = clock() + hooks.response_timeout
                    yield from self._arm()
                return True
            if (yield from self._failover(error)):
                return False
            if flow.response is None and flow.server_conn is chosen:
                yield from self._fail(reason_of(error), error)
                return False
        yield from self._answer()
        return False

    def _may_leave(self, hooks: Hooks) -> bool:
        """May flow.request go to flow.server_conn.via? If not, flow.response says why."""
        flow = self.flow
        if flow.response is not None:
            return False
        if not isinstance(flow.server_conn.via, Route):
            flow.response = self._refusal("not_planned")
            return False
        try:
            wire_host(flow.request.host)
        except UnicodeError:
            flow.response = self._refusal("bad_request", "The target is no host name.")
            return False
        try:
            if hooks.judge(flow):
                return True
        except Exception:
            logger.exception("The engine failed to judge a URL.")
            flow.response = None
        flow.response = flow.response or self._refusal("internal")
        return False

    def _failover(self, error: str) -> layer.CommandGenerator[bool]:
        """Let the engine choose again, or hear that this one failed when there is no time for
        another. True when there is no one left to answer.
        """
        flow = self.flow
        flow.__dict__["_forwarder_error"] = reason_of(error)
        yield ForwarderFailoverHook(flow)
        return (yield from self.check_killed(True))

    def _may_repeat(self) -> bool:
        """May the request be sent again? An idle connection can be closed by the other side at the
        moment in which it is used again; then nobody has seen the request (RFC 9110, 9.2.2).
        """
        request, server = self.flow.request, self.context.server
        return (
            self.reused
            and not self.repeated
            and not server.state & ConnectionState.CAN_READ
            and self.server_state == self.state_wait_for_response_headers
            and self.client_state == self.state_done
            and request.method in IDEMPOTENT
            and not (request.stream or request.raw_content or request.trailers)
            and not self.top.has_received(server)
        )

    def _repeat(self) -> layer.CommandGenerator[None]:
        self.repeated, self.connected = True, False
        if (yield from self.make_server_connection()):
            server = self.context.server
            yield SendHttp(RequestHeaders(self.stream_id, self.flow.request, True), server)
            yield SendHttp(RequestEndOfMessage(self.stream_id), server)

    # ---- upload and response

    def _end_upload(self, event: RequestEndOfMessage) -> layer.CommandGenerator[None]:
        """The clock for the response's head starts when a streamed upload ends."""
        if hooks := engine():
            self.head_due = clock() + hooks.response_timeout
        yield from self._stock_event(event)
        yield from self._arm()

    def _begin_response(self, event: ResponseHeaders) -> layer.CommandGenerator[None]:
        via = self.context.server.via
        if engine() is None and plan_of(self.flow) is not None:
            # The addon is gone (a deleted script, a reload that failed), and with it who records.
            yield from self._cut_upstream("not recorded")
            yield from self._fail("not_recorded")
            return
        if (
            isinstance(via, Route)
            and via.form is Form.ABSOLUTE
            and event.response.status_code == 407
        ):
            # Without a tunnel the proxy's own refusal arrives as "the response". It is none of the
            # client's business.
            yield from self._cut_upstream("credentials refused")
            yield from self._fail("proxy_refused", "The upstream proxy refused its credentials.")
            return
        self.last_seen = clock()
        yield from self._stock_event(event)
        if self.connected:
            yield from self._arm()

    # ---- when time runs out

    def due(self) -> float:
        """When this stream has waited long enough for whoever has to move next; infinity when
        nobody has to.
        """
        if self.answered:
            return self.discard_due
        if not self.connected and not self.uploading:
            return math.inf
        hooks = engine()
        idle_due = self.last_seen + (hooks.stream_idle_timeout if hooks else math.inf)
        if self.server_state == self.state_wait_for_response_headers:
            return idle_due if self.uploading else self.head_due
        if self.server_state in (
            self.state_consume_response_body,
            self.state_stream_response_body,
        ):
            return idle_due
        return math.inf

    def _arm(self) -> layer.CommandGenerator[None]:
        yield from self.top.arm(self.due())

    def _overdue(self) -> layer.CommandGenerator[None]:
        if self.due() > clock():  # it moved while the event was under way
            return
        if self._may_answer():
            yield from self._cut_upstream("deadline")
            yield from self._fail("request_timeout" if self.uploading else "response_timeout")
        else:
            # The client has the head already, so all it can be told is that there is no more.
            self.answered = True
            message = "upstream fell silent"
            yield from self._cut_upstream(message)
            yield from super().handle_protocol_error(
                ResponseProtocolError(self.stream_id, message, compat.CANCEL)
            )

    def _cut_upstream(self, why: str) -> layer.CommandGenerator[None]:
        """Close the HTTP/1 connection, or reset the HTTP/2 stream, that carries this request."""
        if self.connected and self.context.server in self.top.connections:
            yield SendHttp(
                RequestProtocolError(self.stream_id, why, compat.CANCEL), self.context.server
            )

    # ---- answers of our own

    def _may_answer(self) -> bool:
        """True while the client waits for an answer and has not got any of it."""
        return (
            (UNROUTED == "refuse" or plan_of(self.flow) is not None)
            and self.client_state != self.state_errored
            and self.server_state
            in (self.state_wait_for_response_headers, self.state_consume_response_body)
        )

    def _refusal(self, reason: str, detail: str | None = None) -> http.Response:
        plan = plan_of(self.flow)
        via = self.flow.server_conn.via
        return make_response(
            reason,
            plan.id if plan is not None else str(uuid.uuid4()),
            method=self.flow.request.method,
            detail=detail,
            next_hop=via.next_hop if isinstance(via, Route) else None,
        )

    def _fail(self, reason: str, detail: str | None = None) -> layer.CommandGenerator[None]:
        self.flow.response = self._refusal(reason, detail)
        yield from self._answer()

    def _answer(self) -> layer.CommandGenerator[None]:
        """Send flow.response, which never had an upstream; the client may still be uploading."""
        self.answered = True
        yield HttpResponseHook(self.flow)
        if (yield from self.check_killed(False)):
            yield DropStream(self.stream_id)
            return
        response, client = self.flow.response, self.context.client
        assert response is not None  # a hook may have put another one there
        if self.uploading and self._closes_after_answer():
            response.headers["connection"] = "close"
        content = response.raw_content
        yield SendHttp(ResponseHeaders(self.stream_id, response, not content), client)
        if content:
            yield SendHttp(ResponseData(self.stream_id, content), client)
        self.flow.live = False
        if self.uploading:
            self.discard_due = clock() + DISCARD_SECONDS
            yield from self._arm()
        else:
            yield DropStream(self.stream_id)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), client)

    def _is_http1(self) -> bool:
        return not (self.flow.request.is_http2 or self.flow.request.is_http3)

    def _closes_after_answer(self) -> bool:
        """Only a small upload of known size is worth reading to its end; one that was announced may
        never come.
        """
        headers = self.flow.request.headers
        length = headers.get("content-length", "")
        small = length.isdecimal() and int(length) <= DISCARD_LIMIT
        return self._is_http1() and (not small or "expect" in headers)

    def _discard(self, event: events.Event) -> layer.CommandGenerator[None]:
        """After our answer: read and drop until the upload or its time is over."""
        if isinstance(event, RequestEndOfMessage | RequestProtocolError):
            self.uploading = False
            yield DropStream(self.stream_id)
        elif isinstance(event, Overdue) and self.due() <= clock():
            yield DropStream(self.stream_id)
            if self._is_http1():
                yield commands.CloseConnection(self.context.client)
            else:
                yield SendHttp(
                    ResponseProtocolError(self.stream_id, "upload dropped", compat.CANCEL),
                    self.context.client,
                )
