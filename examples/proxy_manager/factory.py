"""Puts the application together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from sqlalchemy.exc import OperationalError

from examples.proxy_manager import logs
from examples.proxy_manager.context import Context
from examples.proxy_manager.database import Database
from examples.proxy_manager.limits import BodyLimit
from examples.proxy_manager.routes import activity
from examples.proxy_manager.routes import blacklist
from examples.proxy_manager.routes import health
from examples.proxy_manager.routes import proxies
from examples.proxy_manager.routes import users
from examples.proxy_manager.rules import RuleCache
from examples.proxy_manager.schemas import Invalid
from examples.proxy_manager.schemas import Problem
from examples.proxy_manager.settings import Settings

VERSION = "1.0.0"
RETRY_AFTER_SECONDS = 1


def create_app(settings: Settings) -> FastAPI:
    """The application. The database is opened when it starts and closed when it stops."""
    database = Database(settings.database_url)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        database.create_schema()
        yield
        database.close()

    logs.hide_queries()
    app = FastAPI(
        title="Proxy manager", version=VERSION, description=_DESCRIPTION, lifespan=lifespan
    )
    app.state.context = Context(settings, database, RuleCache())
    app.add_middleware(BodyLimit)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(IntegrityError, _conflict)
    app.add_exception_handler(OperationalError, _database_busy)
    for router in (proxies.gateway, blacklist.gateway, activity.gateway):
        app.include_router(router)
    for router in (proxies.admin, blacklist.admin, activity.admin, users.admin, health.public):
        app.include_router(router)
    return app


_DESCRIPTION = """\
Chooses an upstream proxy for each request of a gateway's users, keeps the blacklist, and
collects what the gateways report. The endpoints under *gateway* are the contract with the
gateway; all others are for the administrator, who holds the same system token.
"""


async def _invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Not the input itself: it may hold secrets, or text that JSON cannot carry.
    problems = [Problem.model_validate(problem) for problem in error.errors()]
    return JSONResponse(Invalid(detail=problems).model_dump(), status_code=422)


async def _conflict(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "This conflicts with what is stored"}, status_code=409)


async def _database_busy(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse(
        {"detail": "The database is busy"},
        status_code=503,
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )
