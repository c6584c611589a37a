"""What several groups of endpoints need."""

from __future__ import annotations

from typing import Annotated
from typing import TypeVar

from fastapi import HTTPException
from fastapi import Path
from fastapi import Query
from sqlalchemy.orm import Session

from examples.proxy_manager.models import Base
from examples.proxy_manager.schemas import Change

Row = TypeVar("Row", bound=Base)

PathId = Annotated[int, Path(ge=0, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=1000, description="The most entries wanted")]
AfterId = Annotated[int, Query(ge=0, le=2**63 - 1, description="Continue behind this id")]


def get_or_404(session: Session, model: type[Row], id: int) -> Row:
    """The row with this id; 404 if there is none."""
    row = session.get(model, id)
    if row is None:
        raise HTTPException(404, f"There is no {model.__name__.lower()} with id {id}")
    return row


def apply_change(row: Row, change: Change) -> Row:
    """Set what the request named and leave the rest."""
    for name, value in change.model_dump(exclude_unset=True).items():
        setattr(row, name, value)
    return row
