"""Every answer that the gateway itself gives to a client, in one table.

Source of the rows: the error table of the README; error types are those of RFC 9209. A response
made here is complete (HEAD included) and may be put into `flow.response` as it is. No function here
keeps state; any thread may call them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mitmproxy import http

PRODUCT = "mitm-forwarder"
CHALLENGE = f'Bearer realm="{PRODUCT}"'
PROXY_CHALLENGES = (CHALLENGE, f'Basic realm="{PRODUCT}", charset="UTF-8"')


@dataclass(frozen=True, slots=True)
class Answer:
    """One row: what the client gets for a reason code. `retry_after` is in seconds."""

    status: int
    proxy_error: str
    detail: str
    retry_after: int | None = None


ANSWERS: Mapping[str, Answer] = MappingProxyType(
    {
        # The client, as far as we or the backend know it.
        "no_token": Answer(401, "http_request_denied", "A user token is required."),
        "bad_token": Answer(401, "http_request_denied", "The user token is malformed."),
        "token_refused": Answer(401, "http_request_denied", "The user token was refused."),
        "blacklisted": Answer(403, "http_request_denied", "The URL is blacklisted."),
        "target_refused": Answer(403, "http_request_denied", "The target is not allowed."),
        "target_denied": Answer(
            403, "destination_ip_prohibited", "This address is never a target."
        ),
        "bad_request": Answer(400, "http_request_error", "The request is malformed."),
        "misdirected": Answer(421, "http_request_error", "The request names two targets."),
        "request_timeout": Answer(408, "http_request_error", "The request stopped coming."),
        "headers_too_large": Answer(431, "http_request_error", "The request's head is too large."),
        "request_too_large": Answer(413, "http_request_error", "The request is too large."),
        # The backend.
        "no_proxy": Answer(502, "destination_unavailable", "No working proxy is available."),
        "proxy_not_working": Answer(502, "destination_unavailable", "The proxy is out of order."),
        "bad_answer": Answer(
            502, "proxy_internal_error", "The proxy manager's answer is unusable."
        ),
        "backend_unreachable": Answer(
            502, "proxy_internal_error", "The proxy manager cannot be reached."
        ),
        "backend_error": Answer(502, "proxy_internal_error", "The proxy manager failed."),
        "backend_timeout": Answer(504, "proxy_internal_error", "The proxy manager is too slow."),
        # The upstream proxy and what lies behind it.
        "proxy_unreachable": Answer(
            502, "connection_refused", "The upstream proxy cannot be reached."
        ),
        "proxy_refused": Answer(502, "http_protocol_error", "The upstream proxy refused."),
        "target_tls_failed": Answer(502, "tls_protocol_error", "TLS with the target failed."),
        "upstream_failed": Answer(
            502, "http_response_incomplete", "The upstream connection died before the answer."
        ),
        "connect_timeout": Answer(
            504, "connection_timeout", "No upstream connection was ready in time."
        ),
        "response_timeout": Answer(504, "http_response_timeout", "No answer came in time."),
        # The gateway.
        "overloaded": Answer(503, "connection_limit_reached", "Too many requests at once.", 1),
        "no_rules": Answer(503, "proxy_internal_error", "No rule set has been loaded yet.", 5),
        "stale_rules": Answer(503, "proxy_internal_error", "The rule set is too old.", 30),
        "spool_full": Answer(503, "proxy_internal_error", "The activity log is full.", 30),
        "not_recorded": Answer(503, "proxy_internal_error", "The request cannot be logged.", 5),
        # For the log and the record alone; 499 is nginx's word for it.
        "client_gone": Answer(499, "http_request_error", "The client did not wait."),
        "shutting_down": Answer(503, "proxy_internal_error", "The gateway is shutting down.", 5),
        "not_planned": Answer(502, "proxy_internal_error", "No upstream was chosen."),
        "internal": Answer(502, "proxy_internal_error", "Internal error."),
    }
)


def make_response(
    reason: str,
    request_id: str,
    *,
    method: str = "GET",
    detail: str | None = None,
    next_hop: str | None = None,
) -> http.Response:
    """The answer for a reason code. KeyError for a code that is not in ANSWERS.

    `detail` replaces the table's sentence; `next_hop` is the `host:port` of the upstream proxy,
    when one was involved.
    """
    answer = ANSWERS[reason]
    sentence = detail or answer.detail
    status = f"{PRODUCT}; error={answer.proxy_error}; details={_quoted(sentence)}"
    if next_hop:
        status += f"; next-hop={_quoted(next_hop)}"
    headers = {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "Proxy-Status": status,
        "X-Request-ID": request_id,
    }
    if answer.status == 401:
        headers["WWW-Authenticate"] = CHALLENGE
    if answer.retry_after is not None:
        headers["Retry-After"] = str(answer.retry_after)
    body = json.dumps({"error": reason, "detail": sentence, "request_id": request_id})
    response = http.Response.make(answer.status, body, headers)
    if method.upper() == "HEAD":
        # mitmproxy would send the body and put the client out of step. The length stays: it is that
        # of a GET.
        response.raw_content = b""
    return response


def ask_as_proxy(response: http.Response) -> None:
    """Turn a 401 of ours into a 407, which clients answer with the credentials of their proxy
    setting: the token as the password of Basic.
    """
    response.status_code = 407
    response.reason = "Proxy Authentication Required"
    del response.headers["WWW-Authenticate"]
    response.headers.set_all("Proxy-Authenticate", PROXY_CHALLENGES)


def _quoted(text: str) -> str:
    """A structured-field string (RFC 8941): printable ASCII, quotes and backslashes escaped."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
