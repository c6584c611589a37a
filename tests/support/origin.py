"""An origin that knows who has connected to it.

It is `examples.target`, plain and TLS, in threads of this process, with some paths more:

    /gate/NAME     answers when the test calls open_gate(NAME)
    /drops         announces a body, sends a part of it and closes
    /hangs-up      closes without an answer
    /ws            a WebSocket that echoes; `close` ends it
    /ticks/MEDIA   TICKS lines of this type of text, each with the (monotonic) time of its sending

Each accepted connection is noted before any byte is read: `strangers(...)` are those that no
upstream proxy has opened, that is, direct ones.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any
from typing import Self
from urllib.parse import urlsplit

from wsproto import ConnectionType
from wsproto import WSConnection
from wsproto import events as ws

from examples.certificates import make_tls
from examples.target import Handler
from examples.target import Target
from tests.support.backend import BackendError
from tests.support.backend import wait_until
from tests.support.proxies import Opener

GATE_TIMEOUT = 60.0
TICKS = 15
NOTICE_TIMEOUT = 3.0
NAMES = ["localhost", "127.0.0.1"]

Peer = tuple[str, int]


class _Handler(Handler):
    server: _Listener

    def answer(self) -> None:
        match urlsplit(self.path).path.strip("/").split("/"):
            case ["gate", name]:
                self.server.origin.note_arrival(name)
                self.server.origin.gate(name).wait(GATE_TIMEOUT)
                super().answer()
            case ["drops"]:
                self._note()
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart")
                self.close_connection = True
            case ["hangs-up"]:
                self._note()
                self.close_connection = True
            case ["ticks", media]:
                self._note()
                self._tick(media)
            case ["ws"]:
                self._note()
                self._echo_websocket()
                self.close_connection = True
            case _:
                super().answer()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def _note(self) -> None:
        self.server.record(
            {"method": self.command, "path": self.path, "headers": self.headers.items()}
        )

    def _tick(self, media: str) -> None:
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: text/{media}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self.wfile.write(head.encode())
        for _ in range(TICKS):
            time.sleep(0.05)
            line = f"data: {time.monotonic()}\n"
            self.wfile.write(f"{len(line):x}\r\n{line}\r\n".encode())
        self.wfile.write(b"0\r\n\r\n")

    def _echo_websocket(self) -> None:
        connection = WSConnection(ConnectionType.SERVER)
        head = f"{self.requestline}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in self.headers.items())
        connection.receive_data(f"{head}\r\n".encode("latin-1"))
        while True:
            for event in connection.events():
                if isinstance(event, ws.Request):
                    reply: ws.Event = ws.AcceptConnection()
                elif isinstance(event, ws.TextMessage) and event.data == "close":
                    reply = ws.CloseConnection(1000)
                elif isinstance(event, ws.TextMessage):
                    reply = ws.TextMessage(event.data)
                elif isinstance(event, ws.BytesMessage):
                    reply = ws.BytesMessage(event.data)
                elif isinstance(event, ws.CloseConnection):
                    return
                else:
                    continue
                self.wfile.write(connection.send(reply))
            data = self.connection.recv(65536)
            if not data:
                return
            connection.receive_data(data)


class _Listener(Target):
    def __init__(self, origin: Origin, **options: Any) -> None:
        super().__init__("127.0.0.1", 0, **options)
        self.RequestHandlerClass = _Handler
        self.origin = origin

    def get_request(self) -> Any:
        connection, peer = super().get_request()
        self.origin.peers.append(peer[:2])
        return connection, peer

    def record(self, entry: dict[str, Any]) -> None:
        self.origin.requests.append(entry)


class Origin:
    """Context manager. `peers` are all connections so far, `requests` all requests, in order."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.requests: list[dict[str, Any]] = []
        self.arrivals: list[str] = []
        self._gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="origin-")
        self.ca_file = Path(self._directory.name) / "ca.pem"
        tls = make_tls(NAMES, self.ca_file)
        self._listeners = [_Listener(self), _Listener(self, tls=tls)]
        self.http_port, self.https_port = (one.server_address[1] for one in self._listeners)
        self._threads = [
            threading.Thread(target=one.serve_forever, args=(0.05,)) for one in self._listeners
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for gate in self._gates.values():
            gate.set()
        for listener in self._listeners:
            listener.shutdown()
            listener.server_close()
        for thread in self._threads:
            thread.join()
        self._directory.cleanup()

    def url(self, path: str, *, tls: bool = False, host: str = "127.0.0.1") -> str:
        """Of a path with its leading slash."""
        return f"https://{host}:{self.https_port}{path}" if tls else self._http(host, path)

    def _http(self, host: str, path: str) -> str:
        return f"http://{host}:{self.http_port}{path}"

    def requests_of(self, path: str) -> list[dict[str, Any]]:
        """Those whose path begins so."""
        return [entry for entry in list(self.requests) if entry["path"].startswith(path)]

    def gate(self, name: str) -> threading.Event:
        """What /gate/NAME waits for."""
        with self._lock:
            return self._gates.setdefault(name, threading.Event())

    def open_gate(self, name: str) -> None:
        """Let /gate/NAME answer, now and from now on."""
        self.gate(name).set()

    def note_arrival(self, name: str) -> None:
        """A request of /gate/NAME is here."""
        with self._lock:
            self.arrivals.append(name)

    def strangers(self, openers: Iterable[Opener], after: int = 0) -> list[Peer]:
        """Connections that none of the openers has made, beyond the first `after`."""
        known = list(openers)
        found: list[Peer] = []

        def none_left() -> bool:
            # A proxy may tell of a connection only after we have accepted it.
            found[:] = [
                peer for peer in self.peers[after:] if not any(o.opened(*peer) for o in known)
            ]
            return not found

        with contextlib.suppress(BackendError):
            wait_until(none_left, NOTICE_TIMEOUT, "every connection to be a proxy's")
        return found
