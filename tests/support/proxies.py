"""Upstream proxies, real and scripted, and for each the connections that it has opened.

Real ones are subprocesses: the example proxy of this project, Squid and tinyproxy. Scripted ones
are threads of this process that misbehave in one way. `opened(address, port)` tells of a connection
that an origin has seen whether this proxy made it: that is how a direct connection is noticed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from typing import Protocol
from typing import Self

from tests.support.backend import ROOT
from tests.support.backend import wait_until

START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
SOURCE = "127.0.0.2"
"""Where Squid and tinyproxy dial from, who do not tell their ports. Linux only."""
HEAD_LIMIT = 1 << 16


class Opener(Protocol):
    """Whoever may connect to an origin."""

    def opened(self, address: str, port: int) -> bool: ...


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port that is ours in the block: bound, but nobody listens, so dials are refused."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port


def end_process(process: subprocess.Popen[Any]) -> None:
    """SIGTERM, and SIGKILL when that is not enough."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class ExampleProxy:
    """`examples.upstream_proxy`; `user` is "name:password" when it is to want credentials."""

    def __init__(self, *, user: str | None = None) -> None:
        self._user = user

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="proxy-"))
        self._log = self._directory / "connections.jsonl"
        command = [sys.executable, "-m", "examples.upstream_proxy", "--port", "0"]
        command += ["--log", str(self._log)] + (["--user", self._user] if self._user else [])
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the example proxy ended at once: {self._process.wait()}"
        self.port: int = json.loads(line)["port"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end_process(self._process)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._last_events = self.events()
        shutil.rmtree(self._directory)

    def events(self) -> list[dict[str, Any]]:
        """What it has reported so far; works after the end, too."""
        if self._process.poll() is not None and not self._log.exists():
            return self._last_events
        # What follows the last line end is still being written.
        lines = self._log.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in lines]

    def opened(self, address: str, port: int) -> bool:
        """Did this proxy open the connection?"""
        local = (address, port)
        return any(
            (event["local_address"], event["local_port"]) == local
            for event in self.events()
            if event["event"] == "connect"
        )


class Program:
    """A proxy that is installed on this machine, with a configuration like its package's."""

    name: str

    def __init__(self, tls_port: int) -> None:
        """`tls_port`: CONNECT is allowed to it, as the packages do for 443."""
        self._tls_port = tls_port

    @classmethod
    def path(cls) -> str | None:
        """The program, or None when it is not installed."""
        search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        return shutil.which(cls.name, path=search)

    def command(self, program: str, directory: Path) -> list[str]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        program = self.path()
        assert program is not None, f"{self.name} is not installed"
        self._directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self._directory.chmod(0o777)  # they give up root
        self._stack = contextlib.ExitStack()
        self.port = self._stack.enter_context(reserved_port())
        output = self._stack.enter_context((self._directory / "output.txt").open("wb"))
        command = self.command(program, self._directory)
        self._process = subprocess.Popen(
            command, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            wait_until(self._accepts, START_TIMEOUT, f"{self.name} to listen")
        except BaseException:
            print((self._directory / "output.txt").read_text())
            self.__exit__(None, None, None)
            raise
        return self

    def _accepts(self) -> bool:
        assert self._process.poll() is None, f"{self.name} ended while starting"
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end_process(self._process)
        self._stack.close()
        shutil.rmtree(self._directory)

    def opened(self, address: str, port: int) -> bool:
        """Did this proxy open the connection?"""
        return address == SOURCE


class Squid(Program):
    """Squid; the access rules are those of its own example configuration."""

    name = "squid"

    def command(self, program: str, directory: Path) -> list[str]:
        configuration = f"""
            http_port 127.0.0.1:{self.port}
            tcp_outgoing_address {SOURCE}
            acl SSL_ports port 443 {self._tls_port}
            acl Safe_ports port 80 443 1025-65535
            http_access deny !Safe_ports
            http_access deny CONNECT !SSL_ports
            http_access allow localhost
            http_access deny all
            cache deny all
            pid_filename none
            access_log none
            cache_log {directory}/cache.log
            coredump_dir {directory}
            netdb_filename none
            pinger_enable off
            visible_hostname squid.test
            shutdown_lifetime 0 seconds
        """
        file = directory / "squid.conf"
        file.write_text("\n".join(line.strip() for line in configuration.splitlines()))
        return [program, "-N", "-f", str(file)]


class Tinyproxy(Program):
    """tinyproxy."""

    name = "tinyproxy"

    def command(self, program: str, directory: Path) -> list[str]:
        configuration = f"""
            Port {self.port}
            Listen 127.0.0.1
            Bind {SOURCE}
            Timeout 60
            LogFile "{directory}/tinyproxy.log"
            LogLevel Warning
            MaxClients 50
            Allow 127.0.0.1
            ViaProxyName "tinyproxy"
            ConnectPort 443
            ConnectPort {self._tls_port}
        """
        file = directory / "tinyproxy.conf"
        file.write_text("\n".join(line.strip() for line in configuration.splitlines()))
        return [program, "-d", "-c", str(file)]


# ---- scripted ones

Behaviour = Callable[["ScriptedProxy", socket.socket], None]


class ScriptedProxy:
    """Listens on `port` and does the same to everybody; `received` has what each connection sent.

    It opens no connections, so whatever reaches an origin meanwhile was direct.
    """

    def __init__(self, behaviour: Behaviour, host: str = "127.0.0.1") -> None:
        self._behaviour = behaviour
        self._host = host
        self._lock = threading.Lock()
        self._records: dict[socket.socket, bytearray] = {}
        self.stopping = threading.Event()
        self.received: list[bytearray] = []

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._listener = socket.create_server((self._host, 0), family=family, backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopping.set()
        # Wakes accept(), which close() alone would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._records:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()

    @property
    def connections(self) -> int:
        """How many were accepted."""
        return len(self.received)

    def opened(self, address: str, port: int) -> bool:
        """Never."""
        return False

    def all_received(self) -> bytes:
        """What all connections sent."""
        with self._lock:
            return b"\n".join(bytes(one) for one in self.received)

    def _accept(self) -> None:
        threads = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            threads.append(threading.Thread(target=self._serve, args=(client,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            self._records[client] = bytearray()
            self.received.append(self._records[client])
        try:
            self._behaviour(self, client)
        except OSError:
            pass
        finally:
            with self._lock:
                del self._records[client]
            client.close()

    def read_head(self, client: socket.socket) -> bytes:
        """The next, up to and with the empty line; whatever came, when the client closes before."""
        data = b""
        while b"\r\n\r\n" not in data and len(data) < HEAD_LIMIT:
            chunk = client.recv(65536)
            if not chunk:
                break
            data += chunk
            self._records[client] += chunk
        return data


def closes(proxy: ScriptedProxy, client: socket.socket) -> None:
    """Accepts and hangs up."""


def resets(proxy: ScriptedProxy, client: socket.socket) -> None:
    """Takes the request, then kills the connection."""
    proxy.read_head(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def is_silent(proxy: ScriptedProxy, client: socket.socket) -> None:
    """Takes everything and says nothing."""
    proxy.read_head(client)
    proxy.stopping.wait()


def says(answer: bytes) -> Behaviour:
    """Takes the request and answers with these bytes, then hangs up."""

    def behave(proxy: ScriptedProxy, client: socket.socket) -> None:
        proxy.read_head(client)
        client.sendall(answer)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):  # closing on unread data would be a reset
            pass

    return behave


class Tap(ScriptedProxy):
    """Stands before another proxy and keeps every byte that goes to it."""

    def __init__(self, behind: int, host: str = "127.0.0.1") -> None:
        super().__init__(self._relay, host)
        self._behind = behind

    def _relay(self, proxy: ScriptedProxy, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._behind)) as server:
            back = threading.Thread(target=_copy, args=(server, client, None))
            back.start()
            _copy(client, server, self._records[client])
            back.join()


def _copy(source: socket.socket, sink: socket.socket, record: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if record is not None:
                record += data
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
