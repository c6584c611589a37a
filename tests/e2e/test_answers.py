"""Every row of the error table: the answer, a connection that lives on, and the one record."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import pytest

from tests.e2e.conftest import REFRESH
from tests.e2e.world import World
from tests.e2e.world import error_of
from tests.e2e.world import raw
from tests.support import proxies
from tests.support.backend import Backend
from tests.support.backend import wait_until
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.proxies import ExampleProxy
from tests.support.proxies import ScriptedProxy

HTTP_AND_HTTPS = pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])


@pytest.fixture(scope="module")
def impatient_gateway(
    parts: tuple[Backend, Origin, ExampleProxy],
    confdir: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """One with short timeouts."""
    backend, origin, _ = parts
    with Gateway(
        tmp_path_factory.mktemp("impatient") / "impatient-gateway",
        backend.url,
        backend.system_token,
        confdir=confdir,
        options=["--set", f"ssl_verify_upstream_trusted_ca={origin.ca_file}"],
        env={**REFRESH, "HTTPX_TIMEOUT": "1.5", "CONNECT_TIMEOUT": "0.7", "PROXY_RETRIES": "0"},
    ) as gateway:
        yield gateway


@pytest.fixture
def impatient(world: World, impatient_gateway: Gateway) -> World:
    """The shared installation seen through it."""
    return replace(world, gateway=impatient_gateway)


def check_error(
    world: World,
    url: str,
    status: int,
    reason: str,
    *,
    then_works: bool = True,
    headers: dict[str, str] | None = None,
    token: str | None = "",
    **record: Any,
) -> None:
    """The answer, its record, and that the same connection still serves a request."""
    token = world.token if token == "" else token
    with world.client(tls=url.startswith("https:")) as client:
        answer = client.request("GET", url, token=token, headers=headers)
        assert (answer.status, error_of(answer)) == (status, reason), answer
        if then_works:
            world.backend.clear_faults()
            after = client.request(
                "GET", world.url("/after", tls=url.startswith("https:")), token=world.token
            )
            assert after.status == 200, after
    world.record(url, status, request_id=answer.header("x-request-id"), **record)


# ---- the client's token


@pytest.mark.smoke
@HTTP_AND_HTTPS
def test_no_token(world: World, tls: bool) -> None:
    url = world.url(tls=tls)
    check_error(world, url, 401, "no_token", token=None, user_id=None)
    assert world.proxy_calls(url) == 0


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer two words", "bearer \t\x7f"])
def test_malformed_token(world: World, value: str) -> None:
    url = world.url()
    headers = {"Authorization": value}
    check_error(world, url, 401, "bad_token", token=None, headers=headers, user_id=None)
    assert world.proxy_calls(url) == 0


@pytest.mark.smoke
@HTTP_AND_HTTPS
def test_token_that_the_backend_refuses(world: World, tls: bool) -> None:
    """Nor is a claim of a token that was never accepted reported as somebody's id."""
    header, claims, signature = world.token.split(".")
    forged = f"{header}.{claims}.{signature[::-1]}"
    url = world.url(tls=tls)
    check_error(world, url, 401, "token_refused", token=forged, user_id=None)
    assert world.proxy_calls(url) == 1


# ---- what the backend says


@dataclass
class Case:
    """An answer of /proxy, and what becomes of it. Statuses 200, 403 and 404 accept the token."""

    name: str
    fault: dict[str, Any]
    status: int
    reason: str
    user_known: bool = False


def proxy_answer(**changes: Any) -> dict[str, Any]:
    good = {"id": 42, "ip": "127.0.0.1", "port": 9, "address": "127.0.0.1:9"}
    body: dict[str, Any] = good | {"protocol": "http", "is_working": True} | changes
    return {"status": 200, "body": {k: v for k, v in body.items() if v is not ...}}


CASES = [
    Case("forbidden", {"status": 403}, 403, "target_refused", user_known=True),
    Case("none", {"status": 404}, 502, "no_proxy", user_known=True),
    Case("broken-proxy", proxy_answer(is_working=False), 502, "proxy_not_working", user_known=True),
    Case("500", {"status": 500}, 502, "backend_error"),
    Case("503", {"status": 503, "headers": {"Retry-After": "9"}}, 502, "backend_error"),
    Case("429", {"status": 429}, 502, "backend_error"),
    Case("redirect", {"status": 302, "headers": {"Location": "/health"}}, 502, "backend_error"),
    Case("empty", {"status": 200, "body": ""}, 502, "bad_answer", user_known=True),
    Case("garbage", {"status": 200, "body": "<html>"}, 502, "bad_answer", user_known=True),
    Case("list", {"status": 200, "body": []}, 502, "bad_answer", user_known=True),
    Case("no-fields", {"status": 200, "body": {}}, 502, "bad_answer", user_known=True),
    Case(
        "half",
        {"status": 200, "body": '{"id": 1, "ip": "127.0.0.1"'},
        502,
        "bad_answer",
        user_known=True,
    ),
    Case(
        "twice",
        {"status": 200, "body": '{"port": 1, "port": 2}'},
        502,
        "bad_answer",
        user_known=True,
    ),
    Case("huge", {"status": 200, "body": " " * (4 << 20) + "{}"}, 502, "bad_answer"),
    Case("deep", {"status": 200, "body": "[" * 50_000}, 502, "bad_answer", user_known=True),
    Case("port-0", proxy_answer(port=0, address="127.0.0.1:0"), 502, "bad_answer", user_known=True),
    Case("port-high", proxy_answer(port=65536), 502, "bad_answer", user_known=True),
    Case("port-text", proxy_answer(port="80; rm"), 502, "bad_answer", user_known=True),
    Case("no-host", proxy_answer(ip="", address=""), 502, "bad_answer", user_known=True),
    Case("odd-host", proxy_answer(ip="a..b", address="a..b:9"), 502, "bad_answer", user_known=True),
    Case("injection", proxy_answer(ip="127.0.0.1\r\nX: y"), 502, "bad_answer", user_known=True),
    Case("protocol", proxy_answer(protocol="ftp"), 502, "bad_answer", user_known=True),
    Case("cut-off", {"truncate": True}, 502, "backend_unreachable"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_backend_answers(world: World, case: Case) -> None:
    # With a token of its own: what is known about its user is known from this answer alone.
    user_id = world.backend.add_user_id()
    token = world.backend.token(user_id)
    world.backend.fault("/proxy", **case.fault)
    url = world.url()
    with world.client() as client:
        answer = client.request("GET", url, token=token)
        assert (answer.status, error_of(answer)) == (case.status, case.reason)
        world.backend.clear_faults()
        assert client.request("GET", world.url(), token=world.token).status == 200
    known = user_id if case.user_known else None
    world.record(url, case.status, user_id=known, request_id=answer.header("x-request-id"))
    assert world.proxy_calls(url) == 1


@pytest.mark.smoke
def test_backend_is_down(start: Callable[..., Gateway], world: World) -> None:
    """While there is a rule set, and while there is none; the records wait for its return."""
    with Backend() as backend:
        gateway = start(backend_url=backend.url, system_token=backend.system_token)
        here = replace(world, gateway=gateway, backend=backend)
        url = here.url()
        backend.stop()
        with here.client() as client:
            answer = client.request("GET", url, token=world.token)
            assert (answer.status, error_of(answer)) == (502, "backend_unreachable")
        fresh_url = here.url()
        fresh = start(
            backend_url=backend.url, system_token=backend.system_token, wait_for_rules=False
        )
        fresh.wait_for_log("Blacklist refresh failed")
        answer = replace(here, gateway=fresh).get(fresh_url)
        assert (answer.status, error_of(answer)) == (503, "no_rules")
        backend.start()
        here.record(url, 502, user_id=None)
        here.record(fresh_url, 503, user_id=None)


def test_no_rules_yet(start: Callable[..., Gateway], world: World) -> None:
    """Nothing is let through before a list was seen, and everything from then on."""
    world.backend.fault("/blacklist", status=500)
    gateway = start(wait_for_rules=False)
    gateway.wait_for_log("Blacklist refresh failed: .*500")
    here = replace(world, gateway=gateway)
    url = here.url()
    check_error(here, url, 503, "no_rules", then_works=False, user_id=None)
    assert here.proxy_calls(url) == 0
    world.backend.clear_faults()
    gateway.wait_for_log("Refreshed blacklist cache")
    assert here.get(here.url()).status == 200


def test_rule_set_grows_too_old(start: Callable[..., Gateway], world: World) -> None:
    gateway = start(env={"BLACKLIST_MAX_STALE_SECONDS": "1"})
    here = replace(world, gateway=gateway)
    world.backend.fault("/blacklist", status=500)

    def is_stale() -> bool:
        return here.get(here.url()).status == 503

    wait_until(is_stale, 15, "the rule set to be too old")
    url = here.url()
    check_error(here, url, 503, "stale_rules", then_works=False)


def test_backend_is_slow(impatient: World) -> None:
    impatient.backend.fault("/proxy", delay=20)
    token = impatient.backend.add_user()
    check_error(impatient, impatient.url(), 504, "backend_timeout", token=token, user_id=None)


def test_backend_is_silent(start: Callable[..., Gateway], world: World) -> None:
    with Backend() as backend:
        gateway = start(
            backend_url=backend.url, system_token=backend.system_token, env={"HTTPX_TIMEOUT": "1"}
        )
        here = replace(world, gateway=gateway, backend=backend)
        url = here.url()
        backend.freeze()
        answer = here.get(url)
        assert (answer.status, error_of(answer)) == (504, "backend_timeout")
        backend.thaw()
        here.record(url, 504, user_id=None)


# ---- the blacklist

BLOCKED_SPELLINGS = [
    "http://{name}.test/",
    "http://{NAME}.TEST/",
    "http://{name}.test./",
    "http://{name}.test:80/",
    "http://{name}.test:8080/",
    "http://www.{name}.test/",
]


@pytest.fixture(scope="module")
def blocked_name(session_world: World) -> Iterator[str]:
    """A name that a rule blocks, in force in the session's gateway."""
    name = "blocked-in-answers"
    with session_world.rule(rf"^https?://([^/]*\.)?{name}\.test(:\d+)?/"):
        yield name


@pytest.mark.smoke
@pytest.mark.parametrize("spelling", BLOCKED_SPELLINGS)
def test_blacklisted(world: World, blocked_name: str, spelling: str) -> None:
    before = len(world.backend.calls("/proxy"))
    url = spelling.format(name=blocked_name, NAME=blocked_name.upper()) + world.url()[-35:]
    assert world.get(world.url()).status == 200  # the backend has accepted the token
    with world.client() as client:
        answer = client.request("GET", url, token=world.token)
        assert (answer.status, error_of(answer)) == (403, "blacklisted"), answer
        assert "rule" in answer.json()["detail"]
        assert client.request("GET", world.url(), token=world.token).status == 200
    request_id = answer.header("x-request-id")

    def reported() -> list[Any] | None:
        rows = world.backend.activity()
        return [row for row in rows if row["idempotency_key"] == request_id] or None

    (row,) = wait_until(reported, 15, "the record")
    assert (row["status_code"], row["user_id"], row["proxy_id"]) == (403, world.user_id, None)
    assert len(world.backend.calls("/proxy")) == before + 2  # none of them for this one


@pytest.mark.smoke
def test_blacklisted_inside_tls(world: World, blocked_name: str) -> None:
    host = f"{blocked_name}.test"
    url = f"https://{host}/{world.url()[-32:]}"
    user_id = world.backend.add_user_id()
    with world.tunnel(host, 443) as client:
        answer = client.request("GET", url, token=world.backend.token(user_id))
    assert (answer.status, error_of(answer)) == (403, "blacklisted")
    # Nobody has accepted this token: whose it claims to be is not recorded.
    world.record(url, 403, user_id=None, request_id=answer.header("x-request-id"))


def test_unblocked_host_by_another_name(world: World, blocked_name: str) -> None:
    """Three places name the target; the blacklist holds for each of them."""
    blocked = f"{blocked_name}.test"
    with world.client() as client:
        answer = client.request("GET", world.url(), token=world.token, headers={"Host": blocked})
        assert (answer.status, error_of(answer)) == (403, "blacklisted"), answer
    with world.client(tls=True) as client:
        url = world.url(tls=True)
        answer = client.request("GET", url, token=world.token, headers={"Host": blocked})
        assert (answer.status, error_of(answer)) == (403, "blacklisted"), answer


def test_a_host_that_is_not_the_target(world: World) -> None:
    """In plain sight a bad request; inside a tunnel a connection that is not for this host."""
    seen = len(world.origin.requests)
    other = {"Host": "other.test"}
    with world.client() as client:
        answer = client.request("GET", world.url(), token=world.token, headers=other)
    assert (answer.status, error_of(answer)) == (400, "bad_request")
    with world.client(tls=True) as client:
        answer = client.request("GET", world.url(tls=True), token=world.token, headers=other)
        assert (answer.status, error_of(answer)) == (421, "misdirected")
    for version in ("--http1.1", "--http2"):
        token = f"Authorization: Bearer {world.token}"
        done = world.curl(
            version,
            "-H",
            token,
            "-H",
            "Host: other.test",
            "-w",
            "%{http_code}",
            world.url(tls=True),
        )
        assert done.stdout.endswith("421"), done.stdout
    assert len(world.origin.requests) == seen


# ---- the upstream proxy


@pytest.mark.smoke
@HTTP_AND_HTTPS
def test_dead_proxy(world: World, tls: bool) -> None:
    with proxies.reserved_port() as port:
        proxy_id = world.give(port)
        url = world.url(tls=tls)
        answer = world.get(url)
        assert (answer.status, error_of(answer)) == (502, "proxy_unreachable"), answer
        assert f'next-hop="127.0.0.1:{port}"' in str(answer.header("proxy-status"))
        world.record(url, 502, proxy_id=proxy_id, request_id=answer.header("x-request-id"))
        assert world.proxy_calls(url) == 3  # the same proxy again counts as a try


@HTTP_AND_HTTPS
def test_dead_proxy_and_the_next_one(world: World, tls: bool) -> None:
    with proxies.reserved_port() as port:
        body = {"id": 77, "ip": "127.0.0.1", "port": port, "protocol": "http", "is_working": True}
        world.backend.fault("/proxy", status=200, body=body, times=1)
        url = world.url(tls=tls)
        assert world.get(url).status == 200
        world.record(url, 200, proxy_id=world.proxy_id)
        assert world.proxy_calls(url) == 2


def test_connection_outlives_a_dead_proxy(world: World) -> None:
    with proxies.reserved_port() as port:
        world.give(port)
        check_error(world, world.url(), 502, "proxy_unreachable", proxy_id=9001)
        world.give(port)
        check_error(world, world.url(tls=True), 502, "proxy_unreachable", proxy_id=9001)


def check_scripted(
    world: World,
    behaviour: proxies.Behaviour,
    tls: bool,
    status: int,
    reason: str | None,
) -> ScriptedProxy:
    with ExitStack() as stack:
        proxy = stack.enter_context(ScriptedProxy(behaviour))
        proxy_id = world.give(proxy.port)
        url = world.url(tls=tls)
        answer = world.get(url)
        assert answer.status == status, answer
        if reason is not None:
            assert error_of(answer) == reason
        world.record(url, status, proxy_id=proxy_id)
        assert proxy.connections >= 1
    return proxy


FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
CREDENTIALS = b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"

MISBEHAVIOUR = [
    ("closes", proxies.closes, "upstream_failed", "proxy_refused"),
    ("resets", proxies.resets, "upstream_failed", "proxy_refused"),
    ("407", proxies.says(CREDENTIALS), "proxy_refused", "proxy_refused"),
    ("garbage", proxies.says(b"SSH-2.0-OpenSSH_9\r\n\r\n"), "upstream_failed", "proxy_refused"),
    ("nothing", proxies.says(b""), "upstream_failed", "proxy_refused"),
]


@pytest.mark.parametrize(
    "behaviour, over_http, over_https",
    [case[1:] for case in MISBEHAVIOUR],
    ids=[case[0] for case in MISBEHAVIOUR],
)
@HTTP_AND_HTTPS
def test_proxy_misbehaves(
    world: World, behaviour: proxies.Behaviour, over_http: str, over_https: str, tls: bool
) -> None:
    check_scripted(world, behaviour, tls, 502, over_https if tls else over_http)


def test_proxy_refuses_to_connect(world: World) -> None:
    proxy = check_scripted(world, proxies.says(FORBIDDEN), True, 502, "proxy_refused")
    assert b"CONNECT 127.0.0.1:" in proxy.all_received()


def test_proxys_own_refusal_of_a_plain_request(world: World) -> None:
    """It cannot be told from the target's."""
    check_scripted(world, proxies.says(FORBIDDEN), False, 403, None)


def test_request_that_has_left_is_not_sent_again(world: World) -> None:
    with ScriptedProxy(proxies.resets) as proxy:
        world.give(proxy.port)
        url = world.url()
        answer = world.get(url, method="POST", body=b"once")
        assert (answer.status, error_of(answer)) == (502, "upstream_failed")
        world.record(url, 502, method="POST", proxy_id=9001)
        assert world.proxy_calls(url) == 1
        assert proxy.connections == 1


@HTTP_AND_HTTPS
def test_silent_proxy(impatient: World, tls: bool) -> None:
    reason = "connect_timeout" if tls else "response_timeout"
    check_scripted(impatient, proxies.is_silent, tls, 504, reason)


@pytest.mark.parametrize("user, status", [("me:secret", 200), ("me:wrong", 502)])
@HTTP_AND_HTTPS
def test_proxy_credentials(world: World, user: str, status: int, tls: bool) -> None:
    name, _, password = user.partition(":")
    with ExampleProxy(user="me:secret") as proxy:
        world.openers.append(proxy)
        proxy_id = world.give(proxy.port, username=name, password=password)
        url = world.url(tls=tls)
        answer = world.get(url)
        assert answer.status == status, answer
        if status == 502:
            assert error_of(answer) == "proxy_refused"
        world.record(url, status, proxy_id=proxy_id)


# ---- the target


def test_target_hangs_up(world: World) -> None:
    url = world.url("/hangs-up", tls=True)
    answer = world.get(url)
    assert (answer.status, error_of(answer)) == (502, "upstream_failed")
    world.record(url, 502, proxy_id=world.proxy_id)


def test_target_is_slow(impatient: World) -> None:
    for tls in (False, True):
        url = impatient.url("/gate/never", tls=tls)
        answer = impatient.get(url)
        assert (answer.status, error_of(answer)) == (504, "response_timeout")
        impatient.record(url, 504, proxy_id=impatient.proxy_id)


def test_target_is_unreachable(world: World) -> None:
    with proxies.reserved_port() as port:
        url = f"https://127.0.0.1:{port}/{world.url()[-32:]}"
        with world.tunnel("127.0.0.1", port) as client:
            answer = client.request("GET", url, token=world.token)
        assert (answer.status, error_of(answer)) == (502, "proxy_refused")
        world.record(url, 502, proxy_id=world.proxy_id)


def test_certificate_that_nobody_trusts(world: World) -> None:
    """The origin's CA is known, but another origin's is not."""
    with Origin() as other:
        url = other.url(f"/{world.url()[-32:]}", tls=True)
        with world.tunnel("127.0.0.1", other.https_port) as client:
            answer = client.request("GET", url, token=world.token)
        assert (answer.status, error_of(answer)) == (502, "target_tls_failed"), answer
        world.record(url, 502, proxy_id=world.proxy_id)
        assert other.strangers(world.openers) == []


def test_malformed_targets(world: World) -> None:
    """Whatever cannot be read without doubt goes nowhere."""
    seen = len(world.origin.requests)
    token = f"Authorization: Bearer {world.token}\r\n".encode()
    for target in (b"http://a..b/", b"http://127.0.0.1:99999/", b"http:///x", b"http://[::1/"):
        answer = raw(
            world.gateway, b"GET " + target + b" HTTP/1.1\r\nHost: x.test\r\n" + token + b"\r\n"
        )
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 502")), answer
    assert len(world.origin.requests) == seen


def test_head_of_an_error(world: World) -> None:
    """No body, or the client would be out of step; the length is that of GET's."""
    url = world.url()
    with world.client() as client:
        answer = client.request("HEAD", url)
        assert answer.status == 401
        assert answer.body == b""
        assert int(answer.header("content-length") or 0) > 20
        assert client.request("GET", world.url(), token=world.token).status == 200
    world.record(url, 401, method="HEAD", user_id=None)


def test_error_to_an_upload(world: World) -> None:
    url = world.url()
    with world.client() as client:
        answer = client.request("POST", url, body=b"x" * 1000)
        assert (answer.status, error_of(answer)) == (401, "no_token")
        assert client.request("GET", world.url(), token=world.token).status == 200
    world.record(url, 401, method="POST", user_id=None)


def test_error_to_a_large_upload(world: World) -> None:
    """The answer comes, although the client had wanted to send on."""
    done = world.curl("-o", "/dev/stdout", "-T", "/dev/zero", "-w", "%{http_code}", world.url())
    assert done.stdout.endswith("401"), done.stderr
