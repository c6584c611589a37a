"""A network namespace in which nothing can be reached but the ports that a test lets in.

    with Namespace([backend_port, proxy_port]) as space:
        process = subprocess.Popen([*space.prefix, ...])
        assert space.strays() == 0

A thread in the namespace listens on these ports of its loopback and passes connections on to the
same ports outside. The firewall counts every other TCP connection and UDP packet that leaves a
program there, DNS included. Linux and root only: see `missing`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

CLONE_NEWNET = 0x40000000
NETNS = "/run/netns"
FIREWALLS = ("iptables", "ip6tables")


def missing() -> str | None:
    """Why there can be no namespace here, in words; None when there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root may make a network namespace"
    for program in ("ip", "iptables", "ip6tables"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    probe = f"probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode != 0:
        return "this machine allows no network namespace"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return None


class Namespace:
    """Context manager. `allowed` may be dialled in there, without being counted, beside `ports`."""

    def __init__(self, ports: Iterable[int], allowed: Iterable[int] = ()) -> None:
        self.name = f"forwarder-{os.getpid()}-{id(self):x}"
        self.prefix = ["ip", "netns", "exec", self.name]
        self._ports = list(ports)
        self._allowed = list(allowed)
        self._listeners: list[socket.socket] = []

    def run(self, *command: str) -> str:
        """What a command in the namespace prints."""
        done = subprocess.run(
            [*self.prefix, *command], capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    def __enter__(self) -> Self:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        try:
            self.run("ip", "link", "set", "lo", "up")
            # Whatever is dialled must get as far as the firewall's count.
            for family in ("-4", "-6"):
                self.run("ip", family, "route", "add", "default", "dev", "lo")
            for port in [*self._ports, *self._allowed]:
                self.allow(port)
            for firewall in FIREWALLS:
                self.run(firewall, "-A", "OUTPUT", "-p", "tcp", "--syn", "-j", "REJECT")
                self.run(firewall, "-A", "OUTPUT", "-p", "udp", "-j", "REJECT")
            opener = threading.Thread(target=self._listen)
            opener.start()
            opener.join()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        assert len(self._listeners) == len(self._ports)
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    def allow(self, port: int) -> None:
        """Connections to this port on loopback are no strays: those of clients to the gateway."""
        rule = ["-p", "tcp", "-d", "127.0.0.1", "--dport", str(port), "-j", "ACCEPT"]
        self.run("iptables", "-I", "OUTPUT", "1", *rule)

    def strays(self) -> int:
        """Packets of connections that went anywhere else, so far."""
        lines = [x for f in FIREWALLS for x in self.run(f, "-nvxL", "OUTPUT").splitlines()]
        return sum(int(line.split()[0]) for line in lines if "REJECT" in line)

    def _listen(self) -> None:
        """In a thread of its own, which moves into the namespace; its sockets stay there."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"{NETNS}/{self.name}") as handle:
            if libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        for port in self._ports:
            self._listeners.append(socket.create_server(("127.0.0.1", port), backlog=128))

    def _accept(self, listener: socket.socket) -> None:
        port = listener.getsockname()[1]
        while True:
            try:
                inside, _ = listener.accept()
                outside = socket.create_connection(("127.0.0.1", port))
            except OSError:
                return
            for pair in ((inside, outside), (outside, inside)):
                threading.Thread(target=_copy, args=pair, daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
