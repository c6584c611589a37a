"""The answer table: complete, and each answer of the one shape that clients rely on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mitm_forwarder import errors

CORE = Path(__file__).parent.parent / "csrc" / "reason.h"

# RFC 9209, section 2.3
PROXY_ERRORS = {
    "destination_unavailable",
    "connection_refused",
    "connection_timeout",
    "connection_limit_reached",
    "http_request_error",
    "http_request_denied",
    "http_response_incomplete",
    "http_response_timeout",
    "http_protocol_error",
    "tls_protocol_error",
    "destination_ip_prohibited",
    "proxy_internal_error",
}


@pytest.mark.parametrize("reason", errors.ANSWERS)
def test_every_answer_is_complete(reason: str) -> None:
    answer = errors.ANSWERS[reason]
    response = errors.make_response(reason, "an-id", next_hop="127.0.0.1:3128")
    assert response.status_code == answer.status
    assert json.loads(response.text or "") == {
        "error": reason,
        "detail": answer.detail,
        "request_id": "an-id",
    }
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(response.content or b""))
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-request-id"] == "an-id"
    assert response.headers["proxy-status"] == (
        f'mitm-forwarder; error={answer.proxy_error}; details="{answer.detail}"'
        '; next-hop="127.0.0.1:3128"'
    )
    assert answer.proxy_error in PROXY_ERRORS
    assert ("www-authenticate" in response.headers) == (answer.status == 401)
    assert ("retry-after" in response.headers) == (answer.status == 503)


def test_every_reason_of_the_core_has_an_answer() -> None:
    reasons = set(re.findall(r"\bX\((\w+), \"", CORE.read_text()))
    assert len(reasons) > 10
    assert reasons <= set(errors.ANSWERS)


def test_statuses_of_the_contract() -> None:
    by_status: dict[int, set[str]] = {}
    for reason, answer in errors.ANSWERS.items():
        by_status.setdefault(answer.status, set()).add(reason)
    assert by_status[401] == {"no_token", "bad_token", "token_refused"}
    assert by_status[403] == {"blacklisted", "target_refused", "target_denied"}
    assert by_status[504] == {"backend_timeout", "connect_timeout", "response_timeout"}
    assert by_status[503] == {
        "overloaded",
        "no_rules",
        "stale_rules",
        "spool_full",
        "not_recorded",
        "shutting_down",
    }


def test_an_unknown_reason_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        errors.make_response("because", "an-id")


def test_head_keeps_the_length_and_loses_the_body() -> None:
    response = errors.make_response("internal", "an-id", method="head")
    assert response.raw_content == b""
    whole = errors.make_response("internal", "an-id")
    assert response.headers["content-length"] == str(len(whole.raw_content or b""))


def test_details_cannot_break_out_of_the_header() -> None:
    detail = 'a "b" \\ c\r\nSet-Cookie: x=ä'
    response = errors.make_response("upstream_failed", "an-id", detail=detail)
    assert json.loads(response.text or "")["detail"] == detail
    assert response.headers["proxy-status"].endswith(r'; details="a \"b\" \\ c??Set-Cookie: x=?"')
    assert "set-cookie" not in response.headers


def test_asking_the_way_proxies_do() -> None:
    response = errors.make_response("no_token", "an-id")
    errors.ask_as_proxy(response)
    assert (response.status_code, response.reason) == (407, "Proxy Authentication Required")
    assert "www-authenticate" not in response.headers
    schemes = [x.split()[0] for x in response.headers.get_all("proxy-authenticate")]
    assert schemes == ["Bearer", "Basic"]
