"""Routes, and what they make of a request's head."""

from __future__ import annotations

import copy
import pickle

import pytest
from mitmproxy import connection
from mitmproxy import http
from mitmproxy.test import tflow
from mitmproxy.test import tutils

from mitm_forwarder.routes import Form
from mitm_forwarder.routes import Route
from mitm_forwarder.tunnels import rewrite_head
from mitm_forwarder.tunnels import wire_host

ROUTE = Route("http", "proxy.test", 3128, "user", "pass", 7)


def test_mitmproxy_unpacks_a_pair() -> None:
    scheme, address = ROUTE
    assert (scheme, address) == ("http", ("proxy.test", 3128))
    assert Route("https", "proxy.test", 443)[0] == "https"


@pytest.mark.parametrize(
    "other",
    [
        Route("https", "proxy.test", 3128, "user", "pass", 7),
        Route("http", "proxy.test", 3129, "user", "pass", 7),
        Route("http", "proxy.test", 3128, "other", "pass", 7),
        Route("http", "proxy.test", 3128, "user", "other", 7),
        Route("http", "proxy.test", 3128, "user", "pass", 8),
        Route("http", "proxy.test", 3128, "user", "pass", 7, user=1),
        Route("http", "proxy.test", 3128, "user", "pass", 7, form=Form.ABSOLUTE),
        ("http", ("proxy.test", 3128)),
    ],
)
def test_no_connection_is_shared_across_routes(other: tuple[object, ...]) -> None:
    assert ROUTE != other
    assert other != ROUTE


def test_equal_routes_share() -> None:
    twin = Route("http", "proxy.test", 3128, "user", "pass", 7)
    assert ROUTE == twin
    assert hash(ROUTE) == hash(twin)


def test_no_copy_holds_a_credential() -> None:
    flow = tflow.tflow()
    flow.server_conn = connection.Server(address=("a.test", 80), via=ROUTE)
    copies = [
        copy.copy(ROUTE),
        copy.deepcopy(ROUTE),
        pickle.loads(pickle.dumps(ROUTE)),
        flow.copy().server_conn.via,
    ]
    for via in copies:
        assert type(via) is tuple
        assert via == tuple(ROUTE)
    for text in (repr(ROUTE), repr(flow.server_conn), repr(flow.get_state())):
        assert "pass" not in text


def test_next_hop() -> None:
    assert ROUTE.next_hop == "proxy.test:3128"
    assert Route("http", "::1", 3128).next_hop == "[::1]:3128"


def test_authorization() -> None:
    assert ROUTE.authorization() == "Basic dXNlcjpwYXNz"
    assert Route("http", "a", 1).authorization() is None
    assert Route("http", "a", 1, "ü").authorization() == "Basic w7w6"


def request(
    url: str, version: str = "HTTP/1.1", stream: bool = False, **headers: str
) -> http.Request:
    made = http.Request.make(
        "POST", url, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    made.http_version = version
    made.stream = stream
    return made


@pytest.mark.parametrize(
    ("made", "form"),
    [
        (request("http://a.test/"), Form.ABSOLUTE),
        (request("http://a.test/", upgrade="h2c"), Form.ABSOLUTE),
        (request("http://a.test/", upgrade="WebSocket"), Form.TUNNEL),
        (request("https://a.test/"), Form.TUNNEL),
        (request("https://a.test/", stream=True), Form.TUNNEL),
        (request("https://a.test/", "HTTP/2.0"), Form.TUNNEL),
        (request("https://a.test/", "HTTP/2.0", stream=True), Form.TUNNEL_HTTP1),
        (request("https://a.test/", "HTTP/2.0", stream=True, te="trailers"), Form.TUNNEL),
        (
            request(
                "https://a.test/", "HTTP/2.0", stream=True, content_type="application/grpc+proto"
            ),
            Form.TUNNEL,
        ),
    ],
)
def test_form_that_fits_the_request(made: http.Request, form: Form) -> None:
    route = ROUTE.for_request(made)
    assert route.form is form
    assert (route.kind, route.username, route.password, route.proxy_id) == (
        "http",
        "user",
        "pass",
        7,
    )
    assert route.address == ROUTE.address


HEAD = b"GET http://left.over/x HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.mark.parametrize(
    ("host", "port", "path", "target"),
    [
        ("a.test", 80, b"/b?c", b"http://a.test/b?c"),
        ("a.test", 8080, b"/", b"http://a.test:8080/"),
        ("::1", 80, b"/", b"http://[::1]/"),
        ("b\u00fccher.test", 80, b"/", b"http://xn--bcher-kva.test/"),
        ("a.test", 80, b"*", b"http://a.test"),
        ("a.test", 80, b"/with space", b"http://a.test/with space"),
    ],
)
def test_absolute_form(host: str, port: int, path: bytes, target: bytes) -> None:
    made = tutils.treq(host=host, port=port, path=path)
    route = Route("http", "proxy.test", 3128, "user", "pass", form=Form.ABSOLUTE)
    assert rewrite_head(HEAD, made, route) == (
        b"GET " + target + b" HTTP/1.1\r\n"
        b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\nHost: a.test\r\n\r\n"
    )


def test_origin_form_in_a_tunnel() -> None:
    """No credential of the proxy, and no absolute-form, ever reaches a target."""
    made = tutils.treq(host="a.test", path=b"/x")
    assert rewrite_head(HEAD, made, ROUTE) == b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test", "[::1]:\u00fc"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(UnicodeError):
        wire_host(host)
