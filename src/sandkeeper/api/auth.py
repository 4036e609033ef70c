"""From the tokens of a request to its right (`SANDKEEPER_TOKEN`, `SANDKEEPER_ADMIN_TOKEN`)."""

import hmac
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from sandkeeper.api.respond import json_response
from sandkeeper.api.rights import Right, Standing
from sandkeeper.settings import RightsSettings

__all__ = ["Doorkeeper", "refuse"]


class Doorkeeper:
    """Decides who a request comes from; `apart` says that the workload has a user of its own.

    Without any token everybody is the user, and the operator too unless the workload is kept
    apart: then whoever asks could be the workload. `SANDKEEPER_TOKEN` is the operator's until
    there is a token for the operator alone, for the workload never learns it.
    """

    def __init__(
        self, settings: RightsSettings, *, apart: bool, open_paths: Collection[str]
    ) -> None:
        self._token = settings.token.encode()
        self._admin = settings.admin_token.encode()
        self._open = open_paths
        self._standings = {right: Standing(right, settings) for right in Right}
        self._with_token = Right.USER if self._admin else Right.OPERATOR
        self._anonymous = Right.NONE
        if not self._token:
            self._anonymous = Right.USER if self._admin or apart else Right.OPERATOR

    def admits(self, scope: Scope) -> bool:
        """Say whether a request may go on at all; its standing is in the scope then."""
        standing = self._standings[self._right_of(scope)]
        standing.into(scope)
        if standing.right > Right.NONE:
            return True
        return scope["type"] == "http" and scope["path"] in self._open

    def _right_of(self, scope: Scope) -> Right:
        """Return the highest right that the request shows.

        A token may stand in `Authorization: Bearer`, in `X-Blaxel-Authorization` (what the SDKs
        send), in `X-Blaxel-Preview-Token`, in a cookie, or, for browsers' WebSocket and EventSource
        that cannot set headers, in the query (`token`, `bl_preview_token`).
        """
        if not (self._token or self._admin):
            return self._anonymous
        offers = _offers(scope)
        if self._admin and _among(self._admin, offers):
            return Right.OPERATOR
        if self._token and _among(self._token, offers):
            return self._with_token
        return self._anonymous


def _among(token: bytes, offers: list[bytes]) -> bool:
    return any(hmac.compare_digest(offer, token) for offer in offers)


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
        # Latin-1 both ways: the bytes that were meant, whatever their encoding.
        text = scope["query_string"].decode("latin-1")
        query = parse_qs(text, max_num_fields=1000, encoding="latin-1")
    except ValueError:  # too many fields to look for a token in
        return offers
    for name in ("token", "bl_preview_token"):
        offers += [value.encode("latin-1") for value in query.get(name, [])]
    return offers


def _cookie(value: bytes) -> list[bytes]:
    try:
        morsel = SimpleCookie(value.decode("latin-1")).get("sandkeeper_token")
    except CookieError:
        return []
    return [morsel.value.encode("latin-1", "replace")] if morsel else []


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 401."""
    response = json_response(
        {"error": "missing or wrong token"}, 401, {"WWW-Authenticate": 'Bearer realm="sandkeeper"'}
    )
    await response(scope, receive, send)
