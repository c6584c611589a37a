"""The metrics page apart from a gateway: what is on it, how several become one, who gets it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mitm_forwarder import __version__
from mitm_forwarder import _core
from mitm_forwarder.cli.workers import Control
from mitm_forwarder.web import board
from mitm_forwarder.web import desk
from mitm_forwarder.web import metrics
from mitm_forwarder.web.board import Board
from mitm_forwarder.web.board import Source
from mitm_forwarder.web.page import Page
from tests.support import exposition
from tests.support.backend import Backend
from tests.support.backend import wait_until
from tests.support.engine import SYSTEM_TOKEN
from tests.support.engine import USER_CANARY
from tests.support.engine import Rig

P = metrics.PREFIX
LOCAL = ("127.0.0.1", 0)


class Engine:
    """Says what a test wants."""

    def __init__(self, counts: Iterable[tuple[Any, int, int]] = (), **values: int) -> None:
        self.counts = list(counts)
        self.values = {family.source: 0 for family in metrics.FAMILIES if family.source} | values

    def stats(self) -> dict[str, Any]:
        return self.values

    def rule_counts(self) -> list[tuple[Any, int, int]]:
        return self.counts


def shown(*engines: Engine) -> exposition.Page:
    return exposition.parse(metrics.render(metrics.merge(map(metrics.read, engines))).decode())


# ---- what is on it


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


async def test_page_of_a_real_engine(backend: Backend, tmp_path: Path) -> None:
    """Every counter of stats.h and every gauge, with what has happened; and no secret."""
    rule = backend.add_rule(r"evil\.test")
    backend.add_unchecked_rule(r"^https?://(a|aa)+$")
    backend.add_unchecked_rule(r"[0-9]{9}")
    secrets = {"SYSTEM_TOKEN": backend.system_token, "METRICS_TOKEN": "metrics-canary"}
    async with Rig(backend.url, tmp_path, **secrets) as rig:
        await rig.wait_for(lambda: rig.stats["rules"] == 3, what="the rules")
        for _ in range(3):
            assert (await rig.ask("http://evil.test/")).status == 403
        text = metrics.render(metrics.read(rig.bridge.engine)).decode()
    page = exposition.parse(text)
    for name, help in _core.COUNTERS:
        assert page.types[f"{P}{name}_total"] == "counter"
        assert page.helps[f"{P}{name}_total"] == help
    assert page[f"{P}requests_total"] == page[f"{P}blocked_total"] == 3
    assert page[f"{P}records_total"] == 3
    assert page[f"{P}rules"] == 3
    assert page[f"{P}rules_always_run"] == 1
    assert page[f"{P}rules_quarantined"] == 1
    assert page[f"{P}rule_hits_total", str(rule)] >= 3
    assert 0 <= page[f"{P}rules_age_seconds"] < 5
    assert page[f"{P}build_info", __version__] == 1
    gauges = {f"{P}{f.name}" for f in metrics.FAMILIES if f.type == "gauge"}
    assert {name for name, kind in page.types.items() if kind == "gauge"} == gauges
    for secret in (*secrets.values(), USER_CANARY, "evil"):
        assert secret not in text


async def test_spool_and_breaker_of_a_backend_that_is_gone(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with Rig(f"http://127.0.0.1:{nobody.getsockname()[1]}", tmp_path) as rig:
            assert (await rig.ask("http://example.test/")).error == "no_rules"

            def page() -> exposition.Page:
                return exposition.parse(metrics.render(metrics.read(rig.bridge.engine)).decode())

            assert f"{P}rules_age_seconds" not in page().types
            assert page()[f"{P}spool_records"] == 1
            assert page()[f"{P}spool_bytes"] > 0
            age = f"{P}spool_oldest_record_age_seconds"
            await rig.wait_for(lambda: page()[age] > 0.3, what="the record to grow old")
            assert page()[age] < 10


async def test_breaker_is_seen_open_and_closed(backend: Backend, tmp_path: Path) -> None:
    async with Rig(backend.url, tmp_path, SYSTEM_TOKEN=backend.system_token) as rig:
        await rig.wait_for(lambda: rig.stats["rules_age_ms"] >= 0, what="the rules")
        assert metrics.read(rig.bridge.engine)["breaker_open", ""] == 0
        backend.fault("/proxy", status=500, times=5)
        for _ in range(5):
            await rig.ask("http://example.test/")
        assert metrics.read(rig.bridge.engine)["breaker_open", ""] == 1
        backend.clear_faults()


def test_ids_are_escaped_and_never_twice() -> None:
    odd = 'a"b\\c\nd\u00e9'
    page = shown(Engine([(odd, 2, 0), (7, 1, 5), ("7", 1, 0), (None, 1, 0), (8, 0, 3)]))
    hits = {key[1]: page[key] for key in page.samples if key[0] == f"{P}rule_hits_total"}
    assert hits == {odd: 2, "7": 2, "none": 1}
    limits = {key[1]: page[key] for key in page.samples if key[0] == f"{P}rule_limit_hits_total"}
    assert limits == {"7": 5, "8": 3}
    assert page.labels[f"{P}rule_hits_total"] == "rule"


def test_only_so_many_rules() -> None:
    most = [(n, n, 0) for n in range(1, 800)]
    page = shown(Engine(most), Engine([(n + 5000, n, 0) for n in range(1, 800)]))
    hits = {key[1]: page[key] for key in page.samples if key[0] == f"{P}rule_hits_total"}
    assert len(hits) == metrics.RULES_SHOWN_MAX
    assert min(hits.values()) == 300 or min(hits.values()) == 299
    assert hits["799"] == hits["5799"] == 799


def test_several_as_one() -> None:
    """Counters and gauges of a process are sums, ages the oldest, of the one list the worst."""
    first = Engine([(1, 2, 0)], requests=5, running=1, rules=10, rules_age_ms=1500, spool_age_ms=9)
    second = Engine([(1, 3, 0)], requests=7, running=2, rules=9, rules_age_ms=-1, spool_age_ms=2500)
    page = shown(first, second)
    assert page[f"{P}requests_total"] == 12
    assert page[f"{P}requests_running"] == 3
    assert page[f"{P}rules"] == 9
    assert page[f"{P}rules_age_seconds"] == 1.5
    assert page[f"{P}spool_oldest_record_age_seconds"] == 2.5
    assert page[f"{P}rule_hits_total", "1"] == 5
    assert page[f"{P}workers"] == 2
    assert page[f"{P}build_info", __version__] == 1


def test_readings_travel() -> None:
    readings = metrics.read(Engine([("x\n", 1, 2)], requests=2**60, rules_age_ms=1))
    assert metrics.load(metrics.dump(readings)) == readings


def test_many_rules_cost_the_loop_little() -> None:
    """What the loop does for a page is bounded, whatever the list; ten times what was measured."""
    engine = Engine([(n, n + 1, n) for n in range(metrics.RULES_SHOWN_MAX)])
    best = min(_seconds(lambda: metrics.render(metrics.read(engine))) for _ in range(5))
    assert best < 0.1


def _seconds(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


# ---- who gets it: the page of one process


class Served:
    """A Page on a loop of its own thread, as a gateway has it."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.reads = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> Served:
        self.thread.start()
        self.page: Page = self.call(lambda: Page(self.read, lambda: self.token))
        self.call(lambda: self.page.move(LOCAL))
        self.port = self.page.places[0][1]
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self.page.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def call(self, what: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return what()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def read(self) -> metrics.Readings:
        self.reads += 1
        return metrics.read(Engine(requests=self.reads))

    def raw(self, *pieces: bytes) -> bytes:
        """What comes back for these bytes, until the end."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as sock:
            for piece in pieces:
                sock.sendall(piece)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while data := sock.recv(65536):
                    answer += data
            return answer


def status_of(answer: bytes) -> int:
    head, end, body = answer.partition(b"\r\n\r\n")
    assert end and b"Connection: close" in head
    assert f"Content-Length: {len(body)}\r\n".encode() in head + b"\r\n"
    return int(head.split()[1])


@pytest.mark.parametrize(
    "request_, status",
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /metrics?a=b HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET http://example.com/metrics HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT example.com:443 HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * desk.HEAD_MAX_BYTES, 431),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * desk.HEAD_MAX_BYTES + b"\r\n\r\n", 431),
    ],
)
def test_requests(request_: bytes, status: int) -> None:
    with Served() as served:
        assert status_of(served.raw(request_)) == status


def test_request_in_pieces() -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with Served() as served:
        assert status_of(served.raw(*(request[n : n + 1] for n in range(len(request))))) == 200


@pytest.mark.parametrize(
    "lines, status",
    [
        (b"Authorization: Bearer t0ken\r\n", 200),
        (b"AUTHORIZATION:  bearer   t0ken \r\n", 200),
        (b"", 401),
        (b"Authorization: Bearer t0ke\r\n", 401),
        (b"Authorization: Bearer t0ken2\r\n", 401),
        (b"Authorization: Bearer\r\n", 401),
        (b"Authorization: Basic t0ken\r\n", 401),
        (b"Authorization: Bearer \xff\r\n", 401),
        (b"Authorization: Bearer t0ken\r\nAuthorization: Bearer x\r\n", 401),
    ],
)
def test_token(lines: bytes, status: int) -> None:
    with Served("t0ken") as served:
        answer = served.raw(b"GET /metrics HTTP/1.1\r\n" + lines + b"\r\n")
        assert status_of(answer) == status
        assert (b"WWW-Authenticate: Bearer" in answer) == (status == 401)
        assert served.reads == (status == 200)


def test_token_is_asked_for_before_anything_is_said() -> None:
    with Served("t0ken") as served:
        assert status_of(served.raw(b"GET /nothing HTTP/1.1\r\n\r\n")) == 401
        served.token = "rotated"
        assert exposition.fetch(served.port, "t0ken")[0] == 401
        assert exposition.fetch(served.port, "rotated")[0] == 200


def test_who_asks_all_the_time_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "FRESH_SECONDS", 60.0)
    with Served() as served:
        pages = {exposition.fetch(served.port)[1] for _ in range(10)}
        assert len(pages) == served.reads == 1


@contextlib.contextmanager
def silent_clients(served: Served) -> Iterator[list[socket.socket]]:
    """Three times as many as there is room for; none gets to the end of its request."""
    with contextlib.ExitStack() as stack:
        place = ("127.0.0.1", served.port)
        clients = [
            stack.enter_context(socket.create_connection(place, 10))
            for _ in range(3 * desk.CLIENTS_MAX)
        ]
        for sock in clients:
            with contextlib.suppress(OSError):
                sock.sendall(b"GET /metr")
        yield clients


def test_silent_clients_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "CLIENT_SECONDS", 60.0)
    with Served() as served, silent_clients(served):
        assert exposition.scrape(served.port)[f"{P}workers"] == 1
        assert 0 < len(served.page._desk._clients) <= desk.CLIENTS_MAX


def test_silent_clients_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "CLIENT_SECONDS", 0.5)
    with Served() as served, silent_clients(served) as clients:
        for sock in clients:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b""
        wait_until(lambda: not served.page._desk._clients, 5, "the end of all")


def test_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "CLIENT_SECONDS", 0.5)
    # More than the kernel would take off our hands.
    monkeypatch.setattr(metrics, "render", lambda _: bytes(32 << 20))
    with Served() as served, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", served.port))
        sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        wait_until(lambda: bool(served.page._desk._clients), 5, "the client")
        wait_until(lambda: not served.page._desk._clients, 5, "its end")


def test_no_descriptor_stays() -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    with Served():
        pass
    before = descriptors()
    for _ in range(5):
        with Served() as served, socket.create_connection(("127.0.0.1", served.port), 10):
            served.call(lambda served=served: served.page.move(None))
            assert served.page.places == ()
            served.call(lambda served=served: served.page.move(LOCAL))
    assert descriptors() == before


def test_port_that_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    with Served() as first, Served() as second:
        taken = ("127.0.0.1", first.port)
        with caplog.at_level(logging.WARNING):
            second.call(lambda: second.page.move(taken))
            second.call(lambda: second.page.move(taken))
        (record,) = caplog.records
        assert f"METRICS_LISTEN=127.0.0.1:{first.port} cannot be had" in record.getMessage()
        assert second.page.places == ()
        # Wherever it goes next, it is there.
        second.call(lambda: second.page.move(LOCAL))
        assert exposition.scrape(second.page.places[0][1])


def test_accept_that_fails_is_no_busy_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "ACCEPT_PAUSE_SECONDS", 0.2)

    class Poor:
        """A listener that has no descriptors for a while."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock, self.refusals, self.tries = sock, 2, 0

        def accept(self) -> Any:
            self.tries += 1
            if self.tries <= self.refusals:
                raise OSError(24, "Too many open files")
            return self.sock.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sock, name)

    with Served() as served:
        poor = Poor(served.page._desk._listener)  # type: ignore[arg-type]
        served.page._desk._listener = poor  # type: ignore[assignment]
        assert exposition.fetch(served.port)[0] == 200
        assert poor.tries == 3


# ---- one for several


class Pool:
    """A Board, and sockets in the place of workers. Everything in the test's own thread."""

    def __init__(self, count: int) -> None:
        self.pairs = [
            socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)
        ]
        self.sources = [Source(ours) for ours, _ in self.pairs]
        self.board = Board(lambda: self.sources)
        ((_, self.port),) = self.board.listen(LOCAL)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.board.close()
        for pair in self.pairs:
            for sock in pair:
                sock.close()

    def answer(self, index: int, readings: metrics.Readings) -> None:
        """What worker `index` says, if it was asked; and what the supervisor makes of it."""
        ours, theirs = self.pairs[index]
        assert theirs.recv(100, socket.MSG_DONTWAIT) == board.QUESTION
        board.hand_over(theirs, readings)
        _, fds, _, _ = socket.recv_fds(ours, 100, 1)
        self.board.heard(self.sources[index], fds[0])

    def scrape(self, *answers: metrics.Readings | None) -> tuple[exposition.Page, float]:
        """The page, when worker n answers answers[n] (None: nothing), and how long it took."""
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), 10) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            while not self.sources[0].asked:
                self.wait()
            for index, readings in enumerate(answers):
                if readings is not None:
                    self.answer(index, readings)
            sock.setblocking(False)
            answer = b""
            while not answer.endswith(b"\n"):
                self.wait()
                with contextlib.suppress(BlockingIOError):
                    answer += sock.recv(1 << 20)
        assert status_of(answer) == 200
        text = answer.partition(b"\r\n\r\n")[2].decode()
        return exposition.parse(text), time.monotonic() - started

    def wait(self) -> None:
        """As the supervisor does: until something happens or is due, but not for long."""
        select.select([self.board], [], [], 0.05)
        self.board.step()


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every page is made anew; and there is a configuration."""
    monkeypatch.setattr(desk, "FRESH_SECONDS", 0.0)
    monkeypatch.setenv("SYSTEM_TOKEN", SYSTEM_TOKEN)
    monkeypatch.chdir(tmp_path)


def reading(**values: int) -> metrics.Readings:
    return metrics.read(Engine(**values))


@pytest.mark.usefixtures("stale")
def test_workers_are_summed() -> None:
    with Pool(2) as pool:
        page, seconds = pool.scrape(reading(requests=5), reading(requests=7))
        assert page[f"{P}requests_total"] == 12
        assert page[f"{P}workers"] == 2
        assert page[f"{P}workers_silent"] == 0
        assert seconds < board.PATIENCE_SECONDS


@pytest.mark.usefixtures("stale")
def test_silent_worker_is_left_out_and_counted() -> None:
    """Of what it has counted nothing is taken back, and it is asked again: it may have failed."""
    with Pool(2) as pool:
        pool.scrape(reading(requests=5, running=1), reading(requests=7, running=2))
        for _ in range(2):
            page, seconds = pool.scrape(reading(requests=6, running=1), None)
            assert board.PATIENCE_SECONDS <= seconds < 3 * board.PATIENCE_SECONDS
            assert page[f"{P}requests_total"] == 13
            assert page[f"{P}requests_running"] == 1
            assert page[f"{P}workers"] == 1
            assert page[f"{P}workers_silent"] == 1
        pool.answer(1, reading(requests=9, running=2))
        assert pool.pairs[1][1].recv(100, socket.MSG_DONTWAIT) == board.QUESTION
        page, _ = pool.scrape(reading(requests=6), reading(requests=9))
        assert page[f"{P}requests_total"] == 15
        assert page[f"{P}workers_silent"] == 0


@pytest.mark.usefixtures("stale")
def test_counters_outlive_their_worker() -> None:
    """Prometheus would take a sum that falls for one that began anew."""
    rules = [(1, 4, 0)]
    with Pool(2) as pool:
        pool.scrape(reading(requests=5), metrics.read(Engine(rules, requests=7, running=2)))
        pool.board.lost(pool.sources.pop())
        page, _ = pool.scrape(reading(requests=6))
        assert page[f"{P}requests_total"] == 13
        assert page[f"{P}rule_hits_total", "1"] == 4
        assert page[f"{P}requests_running"] == 0
        assert page[f"{P}workers"] == 1


@pytest.mark.usefixtures("stale")
def test_counters_outlive_an_engine() -> None:
    """A worker that has reloaded its script begins at 0; a rule that is gone is no such thing."""
    with Pool(1) as pool:
        pool.scrape(metrics.read(Engine([(1, 4, 0)], requests=5, records=5)))
        page, _ = pool.scrape(metrics.read(Engine(requests=6, records=6)))
        assert page[f"{P}requests_total"] == 6
        pool.scrape({})
        page, _ = pool.scrape(reading(requests=2, records=1))
        assert page[f"{P}requests_total"] == 8
        assert page[f"{P}records_total"] == 7


def test_worker_hears_while_it_asks() -> None:
    """A question that comes before the sockets a worker waits for is heard after them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as listener:
        ours.send(board.QUESTION)
        ours.send(b'{"serving": []}')
        socket.send_fds(ours, [b"sockets"], [listener.fileno()])
        control = Control(theirs)
        (sock,) = control.listen("127.0.0.1", 0)
        assert sock.getsockname() == listener.getsockname()
        sock.close()
        assert control.hear() == [board.QUESTION, b'{"serving": []}']
        assert control.hear() == []
        ours.close()
        assert control.hear() == [b""]


@pytest.mark.usefixtures("stale")
def test_answer_that_is_none() -> None:
    with Pool(1) as pool:
        fd = os.memfd_create("nonsense")
        os.write(fd, b"[1, 2]")
        pool.sources[0].asked = True
        pool.board.heard(pool.sources[0], fd)
        assert pool.sources[0].asked
        with pytest.raises(OSError):
            os.fstat(fd)


@pytest.mark.usefixtures("stale")
def test_token_that_came_with_new_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP has replaced them, and they have read a configuration that has a token now."""
    with Pool(1) as pool:
        pool.scrape(reading())
        monkeypatch.setenv("METRICS_TOKEN", "t0ken")
        pool.board.listen(LOCAL)
        with socket.create_connection(("127.0.0.1", pool.port), 10) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            sock.setblocking(False)
            answer = b""
            while b"\r\n" not in answer:
                pool.wait()
                with contextlib.suppress(BlockingIOError):
                    answer += sock.recv(1 << 20)
        assert status_of(answer) == 401


@pytest.mark.usefixtures("stale")
def test_board_warns_once_of_a_port_that_is_taken(capfd: pytest.CaptureFixture[str]) -> None:
    with Pool(1) as pool, Pool(1) as other:
        taken = ("127.0.0.1", other.port)
        assert pool.board.listen(taken) == ()
        assert pool.board.listen(taken) == ()
        assert capfd.readouterr().err.count("cannot be had") == 1
        other.board.listen(None)
        assert pool.board.listen(taken) == (taken,)
