"""The evasions that need a whole gateway: what the request line, Host and the tunnel name. Those of
the URL alone are in tests/test_url_forms.py.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.e2e.world import World

RULE = r"^https?://([^/]*\.)?evasive\.test(:\d+)?/"

REQUESTS = {
    "13": ("GET http://good.test\\@evasive.test/", "Host: good.test", 400),
    "14": ("GET http://good.test\\.evasive.test/", "Host: good.test", 400),
    "16": ("GET http://evasive\x00.test/", "Host: evasive.test", 400),
    "38": ("GET http://evasive.test/38", "Host: good.test", 403),
    "39": ("GET http://good.test/39", "Host: evasive.test", 403),
    "45": ("GET http://good.test/", "Host: good.test\r\nHost: evasive.test", 400),
    "56a": ("GET evasive.test:80", "Host: evasive.test", 400),
    "61": ("GET HTTP://EVASIVE.test/61", "Host: evasive.test", 403),
    "62": ("GET http:///evasive.test", "Host: evasive.test", 400),
    "63": ("GET ftp://evasive.test/", "Host: evasive.test", 400),
    "71": ("GET http://good.test/a#b", "Host: good.test", 400),
    "73": (
        "GET http://evasive.test/73",
        "Host: evasive.test\r\nX-Forwarded-Host: good.test\r\nX-Original-URL: /",
        403,
    ),
}


@pytest.fixture(scope="module")
def ruled(session_world: World) -> Iterator[World]:
    session_world.backend.clear_faults()
    with session_world.rule(RULE):
        yield session_world


def head_of_answer(port: int, request: bytes) -> bytes:
    """Without closing our half first, which the gateway takes for a client that has gone."""
    with closing(socket.create_connection(("127.0.0.1", port), 10)) as sock:
        sock.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer and (data := sock.recv(65536)):
            answer += data
        return answer


@pytest.mark.parametrize(("line", "headers", "status"), REQUESTS.values(), ids=REQUESTS.keys())
def test_evasion(ruled: World, line: str, headers: str, status: int) -> None:
    """Nothing of it reaches an upstream proxy, and the client is told why."""
    calls = len(ruled.backend.calls("/proxy"))
    token = f"Proxy-Authorization: Bearer {ruled.token}"
    request = f"{line} HTTP/1.1\r\n{headers}\r\n{token}\r\n\r\n"
    answer = head_of_answer(ruled.gateway.port, request.encode("latin-1"))
    # Older versions of mitmproxy read no scheme in capitals.
    allowed = (status, 400) if line.startswith("GET HTTP:") else (status,)
    assert int(answer.split(maxsplit=2)[1]) in allowed, answer[:300]
    assert len(ruled.backend.calls("/proxy")) == calls
