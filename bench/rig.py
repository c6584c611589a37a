"""The Go program of bench/rig: built once, run as servers, run as a client.

Says in words what is missing, since it is the one part of the bench that needs Go.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any
from typing import Self
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "bench"
TOKEN = "eyJhbGciOiJub25lIn0.eyJ1c2VyX2lkIjo3fQ.c2ln"
"""A user's token of the usual shape; the rig's backend checks none."""


def go() -> str:
    """The go command, or the end of the run."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found is None:
        sys.exit("make bench needs Go, which is not on this machine: https://go.dev/dl/")
    return found


def build(directory: Path, target: Path) -> Path:
    """Compile the Go program in `directory`; what is up to date is not built again."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([go(), "build", "-o", str(target), "."], cwd=directory, check=True)
    return target


class Rig:
    """Origin, upstream proxy and backend on ports of their own, while the block lasts."""

    def __init__(self, rules: int = 1000, delay: str = "0s", upstreams: int = 1) -> None:
        self.binary = build(ROOT / "bench" / "rig", BUILD / "rig")
        # Two threads: what is measured is the gateway, and the servers must not be the limit.
        self._process = subprocess.Popen(
            [
                *(str(self.binary), "serve", "-rules", str(rules), "-delay", delay),
                *("-upstreams", str(upstreams)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "GOMAXPROCS": "2"},
        )
        assert self._process.stdout is not None
        self.ports: dict[str, int] = json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def counts(self) -> dict[str, int]:
        """What the servers were asked since they started."""
        with urlopen(f"http://127.0.0.1:{self.ports['counts']}") as answer:
            counts: dict[str, int] = json.load(answer)
        return counts

    def load(self, port: int, kind: str, *flags: str, size: int = 1024) -> dict[str, Any]:
        """One run of the client against the gateway on `port`: kinds are plain, tls, new, h2."""
        scheme, which = ("http", "origin") if kind == "plain" else ("https", "secure")
        command = [str(self.binary), "load", "-proxy", f"http://127.0.0.1:{port}"]
        command += ["-target", f"{scheme}://127.0.0.1:{self.ports[which]}/?n={size}"]
        command += ["-token", TOKEN, *KINDS[kind], *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
        result: dict[str, Any] = json.loads(done.stdout)
        return result


KINDS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "tls": (),
    "new": ("-fresh",),
    "h2": ("-h2",),
}
