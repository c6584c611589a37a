"""SOCKS, version 4, 4a and 5 (RFC 1928, 1929): the handshake with an upstream proxy.

A tunnel of mitmproxy's becomes one of these by `__class__`, before its first byte. Loop thread
only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from dataclasses import dataclass

from mitmproxy.proxy import commands
from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http._upstream_proxy import HttpUpstreamProxy

from .routes import Route
from .tunnels import Handshake
from .tunnels import RoutedTunnel
from .tunnels import wire_host

NO_AUTHENTICATION, PASSWORD, NO_METHOD = 0, 2, 0xFF
IPV4, NAME, IPV6 = 1, 3, 4
GRANTED_4 = 90

REPLIES = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused by the target",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}


@dataclass
class Resolution:
    """A host name on its way to an IPv4 address."""

    host: str
    address: str | None = None


@dataclass
class ForwarderResolveHook(commands.StartHook):
    """`forwarder_resolve(resolution)`: SOCKS4 has no way to leave a name to the proxy. Awaited."""

    resolution: Resolution


async def resolve(resolution: Resolution) -> None:
    """For the forwarder_resolve hook. Never raises: a name that cannot be resolved has no
    address.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            resolution.host, None, family=socket.AF_INET, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        return
    resolution.address = str(found[0][4][0]) if found else None


class SocksTunnel(RoutedTunnel):
    """What both versions share. `received` has what the proxy said and nobody has read yet."""

    received = b""

    @property
    def route(self) -> Route:
        via = self.conn.via
        assert isinstance(via, Route)
        return via

    @property
    def target(self) -> tuple[str, int]:
        assert self.conn.address is not None
        return self.conn.address[0], self.conn.address[1]

    def receive_handshake_data(self, data: bytes) -> Handshake:
        self.received += data
        return (yield from self.go_on())

    def go_on(self) -> Handshake:
        raise NotImplementedError

    def put(self, data: bytes) -> layer.CommandGenerator[None]:
        yield commands.SendData(self.tunnel_connection, data)

    def finish(self, length: int) -> Handshake:
        """The proxy's last answer has this length; what follows is the target's."""
        rest, self.received = self.received[length:], b""
        if rest:
            yield from self.receive_data(rest)
        return True, None


class Socks4Tunnel(SocksTunnel):
    """4a leaves a name to the proxy; 4 takes an address only, so the name is resolved here."""

    def start_handshake(self) -> layer.CommandGenerator[None]:
        host, port = self.target
        name = b""
        address = host if _is_ipv4(host) else None
        if address is None and self.route.kind == "socks4":
            resolution = Resolution(host)
            yield ForwarderResolveHook(resolution)
            address = resolution.address
            if address is None:
                return (yield from self._fail("The target's name has no IPv4 address."))
        elif address is None:
            address = "0.0.0.1"  # in place of an address: a name follows
            name = wire_host(host) + b"\0"
        user = (self.route.username or "").encode() + b"\0"
        yield from self.put(
            struct.pack("!BBH", 4, 1, port) + socket.inet_aton(address) + user + name
        )

    def _fail(self, error: str) -> layer.CommandGenerator[None]:
        """As if the proxy had refused: nothing has been sent to it."""
        yield from self.on_handshake_error(error)
        yield from self._handshake_finished(error)

    def go_on(self) -> Handshake:
        yield from ()
        if len(self.received) < 8:
            return False, None
        if self.received[0] != 0:
            return False, "The upstream proxy does not speak SOCKS4."
        if self.received[1] != GRANTED_4:
            return False, f"The SOCKS4 proxy refused the request (code {self.received[1]})."
        return (yield from self.finish(8))


class Socks5Tunnel(SocksTunnel):
    """Greeting, credentials where the proxy asks for them, request: one answer each."""

    state = "greeting"

    def start_handshake(self) -> layer.CommandGenerator[None]:
        methods = [NO_AUTHENTICATION]
        if self.route.username is not None:
            methods.insert(0, PASSWORD)
        yield from self.put(bytes([5, len(methods), *methods]))

    def go_on(self) -> Handshake:
        if len(self.received) >= 2 and self.state == "greeting":
            return (yield from self._greeted(self.received[0], self.received[1]))
        if len(self.received) >= 2 and self.state == "credentials":
            self.received, refused = self.received[2:], self.received[1] != 0
            if refused:
                return False, "The SOCKS5 proxy refused its credentials."
            yield from self._request()
        elif len(self.received) >= 5 and self.state == "request":
            return (yield from self._replied())
        return False, None

    def _greeted(self, version: int, method: int) -> Handshake:
        self.received = self.received[2:]
        if version != 5:
            return False, "The upstream proxy does not speak SOCKS5."
        username, password = self.route.username, self.route.password or ""
        if method == PASSWORD and username is not None:
            self.state = "credentials"
            name, secret = username.encode(), password.encode()
            yield from self.put(bytes([1, len(name)]) + name + bytes([len(secret)]) + secret)
        elif method == NO_AUTHENTICATION:
            yield from self._request()
        elif username is None:
            return False, "The SOCKS5 proxy wants credentials, but there are none for it."
        else:
            return False, "The SOCKS5 proxy accepts no method that was offered."
        return False, None

    def _request(self) -> layer.CommandGenerator[None]:
        host, port = self.target
        if _is_ipv4(host):
            address = bytes([IPV4]) + socket.inet_aton(host)
        elif ":" in host:
            address = bytes([IPV6]) + ipaddress.IPv6Address(host).packed
        else:
            name = wire_host(host)
            address = bytes([NAME, len(name)]) + name
        self.state = "request"
        yield from self.put(b"\5\1\0" + address + struct.pack("!H", port))

    def _replied(self) -> Handshake:
        version, reply, _, kind, size = self.received[:5]
        length = {IPV4: 10, NAME: 7 + size, IPV6: 22}.get(kind)
        if version != 5 or (reply == 0 and length is None):
            return False, "The SOCKS5 proxy's answer cannot be read."
        if reply != 0:
            why = REPLIES.get(reply, "unknown reason")
            return False, f"The SOCKS5 proxy could not connect: {why} (reply {reply})."
        assert length is not None
        if len(self.received) < length:
            return False, None
        return (yield from self.finish(length))


def unreachable(route: Route, host: str) -> str | None:
    """Why a proxy of this kind cannot even be asked for this host."""
    if route.kind in ("socks4", "socks4a") and ":" in host:
        return "SOCKS4 knows no IPv6 address."
    return None


def take_over(tunnel: HttpUpstreamProxy, route: Route) -> None:
    """Make a tunnel that has not begun speak what the route's proxy speaks."""
    if not route.is_socks:
        tunnel.__class__ = RoutedTunnel
    elif route.kind in ("socks5", "socks5h"):
        tunnel.__class__ = Socks5Tunnel
    else:
        tunnel.__class__ = Socks4Tunnel


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True
