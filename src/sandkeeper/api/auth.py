"""The optional bearer token (`SANDKEEPER_TOKEN`)."""

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from sandkeeper.api.respond import json_response

__all__ = ["allowed", "refuse"]

OPEN_PATHS = frozenset({"/health", "/ready"})


def allowed(scope: Scope, token: bytes) -> bool:
    """Say whether the request carries the token.

    It may stand in `Authorization: Bearer`, in `X-Blaxel-Authorization` (what the SDKs send), in
    `X-Blaxel-Preview-Token`, or, for browsers' WebSocket and EventSource that cannot set headers,
    in the query (`token`, `bl_preview_token`). Health checks need none.
    """
    if scope["path"] in OPEN_PATHS and scope["type"] == "http":
        return True
    return any(hmac.compare_digest(offer, token) for offer in _offers(scope))


def _offers(scope: Scope) -> list[bytes]:
    offers: list[bytes] = []
    for name, value in scope["headers"]:
        if name in {b"authorization", b"x-blaxel-authorization"}:
            kind, _, rest = value.partition(b" ")
            offers.append(rest.strip() if kind.lower() == b"bearer" else value)
        elif name == b"x-blaxel-preview-token":
            offers.append(value)
        elif name == b"cookie":
            offers += _cookie(value)
    try:
        query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=1000)
    except ValueError:  # too many fields to look for a token in
        return offers
    for name in ("token", "bl_preview_token"):
        offers += [value.encode() for value in query.get(name, [])]
    return offers


def _cookie(value: bytes) -> list[bytes]:
    try:
        morsel = SimpleCookie(value.decode("latin-1")).get("sandkeeper_token")
    except CookieError:
        return []
    return [morsel.value.encode()] if morsel else []


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 401."""
    response = json_response(
        {"error": "missing or wrong token"}, 401, {"WWW-Authenticate": 'Bearer realm="sandkeeper"'}
    )
    await response(scope, receive, send)
