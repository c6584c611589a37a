"""Several gateway processes on one port: `mitm-forwarder run --workers N`.

The supervisor imports everything, forks the workers (which share that memory) and proxies nothing.
It holds the listening sockets and hands them to each worker that asks, so a connection that arrives
while a worker starts, stops or has died waits in the queue of the socket for another one. SIGTERM
ends all; SIGHUP replaces one worker after the other; one that dies is started again.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import NoReturn

import click

from mitm_forwarder.web.board import Board
from mitm_forwarder.web.board import Source
from mitm_forwarder.web.desk import Place

RESTART_SECONDS = 1.0
"""A worker that dies is started again at most once in this time."""

BACKLOG = 512
MESSAGE_MAX_BYTES = 4096
SOCKETS_MAX = 16
RETIRE_SIGNAL = signal.SIGQUIT
"""To a worker: leave, but serve whoever has connected (nginx has the same two signals)."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(slots=True)
class Worker:
    """A process, as the supervisor sees it."""

    slot: int
    pid: int
    control: socket.socket
    started: float
    source: Source
    ready: bool = False
    replaces: Worker | None = None
    """Told to leave when this one is ready."""
    leaving: bool = False


class Control:
    """The supervisor, as a worker sees it. Its end of the socket is at EOF when that has died."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._unheard: list[bytes] = []

    def listen(self, host: str, port: int) -> list[socket.socket]:
        """The sockets that all workers accept from; OSError when they cannot be had."""
        self.socket.send(json.dumps([host, port]).encode())
        while True:
            answer, fds, _, _ = socket.recv_fds(self.socket, MESSAGE_MAX_BYTES, SOCKETS_MAX)
            if fds or not answer or answer.startswith(b"["):
                break
            self._unheard.append(answer)
        if not fds:
            code, text = json.loads(answer or b'[0, "the supervisor has died"]')
            raise OSError(code, text)
        return [socket.socket(fileno=fd) for fd in fds]

    def say_ready(self) -> None:
        self.socket.send(b"ready")

    def want_metrics(self, place: Place | None) -> None:
        """Where the configuration wants the page. The answer comes by hear()."""
        self.socket.send(json.dumps({"metrics": place}).encode())

    def hear(self) -> list[bytes]:
        """What the supervisor has said unasked; an empty message is its end."""
        heard, self._unheard = self._unheard, []
        try:
            heard.append(self.socket.recv(MESSAGE_MAX_BYTES, socket.MSG_DONTWAIT))
        except BlockingIOError:
            pass
        except ConnectionError:
            heard.append(b"")  # it died with something of ours unread
        return heard


@dataclass(slots=True)
class Supervisor:
    """`serve` is what a worker does; it ends by returning or by SystemExit."""

    count: int
    serve: Callable[[Control], None]
    workers: list[Worker] = field(default_factory=list)
    listening: dict[tuple[str, int], list[socket.socket]] = field(default_factory=dict)
    to_replace: list[Worker] = field(default_factory=list)
    due: dict[int, float] = field(default_factory=dict)
    """Slots without a worker, and when (monotonic seconds) each gets one."""
    stopping: bool = False
    status: int = 0
    board: Board = field(init=False)

    def __post_init__(self) -> None:
        self.board = Board(lambda: [worker.source for worker in self.workers if worker.ready])

    def run(self) -> int:
        """Until all workers have ended; the exit status."""
        gc.collect()
        gc.freeze()  # a collection would write to every page that the workers share
        with _signals() as (arrived, wake):
            self.due = dict.fromkeys(range(self.count), 0.0)
            while self.workers or (self.due and not self.stopping):
                self._start_due()
                controls = {worker.control: worker for worker in self.workers}
                waited: list[Any] = [wake, self.board, *controls]
                readable, _, _ = select.select(waited, [], [], self._patience())
                for sock in readable:
                    if sock in controls:
                        self._hear(controls[sock])
                if wake in readable:
                    wake.recv(MESSAGE_MAX_BYTES)
                while arrived:
                    self._take(arrived.pop(0))
                self._reap()
                self.board.step()
        self.board.close()
        return self.status

    def _patience(self) -> float | None:
        dues = [] if self.stopping else list(self.due.values())
        if (deadline := self.board.deadline()) is not None:
            dues.append(deadline)
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    # ---- starting

    def _start_due(self) -> None:
        for slot, due in list(self.due.items()):
            if due <= time.monotonic() and not self.stopping:
                del self.due[slot]
                self._start(slot, None)

    def _start(self, slot: int, replaces: Worker | None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._become_worker(theirs)
        theirs.close()
        source = Source(ours)
        self.workers.append(Worker(slot, pid, ours, time.monotonic(), source, replaces=replaces))

    def _become_worker(self, control: socket.socket) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            self.board.close()
            for worker in self.workers:
                worker.control.close()
            for sockets in self.listening.values():
                for sock in sockets:
                    sock.close()
            self.serve(Control(control))
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    # ---- what workers say

    def _hear(self, worker: Worker) -> None:
        try:
            message, fds, _, _ = socket.recv_fds(worker.control, MESSAGE_MAX_BYTES, 1)
        except OSError:
            return
        for fd in fds:
            self.board.heard(worker.source, fd)
        if fds:
            return
        if message == b"ready":
            worker.ready = True
            if (old := worker.replaces) is not None:
                worker.replaces = None
                if old in self.workers:  # else its pid may be somebody else's by now
                    self._dismiss(old, RETIRE_SIGNAL)
                self._replace_next()
        elif message.startswith(b"["):
            host, port = json.loads(message)
            self._give_sockets(worker, host, port)
        elif message:
            self._serve_metrics(json.loads(message)["metrics"])

    def _serve_metrics(self, place: list[Any] | None) -> None:
        serving = self.board.listen(None if place is None else (place[0], place[1]))
        for worker in self.workers:
            # One whose queue is full for want of reading learns of it by its configuration.
            with contextlib.suppress(OSError):
                message = json.dumps({"serving": serving}).encode()
                worker.control.send(message, socket.MSG_DONTWAIT)

    def _give_sockets(self, worker: Worker, host: str, port: int) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            try:
                if (host, port) not in self.listening:
                    self.listening[host, port] = open_sockets(host, port)
            except OSError as error:
                worker.control.send(json.dumps([error.errno, error.strerror]).encode())
                return
            fds = [sock.fileno() for sock in self.listening[host, port]]
            socket.send_fds(worker.control, [b"sockets"], fds)

    # ---- signals

    def _take(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self.stopping = True
            self.to_replace.clear()
            for worker in self.workers:
                self._dismiss(worker)
        elif number == signal.SIGHUP and not self.stopping:
            # Again while a restart goes on: one at a time all the same, and those that are new by
            # now may have begun before whatever the second signal is for.
            replaced = [worker.replaces for worker in self.workers if worker.replaces is not None]
            self.to_replace = [w for w in self.workers if not w.leaving and w not in replaced]
            if not replaced:
                self._replace_next()

    def _replace_next(self) -> None:
        while self.to_replace:
            old = self.to_replace.pop(0)
            if old in self.workers and not old.leaving:
                self._start(old.slot, old)
                return

    def _dismiss(self, worker: Worker, number: int = signal.SIGTERM) -> None:
        worker.leaving = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, number)

    def _reap(self) -> None:
        for worker in list(self.workers):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self.workers.remove(worker)
                worker.control.close()
                self.board.lost(worker.source)
                self._mourn(worker, os.waitstatus_to_exitcode(status))

    def _mourn(self, worker: Worker, status: int) -> None:
        if worker.leaving or self.stopping:
            return
        click.echo(f"mitm-forwarder: worker {worker.pid} ended with status {status}", err=True)
        if any(other.replaces is worker for other in self.workers):
            return  # the one for its place is on its way
        if worker.replaces is not None:
            # The new one does not come up: the one that works stays, and so do the rest.
            self.to_replace.clear()
            if worker.replaces not in self.workers:
                self.due[worker.slot] = worker.started + RESTART_SECONDS
        elif not worker.ready and not any(other.ready for other in self.workers):
            # Nothing has ever worked, and why has been said.
            self.status = status if status > 0 else 1
            self._take(signal.SIGTERM)
        else:
            self.due[worker.slot] = worker.started + RESTART_SECONDS


@contextlib.contextmanager
def _signals() -> Iterator[tuple[list[int], socket.socket]]:
    """The numbers of signals as they arrive, and a socket that is readable when one has."""
    arrived: list[int] = []
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    old = {number: signal.signal(number, lambda n, _: arrived.append(n)) for number in SIGNALS}
    old_fd = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    try:
        yield arrived, wake
    finally:
        signal.set_wakeup_fd(old_fd)
        for number, handler in old.items():
            signal.signal(number, handler)
        wake.close()
        waker.close()


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for all addresses of a host ("" is every interface), on one port."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            fixed = sockets[0].getsockname()[1] if port == 0 and len(sockets) > 1 else port
            sock.bind((address[0], fixed, *address[2:]))
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets
