"""mitmproxy's commands: `forwarder.status`, `forwarder.refresh`, `forwarder.test URL`. Loop thread
only.
"""

from __future__ import annotations

from typing import Protocol

from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader

from mitm_forwarder import insight
from mitm_forwarder.bridge import Bridge


class Owner(Protocol):
    """The addon, as far as a command needs it."""

    bridge: Bridge | None


class Commands:
    """CommandError where there is no engine, or where it cannot answer."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def load(self, loader: Loader) -> None:
        loader.add_command("forwarder.status", self.status)
        loader.add_command("forwarder.refresh", self.refresh)
        loader.add_command("forwarder.test", self.test)

    def _bridge(self) -> Bridge:
        bridge = self._owner.bridge
        if bridge is None:
            raise exceptions.CommandError(
                "mitm-forwarder is not running: its configuration was refused, see the log"
            )
        return bridge

    def status(self) -> str:
        """Rules, requests and activity records in one line."""
        stats = self._bridge().engine.stats()
        age_ms = stats["rules_age_ms"]
        age = "never loaded" if age_ms < 0 else f"confirmed {age_ms / 1000:.0f} s ago"
        return (
            f"{stats['rules']} rules, {age}; {stats['running']} requests run,"
            f" {stats['permits_waiting']} wait; {stats['blocked']} blocked of"
            f" {stats['requests']}; {stats['spool_depth']} records wait for the backend,"
            f" {stats['spool_dead']} were refused for good"
        )

    def refresh(self) -> None:
        """Fetch the blacklist now; the log says what came of it."""
        self._bridge().engine.refresh()

    def test(self, url: str) -> str:
        """Which rule of the blacklist in force would match this URL."""
        engine = self._bridge().engine
        try:
            return insight.describe(engine.test(*insight.split_url(url)))
        except (ValueError, LookupError) as error:
            raise exceptions.CommandError(str(error)) from error
