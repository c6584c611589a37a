"""Modes in which the client does not ask a proxy: everything still goes through the chosen one."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from mitmproxy import platform
from mitmproxy.proxy import mode_specs
from mitmproxy.test import tflow

from mitm_forwarder import modes
from tests.forwarding.rig import Rig


@pytest.mark.parametrize(
    ("mode", "scheme", "host", "sni", "header", "expected"),
    [
        ("transparent", "https", "192.0.2.1", "a.test", "a.test", "a.test"),
        ("transparent", "https", "2001:db8::1", "a.test", "a.test:8443", "a.test"),
        ("transparent", "http", "192.0.2.1", None, "a.test", "a.test"),
        ("transparent", "http", "192.0.2.1", None, None, "192.0.2.1"),
        ("transparent", "https", "192.0.2.1", None, "a.test", "a.test"),
        ("transparent", "https", "192.0.2.1", "a.test", "b.test", "192.0.2.1"),
        ("transparent", "https", "192.0.2.1", "a.test", "b test", "192.0.2.1"),
        ("transparent", "http", "192.0.2.1", None, "192.0.2.9", "192.0.2.1"),
        ("transparent", "http", "b.test", None, "a.test", "b.test"),
        ("socks5", "http", "192.0.2.1", None, "a.test", "a.test"),
        ("reverse:http://192.0.2.1", "http", "192.0.2.1", None, "a.test", "a.test"),
        ("regular", "http", "192.0.2.1", None, "a.test", "192.0.2.1"),
        ("upstream:http://p.test", "http", "192.0.2.1", None, "a.test", "192.0.2.1"),
    ],
)
def test_name_target(
    mode: str, scheme: str, host: str, sni: str | None, header: str | None, expected: str
) -> None:
    flow = tflow.tflow()
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse(mode)
    flow.client_conn.sni = sni
    flow.request.headers.pop("host", None)
    flow.request.data.authority = b""
    flow.request.data.scheme, flow.request.data.host = scheme.encode(), host
    if header is not None:
        flow.request.headers["host"] = header
    modes.name_target(flow)
    assert flow.request.data.host == expected
    assert flow.request.headers.get("host") == header


@pytest.mark.parametrize("rig", [{"mode": ["socks5"]}], indirect=True)
async def test_socks5(rig: Rig) -> None:
    for option in ("--socks5-hostname", "--socks5"):
        for port, scheme in ((rig.origin.port, "http"), (rig.secure_origin.port, "https")):
            url = f"{scheme}://localhost:{port}/"
            result = await rig.curl(option, f"127.0.0.1:{rig.port}", url)
            assert result.codes == [200], result.err
    assert rig.proxy.accepted == 4
    assert {h.first[1].split("//")[-1].split(":")[0] for h in rig.proxy.heads} == {"localhost"}


@pytest.mark.parametrize("rig", [{"mode": ["reverse:http://127.0.0.1:9"]}], indirect=True)
async def test_reverse(rig: Rig) -> None:
    """The proxy is asked for the target of the mode."""
    rig.engine.routes = [await rig.failing("403")]
    client = await rig.client()
    client.send(b"GET /x HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
    assert (await client.response())[0].status == 403
    assert rig.listeners[-1].heads[0].first[1] == "http://127.0.0.1:9/x"  # type: ignore[attr-defined]
    await client.close()


@pytest.mark.skipif(platform.original_addr is None, reason="no transparent mode on this system")
@pytest.mark.parametrize("rig", [{"mode": ["transparent"]}], indirect=True)
@pytest.mark.parametrize("tls", [False, True])
async def test_transparent(rig: Rig, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the firewall had redirected a connection to 192.0.2.1: the proxy gets the name."""
    port = rig.secure_origin.port if tls else rig.origin.port

    def original_addr(_: Any) -> tuple[str, int]:
        return "192.0.2.1", port

    monkeypatch.setattr(platform, "original_addr", original_addr)
    client = await rig.client()
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        await client.writer.start_tls(context, server_hostname="origin.test")
    client.send(f"GET /x HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n".encode())
    assert (await client.response())[0].status == 200
    assert f"origin.test:{port}" in rig.proxy.heads[0].first[1]
    await client.close()
