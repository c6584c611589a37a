"""Users and their tokens."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi import HTTPException
from fastapi import Response
from sqlalchemy import select

from examples.proxy_manager import responses
from examples.proxy_manager.context import CurrentContext
from examples.proxy_manager.models import User
from examples.proxy_manager.routes.common import AfterId
from examples.proxy_manager.routes.common import Limit
from examples.proxy_manager.routes.common import PathId
from examples.proxy_manager.routes.common import apply_change
from examples.proxy_manager.routes.common import get_or_404
from examples.proxy_manager.schemas import TokenIn
from examples.proxy_manager.schemas import TokenOut
from examples.proxy_manager.schemas import UserChange
from examples.proxy_manager.schemas import UserIn
from examples.proxy_manager.schemas import UserOut
from examples.proxy_manager.security import SYSTEM_ONLY
from examples.proxy_manager.security import issue_token

admin = APIRouter(tags=["users"], dependencies=[SYSTEM_ONLY], responses=responses.ADMIN)


@admin.get("/users", response_model=list[UserOut])
def list_users(context: CurrentContext, limit: Limit = 100, after_id: AfterId = 0) -> list[User]:
    """All users in the order of their ids."""
    with context.database.begin() as session:
        wanted = select(User).where(User.id > after_id).order_by(User.id).limit(limit)
        return list(session.scalars(wanted))


@admin.post(
    "/users",
    status_code=201,
    response_model=UserOut,
    responses={**responses.CONFLICT, **responses.TOO_LARGE},
)
def add_user(context: CurrentContext, body: UserIn) -> User:
    """Add a user; names are unique."""
    with context.database.begin() as session:
        user = User(name=body.name)
        session.add(user)
    return user


@admin.get("/users/{id}", response_model=UserOut, responses=responses.NOT_FOUND)
def get_user(context: CurrentContext, id: PathId) -> User:
    """One user."""
    with context.database.begin() as session:
        return get_or_404(session, User, id)


@admin.patch(
    "/users/{id}",
    response_model=UserOut,
    responses={**responses.NOT_FOUND, **responses.CONFLICT},
)
def change_user(context: CurrentContext, id: PathId, body: UserChange) -> User:
    """Change a user; `{"is_active": false}` makes all tokens of the user invalid at once."""
    with context.database.begin() as session:
        return apply_change(get_or_404(session, User, id), body)


@admin.delete("/users/{id}", status_code=204, response_model=None, responses=responses.NOT_FOUND)
def delete_user(context: CurrentContext, id: PathId) -> None:
    """Delete a user; the reports about the user stay."""
    with context.database.begin() as session:
        session.delete(get_or_404(session, User, id))


@admin.post("/token", responses={**responses.NOT_FOUND, **responses.CONFLICT})
def add_token(response: Response, context: CurrentContext, body: TokenIn) -> TokenOut:
    """Issue a token for an active user."""
    with context.database.begin() as session:
        user = get_or_404(session, User, body.user_id)
    if not user.is_active:
        raise HTTPException(409, "The user is not active")
    token, ttl = issue_token(context.settings, user.id, body.ttl_seconds)
    # RFC 6749 section 5.1.
    response.headers["Cache-Control"] = "no-store"
    return TokenOut(access_token=token, expires_in=ttl)
