"""Who is asking: the system token of gateways and administrators, the JWT of users."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Annotated
from typing import Any

import jwt
from fastapi import HTTPException
from fastapi import Request
from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials
from fastapi.security import HTTPBearer

from examples.proxy_manager.context import CurrentContext
from examples.proxy_manager.models import User
from examples.proxy_manager.settings import Settings

# Pinned: the algorithm named in a token's own header is never believed.
ALGORITHM = "HS256"

_SYSTEM_SCHEME = HTTPBearer(
    scheme_name="systemToken", description="The SYSTEM_TOKEN of this service.", auto_error=False
)
_USER_SCHEME = HTTPBearer(
    scheme_name="userToken",
    bearerFormat="JWT",
    description="A user's token, made by POST /token.",
    auto_error=False,
)


def issue_token(
    settings: Settings, user_id: int, ttl_seconds: int | None = None
) -> tuple[str, int]:
    """A signed token for the user and its life in seconds."""
    ttl = settings.token_ttl_seconds if ttl_seconds is None else ttl_seconds
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": settings.jwt_issuer,
        "sub": str(user_id),
        # `sub` has to be a string; gateways report the id as the number it is.
        "user_id": user_id,
        "iat": now,
        "exp": now + ttl,
    }
    return jwt.encode(claims, settings.jwt_secret, algorithm=ALGORITHM), ttl


def token_user_id(settings: Settings, token: str) -> int | None:
    """The user a token was issued for, or None if it is not (or no longer) valid."""
    try:
        claims = jwt.decode(
            token,
            settings.jwt_secret,
            algorithms=[ALGORITHM],
            issuer=settings.jwt_issuer,
            options={"require": ["iss", "sub", "iat", "exp"]},
        )
    except jwt.InvalidTokenError:
        return None
    subject = claims["sub"]
    return int(subject) if subject.isascii() and subject.isdigit() else None


def same_secret(given: str, expected: str) -> bool:
    """Compare in a time that tells nothing about the content or the length of either."""
    return hmac.compare_digest(_digest(given), _digest(expected))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _unauthorized(detail: str, *, presented: bool) -> HTTPException:
    challenge = 'Bearer realm="proxy manager"'
    if presented:
        challenge += ', error="invalid_token"'
    return HTTPException(401, detail, headers={"WWW-Authenticate": challenge})


async def require_system_token(
    context: CurrentContext,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_SYSTEM_SCHEME)],
) -> None:
    """Let only the holder of the system token pass."""
    if credentials is None:
        raise _unauthorized("A system token is required", presented=False)
    if not same_secret(credentials.credentials, context.settings.system_token):
        raise _unauthorized("The system token is wrong", presented=True)


def require_user(
    request: Request,
    context: CurrentContext,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Security(_USER_SCHEME)],
) -> User:
    """The active user whose token came, as `Bearer JWT` or as the JWT alone."""
    scheme, _, rest = request.headers.get("authorization", "").strip().partition(" ")
    token = rest.strip() if scheme.lower() == "bearer" else ("" if rest else scheme)
    if not token:
        raise _unauthorized("A user token is required", presented=False)
    user_id = token_user_id(context.settings, token)
    if user_id is not None and user_id < 2**63:
        with context.database.begin() as session:
            user = session.get(User, user_id)
        if user is not None and user.is_active:
            return user
    raise _unauthorized("The user token is not valid", presented=True)


CurrentUser = Annotated[User, Security(require_user)]
SYSTEM_ONLY = Security(require_system_token)
