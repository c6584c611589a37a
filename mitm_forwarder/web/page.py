"""The metrics page of one process, served on its loop. Loop thread only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mitm_forwarder.web import metrics
from mitm_forwarder.web.desk import Desk
from mitm_forwarder.web.desk import Place

logger = logging.getLogger(__name__)


def authority(place: Place) -> str:
    """host:port, as in a URL."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def served(place: Place) -> str:
    """The line of the log that says where."""
    return f"Metrics are served at http://{authority(place)}/metrics"


def not_served(place: Place, error: OSError) -> str:
    """The line of the log that says why not."""
    return (
        f"Metrics are not served: METRICS_LISTEN={authority(place)} cannot be had"
        f" ({error.strerror}). The gateway goes on without."
    )


class Page:
    """`read` gives the readings, `token` what a client must show."""

    def __init__(
        self, read: Callable[[], metrics.Readings], token: Callable[[], str | None]
    ) -> None:
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._desk = Desk(token, self._answer)
        self._place: Place | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._desk.fileno(), self._step)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where it listens."""
        return self._desk.places

    def move(self, place: Place | None) -> None:
        """Listen there from now on (None: nowhere). Says in one line what came of it."""
        if place == self._place:
            return
        self._place = place
        try:
            self._desk.listen(place)
        except OSError as error:
            assert place is not None
            logger.warning(not_served(place, error))
        for actual in self._desk.places:
            logger.info(served(actual))

    def close(self) -> None:
        """The port is free when this returns."""
        self._loop.remove_reader(self._desk.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._desk.close()

    def _answer(self) -> None:
        self._desk.publish(metrics.render(self._read()))

    def _step(self) -> None:
        self._desk.step()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._desk.deadline()
        if deadline is not None:
            # asyncio's clock is time.monotonic(), too.
            self._timer = self._loop.call_at(deadline, self._step)
