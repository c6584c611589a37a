"""Real clients, plain and TLS, with the token in each of the places where it may be."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection

import pytest

from tests.e2e.conftest import Start
from tests.e2e.world import Answer
from tests.e2e.world import World
from tests.e2e.world import error_of
from tests.support.gateway import Gateway

# How the token travels: header for the target, header for the proxy, proxy URL.
CARRIAGES = ["authorization", "proxy-authorization", "password"]

# gateway, token, carriage, URL -> the origin's description of what arrived
Fetch = Callable[[Gateway, str, str, str], str]


def headers_of(token: str, carriage: str) -> dict[str, str]:
    """For the clients that put every header they are given on every request."""
    if carriage == "password":
        return {}
    return {carriage.title(): f"Bearer {token}"}


def proxy_url(gateway: Gateway, token: str, carriage: str) -> str:
    user = f"me:{token}@" if carriage == "password" else ""
    return f"http://{user}127.0.0.1:{gateway.port}"


def by_curl(gateway: Gateway, token: str, carriage: str, url: str) -> str:
    program = shutil.which("curl")
    assert program
    command = [program, "-q", "-sSf", "--cacert", str(gateway.ca_file)]
    command += ["-x", proxy_url(gateway, token, carriage)]
    for name, value in headers_of(token, carriage).items():
        option = "--proxy-header" if name.startswith("Proxy") else "-H"
        command += [option, f"{name}: {value}"]
    done = subprocess.run([*command, url], capture_output=True, text=True, env={}, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_requests(gateway: Gateway, token: str, carriage: str, url: str) -> str:
    requests = pytest.importorskip("requests")
    proxy = proxy_url(gateway, token, carriage)
    with requests.Session() as session:
        session.trust_env = False
        if carriage == "proxy-authorization" and url.startswith("https:"):
            pytest.skip("requests has no way to put a header on CONNECT")
        answer = session.get(
            url,
            proxies={"http": proxy, "https": proxy},
            headers=headers_of(token, carriage),
            verify=str(gateway.ca_file),
            timeout=30,
        )
        answer.raise_for_status()
        text: str = answer.text
        return text


def by_httpx(gateway: Gateway, token: str, carriage: str, url: str) -> str:
    httpx = pytest.importorskip("httpx")
    for_proxy = headers_of(token, carriage) if carriage == "proxy-authorization" else {}
    for_target = headers_of(token, carriage) if carriage == "authorization" else {}
    proxy = httpx.Proxy(proxy_url(gateway, token, carriage), headers=for_proxy)
    context = ssl.create_default_context(cafile=str(gateway.ca_file))
    with httpx.Client(proxy=proxy, verify=context, trust_env=False, timeout=30) as client:
        answer = client.get(url, headers=for_target)
        answer.raise_for_status()
        text: str = answer.text
        return text


def by_aiohttp(gateway: Gateway, token: str, carriage: str, url: str) -> str:
    aiohttp = pytest.importorskip("aiohttp")

    async def fetch() -> str:
        headers = headers_of(token, carriage)
        # For plain http there is one set of headers, since there is one request.
        is_for_proxy = carriage == "proxy-authorization" and url.startswith("https:")
        context = ssl.create_default_context(cafile=str(gateway.ca_file))
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                url,
                proxy=proxy_url(gateway, token, carriage),
                proxy_headers=headers if is_for_proxy else None,
                headers=None if is_for_proxy else headers,
                ssl=context,
            ) as answer,
        ):
            answer.raise_for_status()
            text: str = await answer.text()
            return text

    return asyncio.run(fetch())


NODE = r"""
const http = require("http"), https = require("https"), fs = require("fs");
const [port, ca, forProxy, forTarget, url] = process.argv.slice(1);
const show = (answer) => {
  if (answer.statusCode !== 200) process.exitCode = 1;
  answer.pipe(process.stdout);
};
const {host} = new URL(url);
const [proxyHeaders, headers] = [JSON.parse(forProxy), JSON.parse(forTarget)];
if (url.startsWith("http:")) {
  const all = {Host: host, ...proxyHeaders, ...headers};
  http.get({host: "127.0.0.1", port, path: url, headers: all}, show);
} else {
  const tunnel = {host: "127.0.0.1", port, method: "CONNECT", path: host, headers: proxyHeaders};
  http.request(tunnel).on("connect", (answer, socket) => {
    if (answer.statusCode !== 200) process.exit(2);
    https.get(url, {socket, agent: false, ca: fs.readFileSync(ca), headers}, show);
  }).end();
}
"""


def by_node(gateway: Gateway, token: str, carriage: str, url: str) -> str:
    program = shutil.which("node")
    if program is None:
        pytest.skip("there is no node on this machine")
    if carriage == "password":
        pytest.skip("node's own http module has no proxy URL")
    headers, none = json.dumps(headers_of(token, carriage)), "{}"
    for_both = [headers, none] if carriage == "proxy-authorization" else [none, headers]
    command = [program, "-e", NODE, "--", str(gateway.port), str(gateway.ca_file), *for_both, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


CLIENTS = [by_curl, by_requests, by_httpx, by_aiohttp, by_node]


@pytest.mark.parametrize("carriage", CARRIAGES)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("fetch", CLIENTS, ids=lambda fetch: fetch.__name__[3:])
def test_client(world: World, fetch: Fetch, tls: bool, carriage: str) -> None:
    url = world.url("/client", tls=tls, host="localhost")
    seen = json.loads(fetch(world.gateway, world.token, carriage, url))
    assert seen["scheme"] == ("https" if tls else "http")
    names = {name.lower() for name, _ in seen["headers"]}
    assert not names & {"authorization", "proxy-authorization", "proxy-connection"}
    world.record(url, 200, proxy_id=world.proxy_id)


@pytest.mark.smoke
@pytest.mark.parametrize("carriage", CARRIAGES)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_token_goes_to_the_backend_and_nowhere_else(world: World, tls: bool, carriage: str) -> None:
    token = world.backend.add_user()
    url = world.url("/token", tls=tls)
    by_curl(world.gateway, token, carriage, url)
    (call,) = (c for c in world.backend.calls("/proxy") if c.query["target_url"] == [url])
    assert call.authorization == f"Bearer {token}"
    (request,) = world.origin.requests_of(url[url.index("/token") :])
    assert token not in str(request)


@pytest.mark.parametrize("own", ["Basic dXNlcjpwYXNz", "Bearer of-the-target"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_target_keeps_its_own_authorization(world: World, tls: bool, own: str) -> None:
    """When the user token came by Proxy-Authorization, Authorization is for the target."""
    url = world.url("/own", tls=tls)
    done = world.curl(
        "-H",
        f"Authorization: {own}",
        url,
        proxy=f"http://me:{world.token}@127.0.0.1:{world.gateway.port}",
    )
    seen = {name.lower(): value for name, value in json.loads(done.stdout)["headers"]}
    assert seen["authorization"] == own


def test_other_scheme_in_authorization_is_no_user_token(world: World) -> None:
    answer = world.get(world.url(), token=None, headers={"Authorization": "Basic dXNlcjpwYXNz"})
    assert answer.status == 401


def test_tunnel_keeps_its_token_for_every_request(world: World) -> None:
    connect = {"Proxy-Authorization": f"Bearer {world.token}"}
    with world.client(tls=True, connect_headers=connect) as client:
        for _ in range(3):
            assert client.request("GET", world.url(tls=True)).status == 200


def test_tokens_of_two_users_on_one_connection(world: World) -> None:
    users = [world.backend.add_user_id() for _ in range(2)]
    with world.client() as client:
        for user in [*users, *users]:
            url = world.url("/two-users")
            assert client.request("GET", url, token=world.backend.token(user)).status == 200
            world.record(url, 200, user_id=user, proxy_id=world.proxy_id)


def test_two_users_never_share_a_tunnel(world: World) -> None:
    """On one client connection, and with one proxy for both."""
    users = [world.token, world.backend.token(world.backend.add_user_id())]
    seen = len(world.origin.peers)
    with world.client(tls=True) as client:
        for token in [*users, *users, users[1]]:
            answer = client.request("GET", world.url(tls=True), token=token)
            assert answer.status == 200
    assert len(world.origin.peers) - seen == len(users)


@pytest.mark.smoke
@pytest.mark.parametrize("carriage", CARRIAGES)
def test_http2_client(world: World, carriage: str) -> None:
    token, urls = world.token, [world.url("/h2", tls=True) for _ in range(5)]
    headers = [f"-H{name}: {value}" for name, value in headers_of(token, carriage).items()]
    if carriage == "proxy-authorization":
        headers = ["--proxy-header", headers[0][2:]]
    done = world.curl(
        "--http2",
        "--parallel",
        *headers,
        *(part for url in urls for part in ("-o", "/dev/null", url)),
        "-w",
        "%{http_version} %{http_code}\n",
        proxy=proxy_url(world.gateway, token, carriage),
    )
    assert done.stdout.splitlines() == ["2 200"] * 5, done.stderr
    for url in urls:
        world.record(url, 200, proxy_id=world.proxy_id)


def test_plain_http_inside_connect(world: World) -> None:
    """What some clients do for WebSocket, and curl with -p."""
    url = world.url("/inside")
    done = world.curl("-p", "-H", f"Authorization: Bearer {world.token}", url)
    assert json.loads(done.stdout)["scheme"] == "http"
    world.record(url, 200, proxy_id=world.proxy_id)


# ---- tokens that the gateway adds, keeps or does without


@pytest.mark.parametrize("prefix", ["", "Bearer "])
def test_default_token(start: Start, world: World, prefix: str) -> None:
    gateway = start(env={"DEFAULT_USER_JWT": prefix + world.token})
    url = world.url("/default")
    assert replace(world, gateway=gateway).get(url, token=None).status == 200
    world.record(url, 200, proxy_id=world.proxy_id)
    # A token of the client's own comes first.
    other = world.backend.add_user_id()
    url = world.url("/default")
    assert replace(world, gateway=gateway).get(url, token=world.backend.token(other)).status == 200
    world.record(url, 200, user_id=other, proxy_id=world.proxy_id)


def test_no_token_where_none_is_required(start: Start, world: World) -> None:
    gateway = start(env={"REQUIRE_USER_JWT": "no"})
    world.give(world.proxy.port, proxy_id=5, user_id=None)
    url = world.url("/nobody")
    assert replace(world, gateway=gateway).get(url, token=None).status == 200
    (call,) = (c for c in world.backend.calls("/proxy") if c.query["target_url"] == [url])
    assert call.authorization is None
    world.record(url, 200, user_id=None, proxy_id=5)


def test_forwarded_authorization(start: Start, world: World) -> None:
    gateway = start(env={"FORWARD_AUTHORIZATION": "true"})
    answer: Answer = replace(world, gateway=gateway).get(world.url("/forwarded"))
    assert dict(answer.json()["headers"])["Authorization"] == f"Bearer {world.token}"


def test_challenge_of_a_proxy(start: Start, world: World) -> None:
    """AUTH_CHALLENGE=407 asks browsers the standard way: at CONNECT for https."""
    gateway = start(env={"AUTH_CHALLENGE": "407"})
    here = replace(world, gateway=gateway)
    answer = here.get(world.url("/challenge"), token=None)
    assert answer.status == 407
    schemes = [value.partition(" ")[0] for value in answer.headers["proxy-authenticate"]]
    assert "Basic" in schemes  # the one that browsers know
    assert answer.header("www-authenticate") is None
    refused = here.curl(world.url("/challenge", tls=True))
    assert "407" in refused.stderr
    proxy = f"http://me:{world.token}@127.0.0.1:{gateway.port}"
    for tls in (False, True):
        done = here.curl("--proxy-anyauth", world.url("/challenge", tls=tls), proxy=proxy)
        assert done.returncode == 0, done.stderr


def test_no_challenge_of_a_proxy_inside_a_tunnel(start: Start, world: World) -> None:
    """There 407 would be the target's word, which no client can follow: it is 401."""
    gateway = start(env={"AUTH_CHALLENGE": "407"})
    here = replace(world, gateway=gateway)
    for tls in (False, True):
        url = world.url("/challenge", tls=tls)
        shown = ["-p", "-w", "%{http_connect} %{http_code}", "-o", "/dev/null"]
        proxy = f"http://me:a-token-of-nobody@127.0.0.1:{gateway.port}"
        done = here.curl(*shown, url, proxy=proxy)
        assert done.stdout == "200 401", done.stderr
    connect = {"Proxy-Authorization": "Bearer a-token-of-nobody"}
    with here.client(tls=True, connect_headers=connect) as client:
        for _ in range(2):
            answer = client.request("GET", world.url(tls=True))
            assert (answer.status, error_of(answer)) == (401, "token_refused")
    with here.client() as client:  # not in a tunnel, before and after
        for _ in range(2):
            assert client.request("GET", world.url()).status == 407


def test_a_client_that_knows_no_proxy_gets_no_challenge_of_one(start: Start, world: World) -> None:
    target = f"reverse:http://127.0.0.1:{world.origin.http_port}"
    gateway = start(env={"AUTH_CHALLENGE": "407"}, options=["--mode", target])
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    with closing(connection):
        connection.request("GET", "/challenge")
        assert connection.getresponse().status == 401
