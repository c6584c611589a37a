"""HTTPS to the backend: its own CA, a client certificate, HTTP/2; and what must not be trusted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.engine import Rig
from tests.support.faulty import PROXY
from tests.support.faulty import RULES
from tests.support.faulty import FaultyBackend
from tests.support.tls import h2_server
from tests.support.tls import make_pki

URL = "http://example.test/"


async def test_own_ca(tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "pki")
    with FaultyBackend(tls=pki.server_context()) as backend:
        async with Rig(backend.url, tmp_path, FASTAPI_CA_BUNDLE=str(pki.ca)) as rig:
            await rig.wait_for_rules()
            assert (await rig.ask(URL)).status == 200
            await rig.wait_for(lambda: backend.stored() == 1)


@pytest.mark.parametrize("why", ["another CA", "no CA", "another address", "expired"])
async def test_wrong_certificate(why: str, tmp_path: Path) -> None:
    """Nothing is sent, least of all a token; requests are refused, and their records wait."""
    pki = make_pki(
        tmp_path / "pki",
        address="192.0.2.1" if why == "another address" else "127.0.0.1",
        days=-1 if why == "expired" else 30,
    )
    ca = make_pki(tmp_path / "other").ca if why == "another CA" else pki.ca
    env = {} if why == "no CA" else {"FASTAPI_CA_BUNDLE": str(ca)}
    with FaultyBackend(tls=pki.server_context()) as backend:
        async with Rig(backend.url, tmp_path, **env) as rig:
            outcome = await rig.ask(URL)
            assert (outcome.status, outcome.error) == (503, "no_rules")
            await rig.wait_for(lambda: rig.stats["refresh_failures"] > 0)
            assert rig.stats["spool_depth"] == 1
        assert backend.asked == []


async def test_client_certificate(tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "pki")
    with FaultyBackend(tls=pki.server_context(client_ca=pki.ca)) as backend:
        env = {"FASTAPI_CA_BUNDLE": str(pki.ca)}
        async with Rig(backend.url, tmp_path / "without", **env) as rig:
            assert (await rig.ask(URL)).error == "no_rules"
        assert backend.asked == []
        env |= {
            "FASTAPI_CLIENT_CERT": str(pki.client),
            "FASTAPI_CLIENT_KEY": str(pki.client_key),
        }
        async with Rig(backend.url, tmp_path / "with", **env) as rig:
            await rig.wait_for_rules()
            assert (await rig.ask(URL)).status == 200
            await rig.wait_for(lambda: backend.stored() == 1)


async def test_http2(tmp_path: Path) -> None:
    """Where the backend offers it; many calls share few connections then."""
    pki = make_pki(tmp_path / "pki")
    answers = {
        "/proxy": json.dumps(PROXY).encode(),
        "/blacklist": json.dumps(RULES).encode(),
        "/activity": b"{}",
    }
    async with h2_server(pki.server_context(h2=True), answers, delay=0.02) as (url, seen):
        env = {"FASTAPI_CA_BUNDLE": str(pki.ca), "HTTPX_TIMEOUT": "5"}
        async with Rig(url, tmp_path, **env) as rig:
            await rig.wait_for_rules()
            for _ in range(3):
                outcomes = await asyncio.gather(*(rig.ask(URL) for _ in range(50)))
                assert {outcome.status for outcome in outcomes} == {200}
            await rig.wait_for(lambda: rig.stats["records_delivered"] == 150)
            assert rig.stats["records_retried"] == 0
        assert seen.requests >= 301
        assert seen.connections < 30
