"""Modes in which the client does not know that it talks to a proxy: what is the target then?

mitmproxy knows the address that was dialled. The name of the target is in the TLS server name and
in the Host header, and the name is what rules are about and what the upstream proxy should resolve.
Loop thread only.
"""

from __future__ import annotations

import ipaddress

from mitmproxy import connection
from mitmproxy import http
from mitmproxy.net.http import url

from .routes import TUNNEL_TOKENS

ASKED = frozenset({"regular", "upstream"})
"""Modes in which the client names the target itself."""


def is_asked_as_proxy(client: connection.Client) -> bool:
    """Do the requests of this connection go to us, or to a target inside a tunnel?"""
    return client.proxy_mode.type_name in ASKED and client not in TUNNEL_TOKENS


def name_target(flow: http.HTTPFlow) -> None:
    """Replace a target that is an address by the name that the client gave, if it gave one only.

    Where names disagree the address stays, and the engine refuses a request that names two targets.
    """
    client, request = flow.client_conn, flow.request
    if client.proxy_mode.type_name in ASKED or not _is_address(request.data.host):
        return
    names = {client.sni} if request.data.scheme == b"https" and client.sni else set()
    if request.host_header:
        try:
            names.add(url.parse_authority(request.host_header, check=True)[0])
        except ValueError:
            return
    if len(names) == 1 and not _is_address(name := names.pop()):
        request.data.host = name


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
