"""mitmdump, or a command like it, as a subprocess whose output a test can wait for.

    with Process(mitmdump("-p", "0", "-s", script), cwd=tmp_path) as process:
        port = process.port()
        ...
        assert process.stop() == 0
    assert "secret" not in process.text()

Not thread-safe; one instance belongs to one test.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 30.0

# Without these a sanitized extension (make asan-python) cannot be loaded.
SANITIZER_VARIABLES = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "PYTHONMALLOC")

T = TypeVar("T")


def mitmdump(*args: str) -> list[str]:
    """The command line of this interpreter's mitmdump, whether or not scripts are on PATH."""
    code = "from mitmproxy.tools.main import mitmdump; mitmdump()"
    return [sys.executable, "-c", code, "--listen-host", "127.0.0.1", *args]


class Process:
    """The process, with stdout and stderr in one file in `cwd`; killed at the end of the block.

    `env` is its whole environment but for PATH, HOME (`cwd`), PYTHONPATH (this checkout), what
    sanitizers need, and that there is no metrics page.
    """

    def __init__(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.output = cwd / "output.txt"
        inherited = {name: os.environ[name] for name in SANITIZER_VARIABLES if name in os.environ}
        environ = {
            **inherited,
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(cwd),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "METRICS_LISTEN": "",
            **(env or {}),
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The `count`-th match in the output; AssertionError when there is none in time."""

        def found() -> re.Match[str] | None:
            matches = list(re.finditer(pattern, self.text()))
            return matches[count - 1] if len(matches) >= count else None

        return self._until(found, repr(pattern))

    def port(self) -> int:
        return int(self.wait_for(r"listening at \S*?:(\d+)")[1])

    def ca(self) -> Path:
        """The certificate for clients, which is written after the first port is open."""
        confdir = self.output.parent / ".mitmproxy"
        # The last file of them all.
        self._until((confdir / "mitmproxy-dhparam.pem").exists, "certificate authority")
        return confdir / "mitmproxy-ca-cert.pem"

    def exit_status(self) -> int:
        """Waits for the end."""
        return self.process.wait(TIMEOUT)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.exit_status()

    def _until(self, ask: Callable[[], T | None], what: str) -> T:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            if answer := ask():
                return answer
            if ended:
                break
            time.sleep(0.02)
        raise AssertionError(f"waited in vain for {what}; the output is:\n{self.text()}")
