"""All parts of an installation around one gateway, and what the tests ask of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from typing import Self
from urllib.parse import urlsplit

from tests.support.backend import Backend
from tests.support.backend import wait_until
from tests.support.gateway import REFRESHED
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.proxies import ExampleProxy
from tests.support.proxies import Opener

CLIENT_TIMEOUT = 30.0
RECORD_TIMEOUT = 15.0
RECORD_FIELDS = {
    "user_id": int,
    "endpoint": str,
    "method": str,
    "status_code": int,
    "target_url": str,
    "proxy_id": int,
    "timestamp": float,
}
"""The body of POST /activity, exactly; the two ids may be null."""


@dataclass
class Answer:
    """A response as a client saw it; header names in lower case."""

    status: int
    headers: dict[str, list[str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The one value; an AssertionError when the header came twice."""
        values = self.headers.get(name.lower(), [])
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def error_of(answer: Answer) -> str:
    """The reason code of an error answer, after a look at all that such an answer must have."""
    assert answer.header("content-type") == "application/json", answer
    error = answer.json()
    assert set(error) == {"error", "detail", "request_id"}
    assert answer.header("x-request-id") == error["request_id"]
    assert str(uuid.UUID(error["request_id"])) == error["request_id"]
    status = answer.header("proxy-status")
    assert status and re.match(r'mitm-forwarder; error=[a-z_]+; details="', status), status
    assert error["detail"]
    assert (answer.header("retry-after") is not None) == (answer.status == 503)
    assert (answer.header("www-authenticate") is not None) == (answer.status == 401)
    code: str = error["error"]
    return code


class Client:
    """One connection to the gateway; with `tunnel` through CONNECT and TLS to that target."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        tunnel: tuple[str, int] | None = None,
        connect_headers: dict[str, str] | None = None,
        timeout: float = CLIENT_TIMEOUT,
    ) -> None:
        self._absolute = tunnel is None
        if tunnel is None:
            self._http = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=timeout)
        else:
            context = ssl.create_default_context(cafile=str(gateway.ca_file))
            self._http = http.client.HTTPSConnection(
                "127.0.0.1", gateway.port, timeout=timeout, context=context
            )
            self._http.set_tunnel(*tunnel, headers=connect_headers or {})
        # Or a lost connection would be replaced silently.
        self._http.connect()
        self._http.auto_open = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    @property
    def socket(self) -> socket.socket:
        """For tests that go on by hand."""
        sock = self._http.sock
        assert sock is not None
        return sock

    def send(
        self, method: str, url: str, headers: dict[str, str], body: Any = None, **options: Any
    ) -> http.client.HTTPResponse:
        """The response as soon as its head is here."""
        parts = urlsplit(url)
        path = url if self._absolute else f"{parts.path}?{parts.query}".rstrip("?")
        if not self._absolute:
            headers = {"Host": parts.netloc, **headers}
        self._http.request(method, path, body, headers, **options)
        return self._http.getresponse()

    def request(
        self,
        method: str,
        url: str,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        body: Any = None,
        **options: Any,
    ) -> Answer:
        """The whole answer; the connection stays. `token` goes into Authorization."""
        all_headers = {"Authorization": f"Bearer {token}"} if token else {}
        response = self.send(method, url, all_headers | (headers or {}), body, **options)
        received: dict[str, list[str]] = {}
        for name, value in response.getheaders():
            received.setdefault(name.lower(), []).append(value)
        return Answer(response.status, received, response.read())


@dataclass
class World:
    """Backend, origin, an upstream proxy and a gateway, all of which know of each other."""

    backend: Backend
    origin: Origin
    proxy: ExampleProxy
    gateway: Gateway
    proxy_id: int
    user_id: int
    token: str
    openers: list[Opener]
    """Whoever may connect to the origin."""

    @classmethod
    def make(cls, backend: Backend, origin: Origin, proxy: ExampleProxy, gateway: Gateway) -> Self:
        """Tells the backend of the proxy and of a user."""
        proxy_id = backend.add_proxy("127.0.0.1", proxy.port)
        user_id = backend.add_user_id()
        token = backend.token(user_id)
        return cls(backend, origin, proxy, gateway, proxy_id, user_id, token, [proxy])

    def url(self, path: str = "/echo", *, tls: bool = False, host: str = "127.0.0.1") -> str:
        """A URL of the origin that no other request has."""
        mark = "&" if "?" in path else "?"
        return self.origin.url(f"{path}{mark}n={uuid.uuid4().hex}", tls=tls, host=host)

    def client(self, *, tls: bool = False, host: str = "127.0.0.1", **options: Any) -> Client:
        """A connection to the gateway; with `tls` inside a CONNECT to the origin."""
        tunnel = (host, self.origin.https_port) if tls else None
        return Client(self.gateway, tunnel=tunnel, **options)

    def tunnel(self, host: str, port: int) -> Client:
        """A connection to the gateway that goes through CONNECT and TLS to any target."""
        return Client(self.gateway, tunnel=(host, port))

    def get(self, url: str, **options: Any) -> Answer:
        """A request on a connection of its own, with the user's token unless `token` says else."""
        options.setdefault("token", self.token)
        method = options.pop("method", "GET")
        with self.client(tls=url.startswith("https:"), host=_host(url)) as client:
            return client.request(method, url, **options)

    def curl(self, *args: str, proxy: str | None = None) -> subprocess.CompletedProcess[str]:
        """A run of curl_command."""
        command = self.curl_command(*args, proxy=proxy)
        return subprocess.run(command, capture_output=True, text=True, env={}, timeout=60)

    def curl_command(self, *args: str, proxy: str | None = None) -> list[str]:
        """curl through the gateway, trusting its CA and no configuration of this machine."""
        program = shutil.which("curl")
        assert program
        command = [program, "-q", "-sS", "--max-time", "30", "--cacert", str(self.gateway.ca_file)]
        return [*command, "-x", proxy or f"http://127.0.0.1:{self.gateway.port}", *args]

    # -- what must have happened -----------------------------------------------------------

    def give(self, port: int, *, proxy_id: int = 9001, **fields: Any) -> int:
        """From now on the backend answers every /proxy with this upstream proxy."""
        body = {"id": proxy_id, "ip": "127.0.0.1", "port": port, "address": f"127.0.0.1:{port}"}
        body |= {"protocol": "http", "is_working": True, "user_id": self.user_id, **fields}
        self.backend.fault("/proxy", status=200, body=body)
        return proxy_id

    def proxy_calls(self, url: str) -> int:
        """How often the backend was asked for this URL."""
        return sum(call.query.get("target_url") == [url] for call in self.backend.calls("/proxy"))

    def records(self, url: str) -> list[dict[str, Any]]:
        """What the backend has stored about this URL."""
        return [row for row in self.backend.activity() if row["target_url"] == url]

    def record(
        self,
        url: str,
        status: int,
        *,
        method: str = "GET",
        user_id: Any = ...,
        proxy_id: int | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """The one record of a URL, field by field, as it was posted."""

        def posted() -> list[Any] | None:
            calls = self.backend.calls("/activity")
            return [c for c in calls if c.json().get("target_url") == url] or None

        call = wait_until(posted, RECORD_TIMEOUT, f"the record of {url}")[0]
        body = call.json()
        assert set(body) == set(RECORD_FIELDS)
        for name, kind in RECORD_FIELDS.items():
            nullable = name in ("user_id", "proxy_id")
            assert type(body[name]) is kind or (nullable and body[name] is None), (name, body)
        expected = {
            "user_id": self.user_id if user_id is ... else user_id,
            "endpoint": url,
            "method": method,
            "status_code": status,
            "target_url": url,
            "proxy_id": proxy_id,
            "timestamp": body["timestamp"],
        }
        assert body == expected
        assert abs(body["timestamp"] - call.time) < 120
        (key,) = call.headers["idempotency-key"]
        assert str(uuid.UUID(key)) == key
        if request_id is not None:
            assert key == request_id
        assert call.headers["content-type"] == ["application/json"]
        assert call.authorization == f"Bearer {self.backend.system_token}"
        return {**body, "key": key}

    @contextlib.contextmanager
    def rule(self, pattern: str) -> Iterator[int]:
        """A rule that is in force in the block, and in force no more after it."""
        mark = len(self.gateway.log())
        rule = self.backend.add_rule(pattern)
        self.gateway.wait_for_log(REFRESHED, after=mark)
        try:
            yield rule
        finally:
            mark = len(self.gateway.log())
            self.backend.delete_rule(rule)
            self.gateway.wait_for_log(REFRESHED, after=mark)

    def wait_for_arrival(self, name: str) -> None:
        """Returns when a request of /gate/NAME is at the origin."""
        wait_until(lambda: name in self.origin.arrivals, RECORD_TIMEOUT, f"/gate/{name}")

    def settle(self) -> None:
        """Returns when every record so far has reached the backend: none comes later."""
        url = self.url("/fence")
        assert self.get(url).status == 200
        self.record(url, 200, proxy_id=self.proxy_id)

    def no_strangers(self) -> None:
        """Every connection that the origin has ever seen came through an upstream proxy."""
        assert self.origin.strangers(self.openers) == []

    def one_record_each(self) -> None:
        """No URL (all are unique, but for clients that ask again after a 407) came twice."""
        self.settle()
        seen = Counter((row["target_url"], row["status_code"]) for row in self.backend.activity())
        assert {what: count for what, count in seen.items() if count > 1} == {}


def _host(url: str) -> str:
    host = urlsplit(url).hostname
    assert host
    return host


def raw(gateway: Gateway, request: bytes, *, timeout: float = CLIENT_TIMEOUT) -> bytes:
    """Bytes to the gateway as they are, and all that comes back until it closes."""
    with closing(socket.create_connection(("127.0.0.1", gateway.port), timeout)) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        return answer
