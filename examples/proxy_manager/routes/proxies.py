"""Upstream proxies: GET /proxy hands out the next one, /proxies administers them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi import HTTPException
from fastapi import Query
from fastapi import Response
from sqlalchemy import func
from sqlalchemy import select
from sqlalchemy import update
from sqlalchemy.orm import Session

from examples.proxy_manager import responses
from examples.proxy_manager.context import CurrentContext
from examples.proxy_manager.models import Proxy
from examples.proxy_manager.routes.common import AfterId
from examples.proxy_manager.routes.common import Limit
from examples.proxy_manager.routes.common import PathId
from examples.proxy_manager.routes.common import apply_change
from examples.proxy_manager.routes.common import get_or_404
from examples.proxy_manager.schemas import Error
from examples.proxy_manager.schemas import ProxyAnswer
from examples.proxy_manager.schemas import ProxyChange
from examples.proxy_manager.schemas import ProxyIn
from examples.proxy_manager.schemas import ProxyOut
from examples.proxy_manager.security import SYSTEM_ONLY
from examples.proxy_manager.security import CurrentUser

gateway = APIRouter(tags=["gateway"])
admin = APIRouter(
    prefix="/proxies", tags=["proxies"], dependencies=[SYSTEM_ONLY], responses=responses.ADMIN
)


@gateway.get(
    "/proxy",
    operation_id="getProxy",
    response_model_exclude_none=True,
    responses={
        200: {
            "description": "The proxy to use for this request",
            "headers": {"Cache-Control": responses.CACHE_CONTROL},
        },
        **responses.UNAUTHORIZED,
        403: {"model": Error, "description": "The target URL is blacklisted"},
        404: {"model": Error, "description": "No working proxy"},
        **responses.INVALID,
        **responses.UNAVAILABLE,
    },
)
def get_proxy(
    response: Response,
    context: CurrentContext,
    user: CurrentUser,
    target_url: Annotated[str | None, Query(max_length=65536)] = None,
) -> ProxyAnswer:
    """Hand out the working proxy that has waited longest."""
    with context.database.begin() as session:
        if target_url and (rule_id := context.rules.first_match(session, target_url)) is not None:
            raise HTTPException(403, f"The target URL is blacklisted by rule {rule_id}")
        proxy = take_next_proxy(session)
    if proxy is None:
        raise HTTPException(404, "No working proxy is available")
    lease = context.settings.proxy_lease_seconds
    response.headers["Cache-Control"] = f"private, max-age={lease}" if lease else "no-store"
    return ProxyAnswer.model_validate(proxy).model_copy(update={"user_id": user.id})


def take_next_proxy(session: Session) -> Proxy | None:
    """Take the working proxy used least recently and put it at the end of the queue.

    One statement, so that two requests (or two workers) never get the same turn.
    """
    longest_waiting = (
        select(Proxy.id).where(Proxy.is_working).order_by(Proxy.turn, Proxy.id).limit(1)
    ).scalar_subquery()
    last_turn = select(func.max(Proxy.turn)).scalar_subquery()
    taken = session.scalars(
        update(Proxy)
        .where(Proxy.id == longest_waiting)
        .values(turn=last_turn + 1)
        .returning(Proxy)
        .execution_options(synchronize_session=False)
    )
    return taken.one_or_none()


@admin.get("", response_model=list[ProxyOut])
def list_proxies(context: CurrentContext, limit: Limit = 100, after_id: AfterId = 0) -> list[Proxy]:
    """All proxies in the order of their ids."""
    with context.database.begin() as session:
        wanted = select(Proxy).where(Proxy.id > after_id).order_by(Proxy.id).limit(limit)
        return list(session.scalars(wanted))


@admin.post("", status_code=201, response_model=ProxyOut, responses=responses.TOO_LARGE)
def add_proxy(context: CurrentContext, body: ProxyIn) -> Proxy:
    """Add a proxy; it gets the next turn."""
    with context.database.begin() as session:
        proxy = Proxy(**body.model_dump())
        session.add(proxy)
    return proxy


@admin.get("/{id}", response_model=ProxyOut, responses=responses.NOT_FOUND)
def get_proxy_by_id(context: CurrentContext, id: PathId) -> Proxy:
    """One proxy."""
    with context.database.begin() as session:
        return get_or_404(session, Proxy, id)


@admin.patch("/{id}", response_model=ProxyOut, responses=responses.NOT_FOUND)
def change_proxy(context: CurrentContext, id: PathId, body: ProxyChange) -> Proxy:
    """Change a proxy, for example `{"is_working": false}` to take it out of the rotation."""
    with context.database.begin() as session:
        return apply_change(get_or_404(session, Proxy, id), body)


@admin.delete("/{id}", status_code=204, response_model=None, responses=responses.NOT_FOUND)
def delete_proxy(context: CurrentContext, id: PathId) -> None:
    """Delete a proxy."""
    with context.database.begin() as session:
        session.delete(get_or_404(session, Proxy, id))
