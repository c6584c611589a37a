"""The whole gateway: a real `mitmdump -s mitm_forwarder_addon.py` in a subprocess.

    with Gateway(tmp_path, backend.url, backend.system_token, confdir=confdir) as gateway:
        ...  # a client on 127.0.0.1:gateway.port that trusts gateway.ca_file
        assert gateway.stop() == 0
    assert "secret" not in gateway.log()

It has a directory of its own for state, home and log, and an environment without proxies and
without variables of ours that the test has not given. Not thread-safe; one instance belongs to one
test thread.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from mitmproxy import certs

from tests.support.backend import ROOT
from tests.support.backend import wait_until

SCRIPT = ROOT / "mitm_forwarder_addon.py"
START_TIMEOUT = 40.0
STOP_TIMEOUT = 30.0
LISTENING = re.compile(r"listening at \S*?:(\d+)")
REFRESHED = "Refreshed blacklist cache"

# What a developer's shell or .env may have set, and what would change where things go.
_FOREIGN = re.compile(
    r"(?i:(?:https?|all|no)_proxy)|SYSTEM_TOKEN.*|DEFAULT_USER_JWT.*|FASTAPI_.*|BLACKLIST_.*|XDG_.*"
    r"|ACTIVITY_.*|METRICS_.*|MITM_.*|MAX_CONCURRENT_REQUESTS|REQUIRE_USER_JWT|STATE_DIR|SSLKEYLOGFILE"
)

alive: weakref.WeakSet[Gateway] = weakref.WeakSet()
"""Every gateway that has not been closed: what a failing test should show the log of."""


class GatewayError(Exception):
    """The gateway did not do what the test asked of it."""


def make_confdir(directory: Path) -> Path:
    """mitmproxy's directory with a CA in it. Making one takes longer than most tests: share it."""
    directory.mkdir(parents=True, exist_ok=True)
    certs.CertStore.from_store(directory, "mitmproxy", 2048)
    return directory


class Gateway:
    """Context manager: started and ready on entry, killed on exit if it still runs.

    `options` go to mitmdump as they are, `env` on top of the environment. Without `wait_for_rules`
    it counts as ready when it listens, without `wait` at once. `state_dir` lets several gateways
    share a state.
    """

    def __init__(
        self,
        directory: Path,
        backend_url: str,
        system_token: str,
        *,
        confdir: Path,
        options: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        script: Path = SCRIPT,
        wait: bool = True,
        wait_for_rules: bool = True,
        state_dir: Path | None = None,
    ) -> None:
        self.directory = directory
        self.state_dir = state_dir or directory / "state"
        self.confdir = confdir
        self.ca_file = confdir / "mitmproxy-ca-cert.pem"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._wait = wait
        self._wait_for_rules = wait_for_rules
        self._log_file = directory / "gateway.log"
        self._env = {
            "SYSTEM_TOKEN": system_token,
            "FASTAPI_BASE_URL": backend_url,
            "STATE_DIR": str(self.state_dir),
            "METRICS_LISTEN": "",
            **(env or {}),
        }
        code = "from mitmproxy.tools.main import mitmdump; mitmdump()"
        self._command = [sys.executable, "-c", code, "-s", str(script), "-p", "0"]
        self._command += ["--listen-host", "127.0.0.1", "--set", f"confdir={confdir}", *options]

    def __enter__(self) -> Self:
        self._spawn()
        try:
            if self._wait:
                self._get_ready()
        except Exception as error:
            self.close()
            raise GatewayError(f"the gateway did not start: {error}") from None
        except BaseException:
            self.close()
            raise
        return self

    def _get_ready(self) -> None:
        self.port = int(self.wait_for_log(LISTENING)[1])
        if self._wait_for_rules:
            self.wait_for_log(REFRESHED)
        wait_until(self._accepts, START_TIMEOUT, "the gateway's port")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """The end, also as far as failing tests are concerned."""
        self.kill()
        alive.discard(self)

    def _spawn(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        environ = {k: v for k, v in os.environ.items() if not _FOREIGN.fullmatch(k)}
        path = [p for p in (environ.get("PYTHONPATH"), str(ROOT)) if p]
        environ |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
        environ |= {"HOME": str(self.directory), "COLUMNS": "1000"} | self._env
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.directory,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        alive.add(self)

    def _accepts(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    # -- what it says ----------------------------------------------------------------------

    def log(self) -> str:
        """All that it has written to stdout and stderr."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def wait_for_log(
        self, pattern: str | re.Pattern[str], *, after: int = 0, timeout: float = START_TIMEOUT
    ) -> re.Match[str]:
        """The first match beyond character `after` (take `len(gateway.log())` before the act)."""

        def found() -> re.Match[str] | None:
            has_ended = self.exit_status() is not None
            match = re.compile(pattern).search(self.log(), after)
            if match is None and has_ended:
                raise GatewayError(f"it ended without logging {pattern!r}:\n{self.log()}")
            return match

        return wait_until(found, timeout, f"{pattern!r} in the gateway's log:\n{self.log()}")

    # -- how it ends -----------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the process, which was started."""
        assert self.process is not None
        return self.process.pid

    def exit_status(self) -> int | None:
        """None while it runs."""
        return self.process.poll() if self.process is not None else None

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Its exit status, as soon as it has ended by itself."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise GatewayError(f"still running after {timeout} s:\n{self.log()}") from None

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
