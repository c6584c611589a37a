"""The parts of the demo: a backend, an upstream proxy, a target and the gateway, each a process of
its own on a free port of this machine, in a directory that goes when they do.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mitm_forwarder import options

BLOCKED = r"^https?://([^/]*\.)?blocked\.test(:\d+)?/"
"""The demo's blacklist."""

START_SECONDS = 30.0
STOP_SECONDS = 10.0


class StageError(Exception):
    """A part did not come up; the text is for the user and names its log."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def clean_environ(root: Path) -> dict[str, str]:
    """The environment without settings of ours, which are meant for the user's real gateway (its
    spool would be opened, its token sent), and with the checkout to import from.
    """
    ours = {variable.name for variable in options.VARIABLES}
    ours |= {f"{name}_FILE" for name in ours}
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    # The logs are what the stage waits for.
    return {**environ, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}


class Stage:
    """All parts, started in `__init__`'s order; use it as a context manager."""

    def __init__(self, root: Path) -> None:
        self.root = root  # of the checkout, where `examples` is
        self.directory = Path(tempfile.mkdtemp(prefix="mitm-forwarder-demo-"))
        self.system_token = secrets.token_urlsafe(24)
        self.backend_port = free_port()
        self.gateway_port = free_port()
        self.proxy_port = free_port()
        self.dead_port = free_port()
        self.target_ports: dict[str, int] = {}
        self.proxy_program = "the small proxy of examples/"
        self.token = ""
        self.proxy_id = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self._backend_environ = {
            **clean_environ(root),
            "SYSTEM_TOKEN": self.system_token,
            "JWT_SECRET": secrets.token_hex(32),
            "DATABASE_URL": f"sqlite:///{self.directory / 'manager.db'}",
        }

    def __enter__(self) -> Stage:
        try:
            self._start_target()
            self._start_proxy()
            self._start_backend()
            self._fill_backend()
            self._start_gateway()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops everything, the gateway first, so that its last records find the backend alive."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- parts

    def _start_target(self) -> None:
        log = self._spawn(
            "target",
            [sys.executable, "-m", "examples.target", "--ca-file", str(self.target_ca)],
        )
        line = self._wait_for(lambda: log.read_text().partition("\n")[0], "the target", log)
        ports = json.loads(line)
        self.target_ports = {"http": ports["http_port"], "https": ports["https_port"]}

    def _start_proxy(self) -> None:
        """Squid or tinyproxy where they are installed: the real thing says more."""
        search = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
        if squid := shutil.which("squid", path=search):
            self.proxy_program = "Squid"
            command = [squid, "-N", "-f", str(self._squid_configuration())]
        elif tinyproxy := shutil.which("tinyproxy", path=search):
            self.proxy_program = "tinyproxy"
            command = [tinyproxy, "-d", "-c", str(self._tinyproxy_configuration())]
        else:
            command = [sys.executable, "-m", "examples.upstream_proxy"]
            command += ["--port", str(self.proxy_port)]
        log = self._spawn("proxy", command)
        self._wait_for(lambda: accepts(self.proxy_port), f"{self.proxy_program}", log)

    def _squid_configuration(self) -> Path:
        path = self.directory / "squid.conf"
        https = self.target_ports["https"]
        # Squid gives up its rights when it is started as root, and must still write here.
        self.directory.chmod(0o755)
        (self.directory / "squid").mkdir(mode=0o777)
        (self.directory / "squid").chmod(0o777)
        path.write_text(
            f"http_port 127.0.0.1:{self.proxy_port}\n"
            f"acl tls port 443 {https}\nacl CONNECT method CONNECT\n"
            "http_access deny CONNECT !tls\nhttp_access allow localhost\nhttp_access deny all\n"
            f"cache deny all\naccess_log none\ncache_log {self.directory}/squid/cache.log\n"
            f"pid_filename {self.directory}/squid/pid\ncoredump_dir {self.directory}/squid\n"
            "shutdown_lifetime 0 seconds\nvisible_hostname demo\n"
        )
        return path

    def _tinyproxy_configuration(self) -> Path:
        path = self.directory / "tinyproxy.conf"
        path.write_text(
            f"Port {self.proxy_port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\n"
            f"Allow 127.0.0.1\nConnectPort 443\nConnectPort {self.target_ports['https']}\n"
        )
        return path

    def _start_backend(self) -> None:
        command = [sys.executable, "-m", "examples.proxy_manager", "--port", str(self.backend_port)]
        log = self._spawn("backend", command, self._backend_environ)
        self._wait_for(lambda: accepts(self.backend_port), "the backend", log)

    def _fill_backend(self) -> None:
        self.token = self.administer("add-user", "demo")
        self.proxy_id = int(self.administer("add-proxy", "127.0.0.1", str(self.proxy_port)))
        self.administer("add-rule", BLOCKED)

    def _start_gateway(self) -> None:
        environ = {
            **clean_environ(self.root),
            "SYSTEM_TOKEN": self.system_token,
            "FASTAPI_BASE_URL": self.backend_url,
            "MITM_LISTEN_PORT": str(self.gateway_port),
            "STATE_DIR": str(self.directory / "state"),
            "METRICS_LISTEN": "",  # the user's real gateway may have the port
        }
        command = [sys.executable, "-m", "mitm_forwarder", "run", "--"]
        command += ["--listen-host", "127.0.0.1", "--set", f"confdir={self.directory / 'ca'}"]
        command += ["--set", f"ssl_verify_upstream_trusted_ca={self.target_ca}"]
        log = self._spawn("gateway", command, environ)
        self._wait_for(
            lambda: "Refreshed blacklist cache" in self.gateway_log and accepts(self.gateway_port),
            "the gateway",
            log,
        )

    # ---- what the demo asks of them

    @property
    def target_ca(self) -> Path:
        return self.directory / "target-ca.pem"

    @property
    def gateway_ca(self) -> Path:
        return self.directory / "ca" / "mitmproxy-ca-cert.pem"

    @property
    def gateway_log(self) -> str:
        return (self.directory / "gateway.log").read_text(errors="replace")

    @property
    def backend_url(self) -> str:
        return f"http://127.0.0.1:{self.backend_port}"

    def administer(self, *arguments: str) -> str:
        """The backend's own command line; what it prints."""
        command = [sys.executable, "-m", "examples.proxy_manager", *arguments]
        done = subprocess.run(
            command, cwd=self.directory, env=self._backend_environ, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise StageError(done.stderr.strip())
        return done.stdout.strip()

    def admin_call(self, method: str, path: str, body: object = None) -> Any:
        """A call to the backend's administration."""
        request = urllib.request.Request(
            self.backend_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.system_token}",
                "Content-Type": "application/json",
            },
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.closing(opener.open(request, timeout=10)) as response:
            text = response.read()
        return json.loads(text) if text else None

    # ---- processes

    def _spawn(self, name: str, command: list[str], environ: dict[str, str] | None = None) -> Path:
        log = self.directory / f"{name}.log"
        with log.open("wb") as output:
            self._processes.append(
                subprocess.Popen(
                    command,
                    cwd=self.directory,  # and not where a .env may be
                    env=environ or clean_environ(self.root),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            )
        return log

    def _wait_for(self, ready: Callable[[], Any], what: str, log: Path) -> Any:
        process = self._processes[-1]
        for _ in _ticks(START_SECONDS):
            if result := ready():
                return result
            if process.poll() is not None:
                break
        raise StageError(f"{what} did not start; its last lines:\n{log.read_text()[-2000:]}")


def _ticks(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)


def interrupt_on_sigterm() -> None:
    """From now on SIGTERM ends the demo as Ctrl-C does: with everything put away."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def wait_for_interrupt() -> None:
    """Until Ctrl-C or SIGTERM."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            signal.pause()
