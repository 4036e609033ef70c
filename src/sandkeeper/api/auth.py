"""The optional bearer token (`SANDKEEPER_TOKEN`)."""

import hmac

from starlette.types import Receive, Scope, Send

from sandkeeper.api.respond import json_response
from sandkeeper.api.tokens import offers

__all__ = ["allowed", "refuse"]

OPEN_PATHS = frozenset({"/health", "/ready"})


def allowed(scope: Scope, token: bytes) -> bool:
    """Say whether the request carries the token (`api.tokens`). Health checks need none."""
    if scope["path"] in OPEN_PATHS and scope["type"] == "http":
        return True
    return any(hmac.compare_digest(offer, token) for offer in offers(scope))


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 401."""
    response = json_response(
        {"error": "missing or wrong token"}, 401, {"WWW-Authenticate": 'Bearer realm="sandkeeper"'}
    )
    await response(scope, receive, send)
