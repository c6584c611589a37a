"""The example backend, and the helper with which other tests run it."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the example backend needs the demo extra")

import httpx
import jwt
from fastapi.testclient import TestClient

from examples.proxy_manager import cli
from examples.proxy_manager.database import Database
from examples.proxy_manager.factory import create_app
from examples.proxy_manager.routes.blacklist import etag_matches
from examples.proxy_manager.security import issue_token
from examples.proxy_manager.settings import Settings
from examples.proxy_manager.settings import SettingsError
from examples.proxy_manager.settings import load_settings
from tests.support.backend import ROOT
from tests.support.backend import Backend
from tests.support.backend import BackendError

SYSTEM_TOKEN = "system-token-of-the-tests"
# Long enough for HS512 too, so that a flawed token can differ in the algorithm alone.
JWT_SECRET = "jwt-secret-of-the-tests-0123456789" * 2
ADMIN = {"Authorization": f"Bearer {SYSTEM_TOKEN}"}
RECORD = {
    "user_id": 7,
    "endpoint": "https://example.com/path",
    "method": "GET",
    "status_code": 200,
    "target_url": "https://example.com/path",
    "proxy_id": 42,
    "timestamp": 1690000000.0,
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    # A short wait for the database's lock, so that the tests of a busy database are short too.
    url = f"sqlite:///{tmp_path / 'manager.db'}?timeout=0.2"
    return Settings(system_token=SYSTEM_TOKEN, jwt_secret=JWT_SECRET, database_url=url)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture
def database_file(tmp_path: Path) -> Path:
    return tmp_path / "manager.db"


def add_user(client: TestClient, name: str = "alice") -> dict[str, str]:
    """A new user's headers."""
    user_id = client.post("/users", json={"name": name}, headers=ADMIN).json()["id"]
    answer = client.post("/token", json={"user_id": user_id}, headers=ADMIN)
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def add_proxy(client: TestClient, port: int, **fields: Any) -> int:
    answer = client.post("/proxies", json={"ip": "1.2.3.4", "port": port, **fields}, headers=ADMIN)
    assert answer.status_code == 201, answer.text
    proxy_id: int = answer.json()["id"]
    return proxy_id


def add_rule(client: TestClient, pattern: str) -> int:
    answer = client.post("/blacklist", json={"pattern": pattern}, headers=ADMIN)
    assert answer.status_code == 201, answer.text
    rule_id: int = answer.json()["id"]
    return rule_id


# -- settings -----------------------------------------------------------------------------


GOOD = {"SYSTEM_TOKEN": SYSTEM_TOKEN, "JWT_SECRET": JWT_SECRET}


def test_settings_have_defaults_and_hide_secrets() -> None:
    settings = load_settings(GOOD)
    assert (settings.token_ttl_seconds, settings.proxy_lease_seconds) == (3600, 0)
    assert SYSTEM_TOKEN not in repr(settings) and JWT_SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SYSTEM_TOKEN", ""),
        ("SYSTEM_TOKEN", "two words"),
        ("SYSTEM_TOKEN", "gefährlich"),
        ("JWT_SECRET", ""),
        ("JWT_SECRET", "too-short"),
        ("DATABASE_URL", "no url"),
        ("DATABASE_URL", "postgresql://localhost/x"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("DATABASE_URL", "sqlite:////nonexistent/manager.db"),
        ("TOKEN_TTL_SECONDS", "0"),
        ("TOKEN_TTL_SECONDS", "an hour"),
        ("PROXY_LEASE_SECONDS", "-1"),
        ("PROXY_LEASE_SECONDS", "99999999999"),
    ],
)
def test_bad_setting_is_one_line_that_names_it(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({**GOOD, name: value})
    text = str(caught.value)
    assert text.startswith(name) and "\n" not in text
    assert not value or name not in ("SYSTEM_TOKEN", "JWT_SECRET") or value not in text


@pytest.mark.parametrize(
    "command",
    [["examples.proxy_manager"], ["uvicorn", "examples.proxy_manager.app:app"]],
    ids=["module", "uvicorn"],
)
def test_server_with_bad_settings_ends_with_one_line(command: list[str]) -> None:
    environ = {k: v for k, v in os.environ.items() if k not in ("SYSTEM_TOKEN", "JWT_SECRET")}
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "proxy manager: SYSTEM_TOKEN is missing: set it to the token the gateway sends"
    ]


# -- GET /proxy ---------------------------------------------------------------------------


def test_proxy_answer_is_the_contracts(client: TestClient) -> None:
    user = add_user(client)
    proxy_id = add_proxy(client, 8080)
    answer = client.get("/proxy", headers=user)
    assert answer.status_code == 200
    assert answer.json() == {
        "id": proxy_id,
        "ip": "1.2.3.4",
        "port": 8080,
        "address": "1.2.3.4:8080",
        "protocol": "http",
        "is_working": True,
        "user_id": 1,
    }
    assert answer.headers["cache-control"] == "no-store"


def test_proxy_answer_carries_credentials_and_ipv6(client: TestClient) -> None:
    user = add_user(client)
    add_proxy(client, 1080, ip="2001:DB8::1", protocol="socks5h", username="u", password="p:w")
    answer = client.get("/proxy", headers=user).json()
    assert (answer["ip"], answer["address"]) == ("2001:db8::1", "[2001:db8::1]:1080")
    assert (answer["protocol"], answer["username"], answer["password"]) == ("socks5h", "u", "p:w")


def test_token_may_come_without_the_word_bearer(client: TestClient) -> None:
    token = add_user(client)["Authorization"].removeprefix("Bearer ")
    add_proxy(client, 8080)
    assert client.get("/proxy", headers={"Authorization": token}).status_code == 200
    assert client.get("/proxy", headers={"Authorization": f"bearer {token}"}).status_code == 200


def forged(**changes: Any) -> str:
    """A token like those of `issue_token`, but for the changes; None leaves a claim out."""
    now = int(time.time())
    claims: dict[str, Any] = {"iss": "proxy-manager", "sub": "1", "iat": now, "exp": now + 60}
    key = changes.pop("key", JWT_SECRET)
    algorithm = changes.pop("algorithm", "HS256")
    claims.update(changes)
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm)


def test_forged_token_without_a_flaw_is_accepted(client: TestClient) -> None:
    """What the next test changes is the only thing wrong there."""
    add_user(client)
    add_proxy(client, 8080)
    headers = {"Authorization": f"Bearer {forged()}"}
    assert client.get("/proxy", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "another-secret-of-thirty-two-bytes"},
        {"algorithm": "HS512"},
        {"algorithm": "HS384"},
        {"algorithm": "none", "key": None},
        {"iss": "somebody-else"},
        {"iss": None},
        {"exp": 1},
        {"exp": None},
        {"iat": None},
        {"iat": 2**33},
        {"sub": None},
        {"sub": "alice"},
        {"sub": "99"},
        {"sub": "9" * 30},
        {"sub": "\N{ARABIC-INDIC DIGIT ONE}"},
    ],
    ids=str,
)
def test_flawed_token_is_401(client: TestClient, changes: dict[str, Any]) -> None:
    add_user(client)
    add_proxy(client, 8080)
    answer = client.get("/proxy", headers={"Authorization": f"Bearer {forged(**changes)}"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].endswith('error="invalid_token"')


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer ", "Basic dTpw", "Bearer x y", "Bearer \xff"]
)
def test_missing_or_malformed_authorization_is_401(client: TestClient, value: str | None) -> None:
    headers = [] if value is None else [(b"Authorization", value.encode("latin-1"))]
    for path in ("/proxy", "/blacklist"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].startswith('Bearer realm="')
        assert set(answer.json()) == {"detail"}


def test_inactive_and_deleted_users_are_401(client: TestClient) -> None:
    add_proxy(client, 8080)
    alice, bob = add_user(client, "alice"), add_user(client, "bob")
    for user in (alice, bob):
        assert client.get("/proxy", headers=user).status_code == 200
    client.patch("/users/1", json={"is_active": False}, headers=ADMIN)
    client.delete("/users/2", headers=ADMIN)
    for user in (alice, bob):
        assert client.get("/proxy", headers=user).status_code == 401
    # A new user does not get the id, and so the tokens, of the deleted one.
    assert client.post("/users", json={"name": "carol"}, headers=ADMIN).json()["id"] == 3


def test_system_token_is_no_user_token_and_vice_versa(client: TestClient) -> None:
    user = add_user(client)
    add_proxy(client, 8080)
    assert client.get("/proxy", headers=ADMIN).status_code == 401
    assert client.get("/blacklist", headers=user).status_code == 401
    assert client.post("/activity", headers=user, json=RECORD).status_code == 401
    wrong = {"Authorization": f"Bearer {SYSTEM_TOKEN[:-1]}"}
    assert client.get("/blacklist", headers=wrong).status_code == 401


def test_working_proxies_take_turns(client: TestClient) -> None:
    user = add_user(client)
    ids = [add_proxy(client, port) for port in (1, 2, 3)]
    assert client.get("/proxy", headers=user).json()["id"] == ids[0]
    assert [client.get("/proxy", headers=user).json()["id"] for _ in range(5)] == [
        ids[1],
        ids[2],
        ids[0],
        ids[1],
        ids[2],
    ]
    client.patch(f"/proxies/{ids[0]}", json={"is_working": False}, headers=ADMIN)
    assert [client.get("/proxy", headers=user).json()["id"] for _ in range(3)] == [
        ids[1],
        ids[2],
        ids[1],
    ]


def test_no_working_proxy_is_404(client: TestClient) -> None:
    user = add_user(client)
    assert client.get("/proxy", headers=user).status_code == 404
    add_proxy(client, 8080, is_working=False)
    answer = client.get("/proxy", headers=user)
    assert (answer.status_code, answer.json()) == (404, {"detail": "No working proxy is available"})


def test_blacklisted_target_is_403_and_takes_no_turn(client: TestClient) -> None:
    user = add_user(client)
    first = add_proxy(client, 1)
    add_proxy(client, 2)
    rule_id = add_rule(client, r"^.*facebook\.com.*$")

    def ask(url: str) -> Any:
        return client.get("/proxy", params={"target_url": url}, headers=user)

    refused = ask("https://www.facebook.com/x?y=z")
    assert refused.status_code == 403
    assert refused.json() == {"detail": f"The target URL is blacklisted by rule {rule_id}"}
    assert ask("https://example.com/").json()["id"] == first
    client.patch(f"/blacklist/{rule_id}", json={"pattern": r"example\.com"}, headers=ADMIN)
    assert ask("https://www.facebook.com/").status_code == 200
    assert ask("https://example.com/").status_code == 403
    client.delete(f"/blacklist/{rule_id}", headers=ADMIN)
    assert ask("https://example.com/").status_code == 200


def test_token_is_checked_before_the_blacklist(client: TestClient) -> None:
    add_rule(client, "secret-project")
    answer = client.get("/proxy", params={"target_url": "https://secret-project.test/"})
    assert answer.status_code == 401


def test_rule_broken_by_hand_is_skipped_and_logged(
    client: TestClient, database_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user = add_user(client)
    add_proxy(client, 8080)
    with closing(sqlite3.connect(database_file)) as database, database:
        database.execute("INSERT INTO blacklist VALUES (9, '(', NULL, '2024-01-01 00:00:00', NULL)")
    add_rule(client, "blocked")
    with caplog.at_level(logging.ERROR):
        answer = client.get("/proxy", params={"target_url": "http://blocked.test"}, headers=user)
    assert answer.status_code == 403
    assert "rule 9 is skipped" in caplog.text


def test_lease_is_announced(settings: Settings) -> None:
    leasing = Settings(SYSTEM_TOKEN, JWT_SECRET, settings.database_url, proxy_lease_seconds=30)
    with TestClient(create_app(leasing)) as client:
        user = add_user(client)
        add_proxy(client, 8080)
        answer = client.get("/proxy", headers=user)
    assert answer.headers["cache-control"] == "private, max-age=30"


# -- GET /blacklist and its administration ------------------------------------------------


def test_blacklist_is_the_contracts(client: TestClient) -> None:
    add_user(client)
    rule = {
        "pattern": r"^.*facebook\.com.*$",
        "description": "Block Facebook",
        "created_by": 1,
    }
    created = client.post("/blacklist", json=rule, headers=ADMIN).json()
    answer = client.get("/blacklist", headers=ADMIN)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [{"id": 1, **rule, "created_at": created["created_at"]}]
    # The form of the contract's "2024-01-01T00:00:00".
    time.strptime(created["created_at"], "%Y-%m-%dT%H:%M:%S")


def test_etag_changes_with_every_change(client: TestClient, database_file: Path) -> None:
    def etag() -> Any:
        return client.get("/blacklist", headers=ADMIN).headers["etag"]

    def by_hand() -> None:
        with closing(sqlite3.connect(database_file)) as database, database:
            database.execute("UPDATE blacklist SET pattern = 'c'")

    seen = [etag()]
    for change in (
        lambda: client.post("/blacklist", json={"pattern": "a"}, headers=ADMIN),
        lambda: client.patch("/blacklist/1", json={"pattern": "b"}, headers=ADMIN),
        by_hand,
        lambda: client.delete("/blacklist/1", headers=ADMIN),
    ):
        change()
        assert etag() not in seen
        seen.append(etag())


def test_known_etag_is_304_without_body(client: TestClient) -> None:
    add_rule(client, "a")
    etag = client.get("/blacklist", headers=ADMIN).headers["etag"]
    answer = client.get("/blacklist", headers={**ADMIN, "If-None-Match": etag})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    add_rule(client, "b")
    answer = client.get("/blacklist", headers={**ADMIN, "If-None-Match": etag})
    assert answer.status_code == 200 and len(answer.json()) == 2


@pytest.mark.parametrize(
    ("value", "matches"),
    [
        ('"a"', True),
        ('W/"a"', True),
        ('"b", W/"a"', True),
        ("*", True),
        ('"b"', False),
        ("", False),
        ("a", False),
    ],
)
def test_if_none_match(value: str, matches: bool) -> None:
    assert etag_matches(value, '"a"') is matches


@pytest.mark.parametrize("pattern", ["(", "a{99999999999999999999}", "(?P<x", "", "x" * 4097])
def test_rule_that_python_cannot_compile_is_422(client: TestClient, pattern: str) -> None:
    assert client.post("/blacklist", json={"pattern": pattern}, headers=ADMIN).status_code == 422
    rule_id = add_rule(client, "fine")
    changed = client.patch(f"/blacklist/{rule_id}", json={"pattern": pattern}, headers=ADMIN)
    assert changed.status_code == 422


def test_rule_by_unknown_user_is_409(client: TestClient) -> None:
    rule = {"pattern": "a", "created_by": 5}
    assert client.post("/blacklist", json=rule, headers=ADMIN).status_code == 409


# -- POST /activity and GET /activity -----------------------------------------------------


def post_activity(client: TestClient, key: str | None = None, **changes: Any) -> Any:
    headers = ADMIN if key is None else {**ADMIN, "Idempotency-Key": key}
    return client.post("/activity", json={**RECORD, **changes}, headers=headers)


def stored(client: TestClient, **filters: Any) -> list[dict[str, Any]]:
    answer = client.get("/activity", params=filters, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_record_is_stored_as_sent(client: TestClient) -> None:
    answer = post_activity(client, "key-1")
    assert answer.status_code == 201
    assert {name: answer.json()[name] for name in RECORD} == RECORD
    (item,) = stored(client)
    assert item == {**answer.json(), "idempotency_key": "key-1"}


def test_repeat_answers_200_with_the_first_record(client: TestClient) -> None:
    first = post_activity(client, "key-1")
    repeat = post_activity(client, "key-1", status_code=502)
    assert (repeat.status_code, repeat.json()) == (200, first.json())
    assert post_activity(client, "key-2").status_code == 201
    assert len(stored(client)) == 2


def test_records_without_a_key_are_all_stored(client: TestClient) -> None:
    assert [post_activity(client).status_code for _ in range(2)] == [201, 201]
    assert len(stored(client)) == 2


def test_unknown_user_and_proxy_are_null(client: TestClient) -> None:
    assert post_activity(client, user_id=None, proxy_id=None).status_code == 201
    (item,) = stored(client)
    assert (item["user_id"], item["proxy_id"]) == (None, None)


@pytest.mark.parametrize("name", RECORD)
def test_left_out_field_is_422(client: TestClient, name: str) -> None:
    record = {key: value for key, value in RECORD.items() if key != name}
    assert client.post("/activity", json=record, headers=ADMIN).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({**RECORD, "user_id": "7"}),
        json.dumps({**RECORD, "user_id": 7.5}),
        json.dumps({**RECORD, "user_id": True}),
        json.dumps({**RECORD, "user_id": 2**63}),
        json.dumps({**RECORD, "proxy_id": -1}),
        json.dumps({**RECORD, "status_code": "200"}),
        json.dumps({**RECORD, "status_code": 99}),
        json.dumps({**RECORD, "status_code": None}),
        json.dumps({**RECORD, "timestamp": "1690000000"}),
        json.dumps({**RECORD, "timestamp": float("nan")}),
        json.dumps({**RECORD, "timestamp": float("inf")}),
        json.dumps({**RECORD, "method": ""}),
        json.dumps({**RECORD, "endpoint": "\ud800"}),
        json.dumps({**RECORD, "endpoint": "x" * 65537}),
        json.dumps([RECORD]),
        "null",
        "{",
        "",
    ],
    ids=lambda body: body[:60],
)
def test_wrong_body_is_422_and_not_repeated_in_the_answer(client: TestClient, body: str) -> None:
    headers = {**ADMIN, "Content-Type": "application/json"}
    answer = client.post("/activity", content=body, headers=headers)
    assert answer.status_code == 422
    for problem in answer.json()["detail"]:
        assert set(problem) == {"loc", "msg", "type"}
    assert "example.com" not in answer.text
    assert stored(client) == []


@pytest.mark.parametrize("key", ["two words", 'quo"ted', "x" * 256])
def test_malformed_key_is_422(client: TestClient, key: str) -> None:
    assert post_activity(client, key).status_code == 422


@pytest.mark.parametrize("chunked", [False, True])
def test_body_is_bounded(client: TestClient, chunked: bool) -> None:
    body = json.dumps({**RECORD, "endpoint": "x" * 1_100_000}).encode()
    content: Any = iter([body[:1_000_000], body[1_000_000:]]) if chunked else body
    answer = client.post("/activity", content=content, headers=ADMIN)
    assert answer.status_code == 413


def test_activity_filters(client: TestClient) -> None:
    post_activity(client, "a", user_id=1, proxy_id=2, timestamp=10.0)
    post_activity(client, "b", user_id=2, method="POST", timestamp=20.0)
    post_activity(client, "c", user_id=1, status_code=403, target_url="http://a.test/50%_x")

    def keys(**filters: Any) -> str:
        return "".join(item["idempotency_key"] for item in stored(client, **filters))

    assert keys() == "cba"
    assert keys(user_id=1) == "ca"
    assert keys(proxy_id=2) == "a"
    assert keys(method="POST") == "b"
    assert keys(status_code=403) == "c"
    assert keys(url_contains="50%_") == "c"
    assert keys(url_contains="5_%") == ""
    assert keys(since=10.0, until=20.0) == "a"
    assert keys(user_id=1, status_code=200) == "a"


def test_activity_pages(client: TestClient) -> None:
    for number in range(5):
        post_activity(client, str(number))
    found, before = [], None
    for _ in range(3):
        params: dict[str, Any] = {"limit": 2} | ({"before_id": before} if before else {})
        page = client.get("/activity", params=params, headers=ADMIN).json()
        found += [item["idempotency_key"] for item in page["items"]]
        before = page["next_before_id"]
    assert (found, before) == (["4", "3", "2", "1", "0"], None)


# -- administration, health, errors -------------------------------------------------------


def test_proxies_are_administered_without_showing_passwords(client: TestClient) -> None:
    proxy_id = add_proxy(client, 8080, username="u", password="hidden")
    assert "hidden" not in client.get("/proxies", headers=ADMIN).text
    shown = client.get(f"/proxies/{proxy_id}", headers=ADMIN).json()
    assert (shown["username"], shown["has_password"], shown["port"]) == ("u", True, 8080)
    change = {"port": 8081, "password": None}
    changed = client.patch(f"/proxies/{proxy_id}", json=change, headers=ADMIN).json()
    assert changed == {**shown, "port": 8081, "address": "1.2.3.4:8081", "has_password": False}
    assert client.delete(f"/proxies/{proxy_id}", headers=ADMIN).status_code == 204
    assert client.get("/proxies", headers=ADMIN).json() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"ip": ""},
        {"ip": "256.1.1.1"},
        {"ip": "a..b"},
        {"ip": "evil.test/x"},
        {"ip": "[::1]"},
        {"ip": "a" * 64 + ".test"},
        {"port": 0},
        {"port": 65536},
        {"protocol": "ftp"},
        {"username": "a:b"},
        {"username": "a\r\nb"},
        {"password": "a\nb"},
        {"password": "trailing\n"},
        {"is_working": None},
    ],
    ids=str,
)
def test_impossible_proxy_is_422(client: TestClient, fields: dict[str, Any]) -> None:
    body = {"ip": "proxy.example.com", "port": 8080, **fields}
    assert client.post("/proxies", json=body, headers=ADMIN).status_code == 422
    proxy_id = add_proxy(client, 8080)
    assert client.patch(f"/proxies/{proxy_id}", json=fields, headers=ADMIN).status_code == 422


def test_users_are_administered(client: TestClient) -> None:
    add_user(client, "alice")
    assert client.post("/users", json={"name": "alice"}, headers=ADMIN).status_code == 409
    client.post("/users", json={"name": "bob"}, headers=ADMIN)
    assert client.patch("/users/2", json={"name": "alice"}, headers=ADMIN).status_code == 409
    assert client.patch("/users/2", json={"name": None}, headers=ADMIN).status_code == 422
    assert client.patch("/users/2", json={"name": "rob"}, headers=ADMIN).json()["name"] == "rob"
    listed = client.get("/users", params={"after_id": 1}, headers=ADMIN).json()
    assert [user["name"] for user in listed] == ["rob"]
    assert client.get("/users/2", headers=ADMIN).json() == listed[0]
    client.patch("/users/2", json={"is_active": False}, headers=ADMIN)
    assert client.post("/token", json={"user_id": 2}, headers=ADMIN).status_code == 409
    assert client.post("/token", json={"user_id": 9}, headers=ADMIN).status_code == 404


def test_token_lives_as_long_as_asked(client: TestClient) -> None:
    add_user(client)
    answer = client.post("/token", json={"user_id": 1, "ttl_seconds": 5}, headers=ADMIN)
    claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
    assert answer.json()["expires_in"] == 5 == claims["exp"] - claims["iat"]
    assert (claims["sub"], claims["user_id"]) == ("1", 1)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/users/9", "/proxies/9", "/blacklist/9"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_unknown_id_is_404(client: TestClient, method: str, path: str) -> None:
    body: dict[str, Any] | None = {} if method == "PATCH" else None
    assert client.request(method, path, json=body, headers=ADMIN).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, path)
        for path in ("/users", "/proxies", "/blacklist", "/activity", "/token")
        for method in ("GET", "POST")
        if (method, path) != ("GET", "/token")
    ],
)
def test_administration_needs_the_system_token(client: TestClient, method: str, path: str) -> None:
    user = add_user(client)
    for headers in ({}, user):
        assert client.request(method, path, json={}, headers=headers).status_code == 401


def test_deleting_a_user_keeps_rules_and_records(client: TestClient) -> None:
    add_user(client)
    client.post("/blacklist", json={"pattern": "a", "created_by": 1}, headers=ADMIN)
    post_activity(client, user_id=1)
    assert client.delete("/users/1", headers=ADMIN).status_code == 204
    assert client.get("/blacklist", headers=ADMIN).json()[0]["created_by"] is None
    assert stored(client)[0]["user_id"] == 1


def test_busy_database_is_503_with_retry_after(client: TestClient, database_file: Path) -> None:
    user = add_user(client)
    add_proxy(client, 8080)
    with closing(sqlite3.connect(database_file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for answer in (post_activity(client), client.get("/proxy", headers=user)):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
        other.execute("ROLLBACK")
    assert post_activity(client).status_code == 201


def test_health(client: TestClient, database_file: Path) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    with closing(sqlite3.connect(database_file)) as database, database:
        database.execute("DROP TABLE blacklist_version")
    assert client.get("/health").status_code == 503


def test_several_workers_may_create_the_schema_at_once(tmp_path: Path) -> None:
    databases = [Database(f"sqlite:///{tmp_path / 'new.db'}") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(Database.create_schema, databases))
    for database in databases:
        database.close()
    with closing(sqlite3.connect(tmp_path / "new.db")) as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert plain.execute("SELECT count(*) FROM blacklist_version").fetchone() == (1,)


# -- the command line ---------------------------------------------------------------------


RunCommand = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Runs a command; returns its exit status, stdout and stderr."""
    for name, value in {**GOOD, "DATABASE_URL": settings.database_url}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(list(arguments))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_commands_fill_an_empty_database(
    run_command: RunCommand, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("hidden\n")
    tokens = [run_command("add-user", "alice")[1].strip(), run_command("token", "alice")[1].strip()]
    password = ["--username", "u", "--password-file", str(tmp_path / "password")]
    assert run_command("add-proxy", "127.0.0.1", "3128", *password) == (0, "1\n", "")
    assert run_command("add-rule", "blocked") == (0, "1\n", "")
    with TestClient(create_app(settings)) as client:
        for token in tokens:
            user = {"Authorization": f"Bearer {token}"}
            assert client.get("/proxy", headers=user).json()["password"] == "hidden"
            assert client.get("/proxy?target_url=blocked", headers=user).status_code == 403


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["token", "nobody"], "there is no active user 'nobody'"),
        (["add-rule", "("], "pattern: Value error, not a regular expression"),
        (["add-proxy", "a..b", "1"], "ip: Value error, neither"),
        (["add-proxy", "a", "1", "--password-file", "/nonexistent"], "--password-file: No such"),
        (["add-user", "alice", "--ttl-seconds", "0"], "ttl_seconds: Input should be greater"),
    ],
)
def test_failed_command_is_one_line(
    run_command: RunCommand, arguments: list[str], complaint: str
) -> None:
    status, out, err = run_command(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"proxy manager: {complaint}")
    assert len(err.splitlines()) == 1


def test_user_is_not_added_when_the_token_cannot_be_issued(run_command: RunCommand) -> None:
    assert run_command("add-user", "alice", "--ttl-seconds", "0")[0] == 1
    assert run_command("add-user", "alice")[0] == 0
    assert run_command("add-user", "alice")[2] == "proxy manager: this exists already\n"


def test_unusable_database_file_is_one_line(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}")
    status, _, err = run_command("add-rule", "x")
    assert (status, len(err.splitlines())) == (1, 1)
    assert err.startswith("proxy manager: the database cannot be used: ")


# -- as a real server, through the helper -------------------------------------------------


@pytest.fixture(scope="module")
def shared_backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


@pytest.fixture
def backend(shared_backend: Backend) -> Iterator[Backend]:
    # Not the next test's trouble, should one fail half-way.
    shared_backend.clear_faults()
    if shared_backend.pid is None:
        shared_backend.start()
    yield shared_backend


def ask_proxy(backend: Backend, token: str, url: str = "http://example.com/") -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(trust_env=False, timeout=10) as client:
        return client.get(f"{backend.url}/proxy", params={"target_url": url}, headers=headers)


def report(backend: Backend, key: str, **changes: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {backend.system_token}", "Idempotency-Key": key}
    with httpx.Client(trust_env=False, timeout=10) as client:
        return client.post(f"{backend.url}/activity", json={**RECORD, **changes}, headers=headers)


def test_parallel_requests_share_the_turns_evenly() -> None:
    with Backend() as backend, ThreadPoolExecutor(8) as pool:
        token = backend.add_user()
        ids = [backend.add_proxy("127.0.0.1", port) for port in (1, 2, 3, 4)]
        answers = list(pool.map(lambda _: ask_proxy(backend, token).json()["id"], range(40)))
    assert {proxy_id: answers.count(proxy_id) for proxy_id in ids} == dict.fromkeys(ids, 10)


def test_parallel_repeats_store_one_record(backend: Backend) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: report(backend, "parallel").status_code, range(8)))
    assert sorted(answers) == [200] * 7 + [201]
    keys = [row["idempotency_key"] for row in backend.activity()]
    assert keys.count("parallel") == 1


def test_log_holds_no_secret(backend: Backend) -> None:
    token = backend.add_user()
    backend.add_proxy("127.0.0.1", 3128, username="u", password="proxy-password")
    assert ask_proxy(backend, token, "http://example.com/?key=query-secret").status_code == 200
    report(backend, "log", target_url="http://example.com/?key=query-secret")
    log = backend.log()
    assert '"GET /proxy HTTP/1.1" 200' in log
    for secret in (token, backend.system_token, "proxy-password", "query-secret"):
        assert secret not in log


def test_calls_are_recorded_with_their_headers(backend: Backend) -> None:
    token = backend.add_user()
    before = len(backend.calls())
    ask_proxy(backend, token, "http://x.test/?a=b&c=d")
    report(backend, "recorded")
    proxy_call, activity_call = backend.calls()[before:]
    assert proxy_call.authorization == f"Bearer {token}"
    assert proxy_call.query == {"target_url": ["http://x.test/?a=b&c=d"]}
    assert activity_call.authorization == f"Bearer {backend.system_token}"
    assert activity_call.headers["idempotency-key"] == ["recorded"]
    assert (activity_call.json(), activity_call.status) == (RECORD, 201)
    assert backend.calls("/activity")[-1] == activity_call


def test_fault_replaces_the_answer_for_some_calls(backend: Backend) -> None:
    token = backend.add_user()
    backend.add_proxy("127.0.0.1", 3128)
    backend.fault("/proxy", status=503, body="busy", headers={"Retry-After": "7"}, times=2)
    for _ in range(2):
        answer = ask_proxy(backend, token)
        assert (answer.status_code, answer.text) == (503, "busy")
        assert answer.headers["retry-after"] == "7"
    assert ask_proxy(backend, token).status_code == 200
    assert [call.status for call in backend.calls("/proxy")[-3:]] == [503, 503, 200]


def test_fault_can_change_a_real_answer(backend: Backend) -> None:
    token = backend.add_user()
    backend.add_proxy("127.0.0.1", 3128)
    backend.fault("/proxy", body={"id": "wrong"})
    answer = ask_proxy(backend, token)
    assert (answer.status_code, answer.json()) == (200, {"id": "wrong"})
    assert answer.headers["cache-control"] == "no-store"
    # The test's own calls are not disturbed.
    backend.fault("/proxies", status=500)
    backend.add_proxy("127.0.0.1", 3129)


def test_lost_acknowledgement(backend: Backend) -> None:
    backend.fault("/activity", status=500, handled=True, times=1)
    assert report(backend, "lost").status_code == 500
    assert report(backend, "lost").status_code == 200
    assert [row["idempotency_key"] for row in backend.activity()].count("lost") == 1


def test_refused_call_is_not_stored(backend: Backend) -> None:
    backend.fault("/activity", status=500, times=1)
    assert report(backend, "refused").status_code == 500
    assert "refused" not in [row["idempotency_key"] for row in backend.activity()]


def test_truncated_answer(backend: Backend) -> None:
    token = backend.add_user()
    backend.fault("/proxy", truncate=True)
    with pytest.raises(httpx.RemoteProtocolError):
        ask_proxy(backend, token)


def test_delayed_call_is_recorded_before_its_answer(backend: Backend) -> None:
    token = backend.add_user()
    before = len(backend.calls("/proxy"))
    backend.fault("/proxy", delay=30.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask_proxy, backend, token)
        call = backend.wait_for_calls("/proxy", before + 1)[-1]
        assert (call.status, waiting.done()) == (None, False)
        backend.kill()
        assert isinstance(waiting.exception(), httpx.TransportError)
        backend.start()


def test_outage_keeps_port_data_and_records(backend: Backend) -> None:
    token = backend.add_user()
    backend.add_proxy("127.0.0.1", 3128)
    report(backend, "before-the-outage")
    port, calls, pid = backend.port, backend.calls(), backend.pid
    backend.stop()
    with pytest.raises(httpx.ConnectError):
        ask_proxy(backend, token)
    assert backend.activity()[-1]["idempotency_key"] == "before-the-outage"
    backend.fault("/blacklist", status=500)
    backend.start()
    assert (backend.port, backend.calls()) == (port, calls) and backend.pid != pid
    assert ask_proxy(backend, token).status_code == 200
    backend.kill()
    backend.start()
    assert ask_proxy(backend, token).status_code == 200


def test_frozen_backend_is_silent(backend: Backend) -> None:
    backend.freeze()
    try:
        with httpx.Client(trust_env=False, timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
            client.get(f"{backend.url}/health")
    finally:
        backend.thaw()
    assert ask_proxy(backend, backend.add_user()).status_code in (200, 404)


def test_broken_rule_reaches_the_gateway(backend: Backend) -> None:
    with pytest.raises(BackendError, match="422"):
        backend.add_rule("(")
    rule_id = backend.add_unchecked_rule("(")
    assert "(" in [rule["pattern"] for rule in backend.admin("GET", "/blacklist")]
    backend.delete_rule(rule_id)


def test_waiting_has_an_end(backend: Backend) -> None:
    count = len(backend.activity()) + 1
    with pytest.raises(BackendError, match="in vain"):
        backend.wait_for_activity(count, timeout=0.1)
    report(backend, "awaited")
    assert len(backend.wait_for_activity(count)) == count


def test_backend_that_cannot_start_says_why() -> None:
    with pytest.raises(BackendError, match="JWT_SECRET must have"):
        Backend(environ={"JWT_SECRET": "short"}).__enter__()


def test_issue_token_uses_the_default_life(settings: Settings) -> None:
    assert issue_token(settings, 1)[1] == settings.token_ttl_seconds
