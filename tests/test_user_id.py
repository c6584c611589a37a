"""Whom a record names: the user that the backend took the token for; nobody on a token's word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import faulty
from tests.support.engine import Rig
from tests.support.engine import make_token
from tests.support.faulty import FaultyBackend

URL = "http://example.test/"
BLOCKED = "http://blocked.test/"


@pytest.fixture
def backend() -> Iterator[FaultyBackend]:
    with FaultyBackend() as backend:
        del backend.proxy["user_id"]
        yield backend


async def recorded(rig: Rig, backend: FaultyBackend, url: str, token: str | None) -> Any:
    """The user_id of the record of one more request."""
    before = set(backend.records())
    await rig.ask(url, token)
    await rig.wait_for(lambda: backend.stored() > len(before))
    (key,) = set(backend.records()) - before
    return backend.records()[key]["user_id"]


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"user_id": 7}, 7),
        ({"sub": "7"}, 7),
        ({"sub": "alice"}, "alice"),
        ({"sub": "007"}, "007"),
        ({"sub": "-7"}, "-7"),
        ({"sub": "9" * 19}, "9" * 19),
        ({"id": 9, "sub": "8", "user_id": 7}, 7),
        ({"id": 9}, 9),
        ({"name": "alice"}, None),
        ({"sub": True}, None),
        ({"sub": ["7"]}, None),
    ],
    ids=str,
)
async def test_claim_of_an_accepted_token(
    claims: dict[str, Any], expected: Any, backend: FaultyBackend, tmp_path: Path
) -> None:
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        user_id = await recorded(rig, backend, URL, make_token(**claims))
        assert user_id == expected and type(user_id) is type(expected)


async def test_the_backend_knows_better(backend: FaultyBackend, tmp_path: Path) -> None:
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        backend.proxy["user_id"] = 99
        assert await recorded(rig, backend, URL, make_token(user_id=7)) == 99
        assert await recorded(rig, backend, URL, "opaque") == 99
        # Remembered for requests that the backend is not asked about.
        assert await recorded(rig, backend, BLOCKED, "opaque") == 99


@pytest.mark.parametrize(
    ("status", "accepted"), [(200, True), (403, True), (404, True), (401, False), (500, False)]
)
async def test_only_accepted_tokens_count(
    status: int, accepted: bool, backend: FaultyBackend, tmp_path: Path
) -> None:
    token = make_token(user_id=7)
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        assert await recorded(rig, backend, BLOCKED, token) is None
        if status != 200:
            backend.spoil("/proxy", faulty.status(status))
        expected = 7 if accepted else None
        assert await recorded(rig, backend, URL, token) == expected
        assert await recorded(rig, backend, BLOCKED, token) == expected
        # A token that was refused later is nobody's from then on.
        backend.spoil("/proxy", faulty.status(401))
        assert await recorded(rig, backend, URL, token) is None
        assert await recorded(rig, backend, BLOCKED, token) is None


async def test_no_token(backend: FaultyBackend, tmp_path: Path) -> None:
    async with Rig(backend.url, tmp_path, REQUIRE_USER_JWT="false") as rig:
        await rig.wait_for_rules()
        assert await recorded(rig, backend, URL, None) is None
    with FaultyBackend() as other:
        async with Rig(other.url, tmp_path / "other") as rig:
            await rig.wait_for_rules()
            assert await recorded(rig, other, URL, None) is None


async def test_expired_token_is_forgotten(backend: FaultyBackend, tmp_path: Path) -> None:
    """What the backend said about it holds no longer than the token itself."""
    token = make_token(user_id=7, exp=1)
    async with Rig(backend.url, tmp_path) as rig:
        await rig.wait_for_rules()
        assert await recorded(rig, backend, URL, token) == 7
        assert await recorded(rig, backend, BLOCKED, token) is None
