"""The one metrics page of several workers, served by their supervisor, whose own work never waits
for it. The supervisor's thread only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import click

from mitm_forwarder import options
from mitm_forwarder.web import metrics
from mitm_forwarder.web.desk import Desk
from mitm_forwarder.web.desk import Place
from mitm_forwarder.web.page import not_served
from mitm_forwarder.web.page import served

QUESTION = b"stats"
PATIENCE_SECONDS = 1.0
"""A worker that has not answered by then is left out."""
READINGS_MAX_BYTES = 4 << 20


def hand_over(sock: socket.socket, readings: metrics.Readings) -> None:
    """A worker's answer; OSError. In a file, for a message may not be as long as this."""
    fd = os.memfd_create("readings")
    try:
        os.write(fd, metrics.dump(readings))
        socket.send_fds(sock, [QUESTION], [fd], socket.MSG_DONTWAIT)
    finally:
        os.close(fd)


@dataclass(slots=True, eq=False)
class Source:
    """What is known of one worker."""

    sock: socket.socket
    readings: metrics.Readings | None = None
    """The last it gave."""
    asked: bool = False
    """It still has to answer."""


class Board:
    """`sources` gives those that can be asked."""

    def __init__(self, sources: Callable[[], list[Source]]) -> None:
        self._sources = sources
        self._secrets: options.Secrets | None = None
        self._desk = Desk(self._token, self._ask)
        self._place: Place | None = None
        self._warned: set[Place] = set()
        self._due: float | None = None
        self._gone: metrics.Readings = {}

    def fileno(self) -> int:
        return self._desk.fileno()

    def deadline(self) -> float | None:
        """When step() is due (time.monotonic())."""
        dues = [due for due in (self._desk.deadline(), self._due) if due is not None]
        return min(dues, default=None)

    def step(self) -> None:
        """Whatever can be done now."""
        self._desk.step()
        self._finish()

    def listen(self, place: Place | None) -> tuple[Place, ...]:
        """A worker's configuration wants the page there; where it is."""
        try:
            # Anew each time, as the worker has: SIGHUP may have brought it a token.  Valid there,
            # and so here, unless a file has gone meanwhile.
            self._secrets = options.Secrets()
        except options.ConfigError as error:
            self._place = None
            self._desk.listen(None)
            click.echo(f"mitm-forwarder: Metrics are not served: {error}", err=True)
            return ()
        if place != self._place or not self._desk.places:
            self._place = place
            try:
                self._desk.listen(place)
            except OSError as error:
                self._warn(error)
            for actual in self._desk.places:
                click.echo(f"mitm-forwarder: {served(actual)}", err=True)
        return self._desk.places

    def _warn(self, error: OSError) -> None:
        place = self._place
        assert place is not None
        if place not in self._warned:
            self._warned.add(place)
            click.echo(f"mitm-forwarder: {not_served(place, error)}", err=True)

    def _token(self) -> str | None:
        assert self._secrets is not None
        self._secrets.changed()
        return self._secrets.metrics_token

    def close(self) -> None:
        """Nothing of it is left; also in a forked child."""
        self._desk.close()

    # ---- a round of questions

    def _ask(self) -> None:
        if self._due is None:
            self._due = time.monotonic() + PATIENCE_SECONDS
            for source in self._sources():
                # Also one that did not answer the last: it may have failed to, and a full socket
                # takes no more.
                source.asked = True
                with contextlib.suppress(OSError):
                    source.sock.send(QUESTION, socket.MSG_DONTWAIT)

    def heard(self, source: Source, fd: int) -> None:
        """A worker's answer, in a file that is closed here."""
        try:
            readings = metrics.load(os.pread(fd, READINGS_MAX_BYTES, 0))
            if source.readings is not None and metrics.began_anew(readings, source.readings):
                self._bury(source.readings)
            source.readings, source.asked = readings, False
        except (OSError, ValueError, TypeError):
            pass  # as good as none
        finally:
            os.close(fd)
        self._finish()

    def lost(self, source: Source) -> None:
        """A worker has ended: what it has counted has happened."""
        if source.readings is not None:
            self._bury(source.readings)
        self._finish()

    def _bury(self, readings: metrics.Readings) -> None:
        self._gone = metrics.merge([self._gone, metrics.counters(readings)])

    def _finish(self) -> None:
        if self._due is None:
            return
        sources = self._sources()
        if any(source.asked for source in sources) and time.monotonic() < self._due:
            return
        self._due = None
        self._desk.publish(metrics.render(self._merged(sources)))

    def _merged(self, sources: list[Source]) -> metrics.Readings:
        parts, silent = [self._gone], 0
        for source in sources:
            known = source.readings or {}
            # Counters never fall, or Prometheus would take all of them for new.
            parts.append(metrics.counters(known) if source.asked else known)
            silent += source.asked
        readings = metrics.merge(parts)
        readings.setdefault((metrics.WORKERS, ""), 0)
        readings[metrics.WORKERS_SILENT, ""] = silent
        return readings
