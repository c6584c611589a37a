"""Activity: gateways report each request once, the administrator reads the reports."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi import Header
from fastapi import Query
from fastapi import Response
from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from examples.proxy_manager import responses
from examples.proxy_manager.context import CurrentContext
from examples.proxy_manager.models import Activity
from examples.proxy_manager.routes.common import Limit
from examples.proxy_manager.schemas import ActivityIn
from examples.proxy_manager.schemas import ActivityItem
from examples.proxy_manager.schemas import ActivityOut
from examples.proxy_manager.schemas import ActivityPage
from examples.proxy_manager.schemas import Id
from examples.proxy_manager.security import SYSTEM_ONLY

gateway = APIRouter(tags=["gateway"], dependencies=[SYSTEM_ONLY])
admin = APIRouter(tags=["activity"], dependencies=[SYSTEM_ONLY], responses=responses.ADMIN)

# Visible ASCII without quotes or spaces; a UUID is usual.
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255, pattern=r"^[!#-~]+$")]


@gateway.post(
    "/activity",
    operation_id="postActivity",
    status_code=201,
    response_model=ActivityOut,
    responses={
        200: {"model": ActivityOut, "description": "Stored before, under the same Idempotency-Key"},
        201: {"description": "Stored"},
        **responses.UNAUTHORIZED,
        **responses.TOO_LARGE,
        **responses.INVALID,
        **responses.UNAVAILABLE,
    },
)
def add_activity(
    response: Response,
    context: CurrentContext,
    body: ActivityIn,
    idempotency_key: IdempotencyKey = None,
) -> Activity:
    """Store one report. With an Idempotency-Key a repeat stores nothing and answers 200."""
    with context.database.begin() as session:
        record, is_new = store_once(session, body, idempotency_key)
    if not is_new:
        response.status_code = 200
    return record


def store_once(session: Session, body: ActivityIn, key: str | None) -> tuple[Activity, bool]:
    """The stored row and whether it is new. The unique column decides, so races do too."""
    added = session.scalars(
        insert(Activity)
        .values(idempotency_key=key, **body.model_dump())
        .on_conflict_do_nothing(index_elements=[Activity.idempotency_key])
        .returning(Activity)
    ).one_or_none()
    if added is not None:
        return added, True
    return session.scalars(select(Activity).where(Activity.idempotency_key == key)).one(), False


@admin.get("/activity")
def list_activity(
    context: CurrentContext,
    user_id: Id | None = None,
    proxy_id: Id | None = None,
    method: str | None = None,
    status_code: int | None = None,
    url_contains: Annotated[str | None, Query(max_length=1000)] = None,
    since: Annotated[float | None, Query(description="Timestamp, inclusive")] = None,
    until: Annotated[float | None, Query(description="Timestamp, exclusive")] = None,
    before_id: Id | None = None,
    limit: Limit = 100,
) -> ActivityPage:
    """Reports in the order of arrival, newest first, a page at a time."""
    equal = {
        Activity.user_id: user_id,
        Activity.proxy_id: proxy_id,
        Activity.method: method,
        Activity.status_code: status_code,
    }
    query = select(Activity).order_by(Activity.id.desc()).limit(limit + 1)
    query = query.where(*(column == value for column, value in equal.items() if value is not None))
    if url_contains is not None:
        query = query.where(Activity.target_url.contains(url_contains, autoescape=True))
    if since is not None:
        query = query.where(Activity.timestamp >= since)
    if until is not None:
        query = query.where(Activity.timestamp < until)
    if before_id is not None:
        query = query.where(Activity.id < before_id)
    with context.database.begin() as session:
        # One more than asked for tells whether another page follows.
        rows = list(session.scalars(query))
    items = [ActivityItem.model_validate(row) for row in rows[:limit]]
    return ActivityPage(items=items, next_before_id=items[-1].id if len(rows) > limit else None)
