"""What is measured: bare mitmdump, ours in its two ways, and what others would do.

Every row does what it can of the same job. mitmdump gets the same options everywhere: lazy
connections, no upstream certificates and streaming, which ours sets itself, and trust in
the rig's origin.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import squid
from bench.cases import Case
from bench.rig import BUILD
from bench.rig import ROOT
from bench.rig import Rig
from bench.rig import build

OPTIONS = ["-q", "--set", "ssl_insecure=true"]
BARE = ["--set", "connection_strategy=lazy", "--set", "upstream_cert=false"]
BARE += ["--set", "stream_large_bodies=1m"]
PEERS = ROOT / "bench" / "peers"
MITMDUMP = ["-c", "from mitmproxy.tools.main import mitmdump; mitmdump()"]
LAUNCHER = ["-m", "mitm_forwarder", "run"]


@dataclass(frozen=True)
class Row:
    """One line of the table. `job` says what of the job it does."""

    name: str
    job: str
    arguments: tuple[str, ...] = ()
    launcher: tuple[str, ...] | None = None
    """Arguments of `mitm-forwarder run`; None for mitmdump."""
    confdir: str = "rsa"
    env: dict[str, str] = field(default_factory=dict)
    go: str | None = None
    """A Go program of bench/peers in the place of mitmproxy."""
    squid: bool = False

    def can(self, case: Case) -> bool:
        """goproxy and Squid offer no HTTP/2 inside TLS and ask no backend."""
        if self.squid and case.kind != "plain" and not squid.opens_tls():
            return False
        return not (self.squid or self.go) or not (case.job or case.kind == "h2")


ROWS = {
    row.name: row
    for row in (
        Row("bare", "mitmdump, no addon, directly to the target", tuple(BARE)),
        Row("script", "all of it, mitmdump -s", ("-s", str(ROOT / "mitm_forwarder_addon.py"))),
        Row("launcher", "all of it, mitm-forwarder run", launcher=()),
        Row("launcher-ec", "the same with a new CA", launcher=(), confdir="ec"),
        Row("launcher-2", "the same, two workers", launcher=("--workers", "2")),
        Row("squid", "Squid, to the upstream, ssl-bump for TLS", squid=True),
        Row("goproxy", "elazarl/goproxy, to the upstream", go="goproxy"),
        Row("httpx", "an addon with httpx and re", (*BARE, "-s", str(PEERS / "httpx_addon.py"))),
    )
}


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"a gateway did not start:\n{log.read_text(errors='replace')}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Gateway:
    """One row's process, up and loaded with its rules while the block lasts."""

    def __init__(self, row: Row, rig: Rig, prefix: tuple[str, ...] = ()) -> None:
        self.row = row
        self.port = free_port()
        self.directory = BUILD / "run" / f"{row.name}-{self.port}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "log"
        options = [*OPTIONS, "-p", str(self.port), "--listen-host", "127.0.0.1"]
        options += ["--set", f"confdir={confdir(row.confdir)}"]
        if row.go is not None:
            command = go_command(row.go, self.port, rig)
        elif row.squid:
            ca = confdir(row.confdir) / "mitmproxy-ca.pem"
            command = squid.command(self.directory, self.port, rig.ports["proxy"], ca)
        elif row.launcher is None:
            command = [sys.executable, *MITMDUMP, *options, *row.arguments]
        else:
            command = [sys.executable, *LAUNCHER, *row.launcher, "--", *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, *command],
                cwd=self.directory,
                env=environment(rig, self.directory) | row.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for_port(self.port, self.process, self.log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait_until_ready(self, rig: Rig) -> None:
        """Until it answers 200: with ours, the rules have arrived by then."""
        deadline = time.monotonic() + 60
        while rig.load(self.port, "plain", "-count", "1", "-clients", "1")["good"] != 1:
            if time.monotonic() > deadline:
                sys.exit(f"{self.row.name} answers errors:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.1)

    def rss_mib(self) -> float:
        return memory(self.process.pid)["Rss"]

    def workers(self) -> list[int]:
        """The processes that `run --workers` has forked; none with one worker."""
        pid = self.process.pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def memory(pid: int) -> dict[str, float]:
    """MiB of a process: Rss, Pss, Private_Clean, Private_Dirty and what else the kernel says."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}


def go_command(name: str, port: int, rig: Rig) -> list[str]:
    binary = build(PEERS / name, BUILD / name)
    upstream = f"http://127.0.0.1:{rig.ports['proxy']}"
    return [str(binary), "-listen", f"127.0.0.1:{port}", "-upstream", upstream]


def environment(rig: Rig, directory: Path) -> dict[str, str]:
    """No proxies, nothing of ours from outside, everything that ours needs."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TMPDIR")}
    return kept | {
        "HOME": str(directory),
        "PYTHONPATH": str(ROOT),
        "SYSTEM_TOKEN": "system-token",
        "FASTAPI_BASE_URL": f"http://127.0.0.1:{rig.ports['backend']}",
        "STATE_DIR": str(directory / "state"),
        "ALLOW_TARGETS": "127.0.0.1",
        "METRICS_LISTEN": "",
    }


def confdir(kind: str) -> Path:
    """mitmproxy's directory with a CA of either kind, made once: keys differ in cost."""
    path = BUILD / f"ca-{kind}"
    if not (path / "mitmproxy-ca.pem").exists():
        from mitmproxy import certs

        from mitm_forwarder import turbo

        added = turbo.install(["eckey"]) if kind == "ec" else []
        certs.CertStore.from_store(path, "mitmproxy", 2048)
        turbo.uninstall(added)
    return path
