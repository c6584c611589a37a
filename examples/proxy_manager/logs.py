"""Keep secrets out of the log: a target URL's query may hold any."""

from __future__ import annotations

import logging


class _WithoutQuery(logging.Filter):
    """Cuts the query off the request target of uvicorn's access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        # uvicorn's arguments: client, method, request target, HTTP version, status.
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, target, version, status = record.args
            path = str(target).partition("?")[0]
            record.args = (client, method, path, version, status)
        return True


_FILTER = _WithoutQuery()


def hide_queries() -> None:
    """Apply to uvicorn's access log, however uvicorn was started. Repeatable."""
    logging.getLogger("uvicorn.access").addFilter(_FILTER)
