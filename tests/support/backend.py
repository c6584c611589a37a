"""The example backend as a subprocess that a test can fill, watch, disturb and take away.

    with Backend() as backend:
        token = backend.add_user()
        backend.add_proxy("127.0.0.1", 3128)
        backend.add_rule(r"blocked\\.test")
        ...  # run a gateway on backend.url with backend.system_token
        assert backend.wait_for_activity(1)[0]["status_code"] == 200
        backend.fault("/proxy", status=500)

It is the real application on a real socket and a real database in a directory of its own. This
module uses the standard library only: the gateway's interpreter need not have FastAPI, if
BACKEND_PYTHON names one that has. Not thread-safe; one instance belongs to one test thread.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from typing import Self
from typing import TypeVar
from urllib.parse import parse_qs

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0

T = TypeVar("T")


class BackendError(Exception):
    """The backend did not do what the test asked of it."""


def wait_until(ask: Callable[[], T | None], timeout: float, what: str) -> T:
    """The first answer that is not None or False; BackendError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() >= deadline:
            raise BackendError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Call:
    """A request as it reached the backend; header names in lower case."""

    time: float
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, list[str]]
    body: bytes
    client_port: int
    status: int | None
    """None as long as no answer has left."""

    @property
    def authorization(self) -> str | None:
        """The one Authorization header, or None; several are an error of the caller."""
        values = self.headers.get("authorization", [])
        if len(values) > 1:
            raise BackendError("the request had several Authorization headers")
        return values[0] if values else None

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Backend:
    """Context manager: started on a free port on entry, stopped and removed on exit.

    `environ` adds settings of the application; `python` is the interpreter that has FastAPI.
    """

    def __init__(self, *, environ: dict[str, str] | None = None, python: str | None = None) -> None:
        self.system_token = secrets.token_urlsafe(24)
        self._python = python or os.environ.get("BACKEND_PYTHON") or sys.executable
        self._extra_environ = environ or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._jwt_secret = secrets.token_hex(32)

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="backend-"))
        self._database = self._directory / "manager.db"
        self._log = self._directory / "log.txt"
        self._calls = self._directory / "calls.jsonl"
        self._calls.touch()
        self.clear_faults()
        # Bound but not listening: keeps the port ours while the backend is stopped, and lets
        # connections be refused meanwhile.
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(("127.0.0.1", 0))
        try:
            self.start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clean_up()

    def _clean_up(self) -> None:
        self.kill()
        self._reservation.close()
        shutil.rmtree(self._directory)

    # -- life ------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The same through all restarts."""
        port: int = self._reservation.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """For FASTAPI_BASE_URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The running process, or None."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start on the same port and the same database; returns when it answers."""
        if self._process is not None:
            raise BackendError("the backend is running already")
        command = [self._python, "-m", "uvicorn", "tests.support.backend_faults:create"]
        command += ["--factory", "--host", "127.0.0.1", "--port", str(self.port)]
        # A stop is an outage, not a farewell: it does not wait for calls that are being delayed.
        command += ["--timeout-graceful-shutdown", "0"]
        environ = {
            **os.environ,
            "SYSTEM_TOKEN": self.system_token,
            "JWT_SECRET": self._jwt_secret,
            "DATABASE_URL": f"sqlite:///{self._database}",
            "BACKEND_TEST_DIR": str(self._directory),
            **self._extra_environ,
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            wait_until(self._is_ready, START_TIMEOUT, "the backend's first answer")
        except BackendError as error:
            self.kill()
            raise BackendError(f"{error}; its log:\n{self.log()}") from None

    def _is_ready(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise BackendError("the backend ended while starting")
        try:
            return self._request("GET", "/health")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        """SIGTERM; connections are refused from then on until start(). Data stays.

        Calls that are being answered end with uvicorn's 500; with kill() their connection dies.
        """
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            raise BackendError("the backend is not running")
        self._process.send_signal(how)
        # A stopped (frozen) process takes no other signal.
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise BackendError(f"the backend ignored {how.name}") from None
        finally:
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted by the kernel, and then there is silence."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after freeze()."""
        self._running().send_signal(signal.SIGCONT)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BackendError("the backend is not running")
        return self._process

    def log(self) -> str:
        """What the backend has written to stdout and stderr so far."""
        return self._log.read_text()

    # -- content ---------------------------------------------------------------------------

    def add_user(self, name: str | None = None, *, ttl_seconds: int = 3600) -> str:
        """A new user's token."""
        return self.token(self.add_user_id(name), ttl_seconds=ttl_seconds)

    def add_user_id(self, name: str | None = None) -> int:
        """A new user's id, for token()."""
        user = self.admin("POST", "/users", {"name": name or f"user-{secrets.token_hex(4)}"})
        user_id: int = user["id"]
        return user_id

    def token(self, user_id: int, *, ttl_seconds: int = 3600) -> str:
        """A new token of a user, without the word Bearer."""
        wanted = {"user_id": user_id, "ttl_seconds": ttl_seconds}
        token: str = self.admin("POST", "/token", wanted)["access_token"]
        return token

    def add_proxy(self, ip: str, port: int, **fields: Any) -> int:
        """A new proxy's id; `fields` as in POST /proxies (protocol, username, ...)."""
        proxy_id: int = self.admin("POST", "/proxies", {"ip": ip, "port": port, **fields})["id"]
        return proxy_id

    def set_working(self, proxy_id: int, is_working: bool) -> None:
        """Put a proxy into the rotation or take it out."""
        self.admin("PATCH", f"/proxies/{proxy_id}", {"is_working": is_working})

    def add_rule(self, pattern: str, *, description: str | None = None) -> int:
        """A new rule's id."""
        rule = {"pattern": pattern, "description": description}
        rule_id: int = self.admin("POST", "/blacklist", rule)["id"]
        return rule_id

    def add_unchecked_rule(self, pattern: str) -> int:
        """A rule that the API would refuse, written straight into the database."""
        statement = "INSERT INTO blacklist (pattern, created_at) VALUES (?, '2024-01-01 00:00:00')"
        with closing(sqlite3.connect(self._database, timeout=10)) as database, database:
            rule_id = database.execute(statement, (pattern,)).lastrowid
        assert rule_id is not None
        return rule_id

    def delete_rule(self, rule_id: int) -> None:
        """Delete a rule."""
        self.admin("DELETE", f"/blacklist/{rule_id}")

    def activity(self) -> list[dict[str, Any]]:
        """All stored reports, oldest first, with id, idempotency_key and received_at.

        Read from the file, so it works while the backend is down.
        """
        with closing(sqlite3.connect(self._database, timeout=10)) as database:
            database.row_factory = sqlite3.Row
            rows = database.execute("SELECT * FROM activity ORDER BY id").fetchall()
        return [dict(row) for row in rows]

    def wait_for_activity(self, count: int, *, timeout: float = 10.0) -> list[dict[str, Any]]:
        """All reports as soon as there are at least `count`."""

        def enough() -> list[dict[str, Any]] | None:
            rows = self.activity()
            return rows if len(rows) >= count else None

        return wait_until(enough, timeout, f"{count} activity records")

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """An administrator's call, neither recorded nor disturbed; BackendError unless 2xx."""
        status, answer = self._request(method, path, body)
        if not 200 <= status < 300:
            raise BackendError(f"{method} {path} answered {status}: {answer.decode()}")
        return json.loads(answer) if answer else None

    def _request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        headers = {
            "Authorization": f"Bearer {self.system_token}",
            "X-Backend-Test": "1",
            "Content-Type": "application/json",
        }
        payload = None if body is None else json.dumps(body)
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path, payload, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    # -- faults and records ----------------------------------------------------------------

    def fault(
        self,
        path: str,
        *,
        status: int | None = None,
        delay: float = 0.0,
        body: bytes | str | list[Any] | dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        times: int | None = None,
        handled: bool = False,
        truncate: bool = False,
    ) -> None:
        """Disturb calls of a path, from the next one on; replaces earlier faults of the path.

        Without `status` the application answers and only what is named is changed. With `status`
        it never sees the call, unless `handled`: then it does its work, but the answer is
        replaced (an acknowledgement that is lost). `delay` is in seconds; `truncate` closes the
        connection one byte before the announced end; after `times` calls the fault is over.
        """
        if isinstance(body, (list, dict)):
            body = json.dumps(body)
        data = body.encode() if isinstance(body, str) else body
        fault = {
            "id": secrets.token_hex(8),
            "path": path,
            "status": status,
            "delay": delay,
            "body": None if data is None else base64.b64encode(data).decode(),
            "headers": {"Content-Type": "application/json", **(headers or {})},
            "times": times,
            "handled": handled,
            "truncate": truncate,
        }
        self._write_faults([f for f in self._faults if f["path"] != path] + [fault])

    def clear_faults(self) -> None:
        """End all faults; calls that are already being delayed finish as they began."""
        self._write_faults([])

    def _write_faults(self, faults: list[dict[str, Any]]) -> None:
        self._faults = faults
        partial = self._directory / "faults.json.new"
        partial.write_text(json.dumps(faults))
        partial.replace(self._directory / "faults.json")

    def calls(self, path: str | None = None) -> list[Call]:
        """The calls so far in the order of arrival, over all restarts; of one path, or all."""
        requests: dict[str, dict[str, Any]] = {}
        # What follows the last line end is still being written.
        lines = self._calls.read_text().rpartition("\n")[0].splitlines()
        for entry in map(json.loads, lines):
            requests.setdefault(entry["id"], {"status": None}).update(entry)
        calls = [_call(entry) for entry in requests.values()]
        return [call for call in calls if path is None or call.path == path]

    def wait_for_calls(self, path: str, count: int, *, timeout: float = 10.0) -> list[Call]:
        """The calls of a path as soon as there are at least `count`."""

        def enough() -> list[Call] | None:
            calls = self.calls(path)
            return calls if len(calls) >= count else None

        return wait_until(enough, timeout, f"{count} calls of {path}")


def _call(entry: dict[str, Any]) -> Call:
    headers: dict[str, list[str]] = {}
    for name, value in entry["headers"]:
        headers.setdefault(name.lower(), []).append(value)
    return Call(
        time=entry["time"],
        method=entry["method"],
        path=entry["path"],
        query=parse_qs(entry["query"], keep_blank_values=True),
        headers=headers,
        body=base64.b64decode(entry["body"]),
        client_port=entry["client_port"],
        status=entry["status"],
    )
