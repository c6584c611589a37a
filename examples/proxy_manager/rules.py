"""The blacklist as the application itself applies it, with Python's `re.search`."""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from examples.proxy_manager.models import BlacklistRule
from examples.proxy_manager.models import BlacklistVersion

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompiledRules:
    """All rules of one version of the list, in the order of their ids."""

    version: str
    rules: tuple[tuple[int, re.Pattern[str]], ...]


def current_version(session: Session) -> str:
    """The value that changes with every change of the list."""
    return session.scalars(select(BlacklistVersion.value)).one()


class RuleCache:
    """Keeps the newest rules compiled; `re`'s own cache holds 512. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._compiled: CompiledRules | None = None

    def first_match(self, session: Session, url: str) -> int | None:
        """The id of the first rule found in the URL, or None."""
        for rule_id, pattern in self._current(session).rules:
            if pattern.search(url):
                return rule_id
        return None

    def _current(self, session: Session) -> CompiledRules:
        # The version is read before the rules: a change in between costs one more compilation.
        # The other way round it would be missed.
        version = current_version(session)
        with self._lock:
            if self._compiled is None or self._compiled.version != version:
                self._compiled = _compile(session, version)
            return self._compiled


def _compile(session: Session, version: str) -> CompiledRules:
    compiled = []
    rows = session.execute(select(BlacklistRule.id, BlacklistRule.pattern).order_by("id"))
    for rule_id, pattern in rows:
        try:
            compiled.append((rule_id, re.compile(pattern)))
        except (re.error, RecursionError, OverflowError) as error:
            # The API lets no such rule in, so somebody wrote it into the file by hand.
            _log.error("blacklist rule %d is skipped: %s", rule_id, error)
    return CompiledRules(version, tuple(compiled))
