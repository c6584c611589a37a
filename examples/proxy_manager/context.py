"""What the routes share: one object for each application, no globals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from typing import cast

from fastapi import Depends
from fastapi import Request

from examples.proxy_manager.database import Database
from examples.proxy_manager.rules import RuleCache
from examples.proxy_manager.settings import Settings


@dataclass(frozen=True)
class Context:
    """Settings, database and compiled rules of one application."""

    settings: Settings
    database: Database
    rules: RuleCache


async def _current_context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


CurrentContext = Annotated[Context, Depends(_current_context)]
