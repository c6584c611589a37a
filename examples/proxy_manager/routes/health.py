"""Whether the service can do its work."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import text

from examples.proxy_manager import responses
from examples.proxy_manager.context import CurrentContext
from examples.proxy_manager.schemas import Health

public = APIRouter(tags=["health"], responses=responses.UNAVAILABLE)


@public.get("/health")
def get_health(context: CurrentContext) -> Health:
    """Answers 200 when the database can be read, 503 when it cannot."""
    with context.database.begin() as session:
        session.execute(text("SELECT 1 FROM blacklist_version"))
    return Health()
