"""More upstream proxies that are installed on this machine: SOCKS, credentials, TLS to the proxy.

Each has `port`, and `fields`: what the backend has to say about it beside its place.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from typing import ClassVar

from tests.support import proxies
from tests.support.proxies import SOURCE
from tests.support.proxies import Program

USER, PASSWORD = "me", "s3:cret"
CREDENTIALS = {"username": USER, "password": PASSWORD}


def lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines()) + "\n"


class SquidWithUsers(proxies.Squid):
    """Squid, for those who have the password only."""

    helper: ClassVar[str] = "/usr/lib/squid/basic_ncsa_auth"

    def command(self, program: str, directory: Path) -> list[str]:
        command = super().command(program, directory)
        hashed = subprocess.run(
            ["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True
        )
        users = directory / "users"
        users.write_text(f"{USER}:{hashed.stdout.strip()}\n")
        users.chmod(0o644)
        file = directory / "squid.conf"
        wanted = lines(f"""
            auth_param basic program {self.helper} {users}
            auth_param basic children 1 startup=1
            acl users proxy_auth REQUIRED
        """)
        rules = file.read_text().replace("http_access allow localhost", "http_access allow users")
        file.write_text(wanted + rules)
        return command


class Dante(Program):
    """Dante: SOCKS 4 and 5, for everybody."""

    name = "danted"

    def command(self, program: str, directory: Path) -> list[str]:
        file = directory / "danted.conf"
        file.write_text(
            lines(f"""
            logoutput: stderr
            internal: 127.0.0.1 port = {self.port}
            external: {SOURCE}
            clientmethod: none
            socksmethod: none
            user.privileged: root
            user.unprivileged: nobody
            client pass {{
                from: 127.0.0.0/8 to: 0.0.0.0/0
            }}
            socks pass {{
                from: 127.0.0.0/8 to: 0.0.0.0/0
                command: connect
            }}
            """)
        )
        return [program, "-f", str(file)]


class Microsocks(Program):
    """microsocks: SOCKS 5, for those who have the password."""

    name = "microsocks"

    def command(self, program: str, directory: Path) -> list[str]:
        credentials = ["-u", USER, "-P", PASSWORD]
        return [program, "-i", "127.0.0.1", "-p", str(self.port), "-b", SOURCE, *credentials]


class Haproxy(Program):
    """HAProxy: takes the TLS off for the proxy that listens on `behind`."""

    name = "haproxy"

    def __init__(self, behind: int, certificate: Path) -> None:
        super().__init__(0)
        self._behind = behind
        self._certificate = certificate

    def command(self, program: str, directory: Path) -> list[str]:
        file = directory / "haproxy.cfg"
        file.write_text(
            lines(f"""
            defaults
            mode tcp
            timeout connect 5s
            timeout client 60s
            timeout server 60s
            listen tls
            bind 127.0.0.1:{self.port} ssl crt {self._certificate}
            server proxy 127.0.0.1:{self._behind}
            """)
        )
        return [program, "-db", "-f", str(file)]

    def opened(self, address: str, port: int) -> bool:
        """Never: the one behind it does."""
        return False


def socks_says(*answers: bytes) -> proxies.Behaviour:
    """Answers each message of a SOCKS client with the next of these, then hangs up."""

    def behave(proxy: proxies.ScriptedProxy, client: Any) -> None:
        for answer in answers:
            client.recv(65536)
            client.sendall(answer)
        client.shutdown(1)
        while client.recv(65536):
            pass

    return behave


def socks_is_silent(proxy: proxies.ScriptedProxy, client: Any) -> None:
    """Takes the greeting and says nothing."""
    client.recv(65536)
    proxy.stopping.wait()
