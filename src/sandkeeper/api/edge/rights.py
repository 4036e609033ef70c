"""Who may do what: what a request may, what each route and tool needs, and how both are compared.

A route without a declared need does not exist: `need_of` raises for it, and the server does not
start. The table in docs/security.md is made from these declarations.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import msgspec
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from sandkeeper.api.edge.connections.plain import plain_of
from sandkeeper.errors import Forbidden
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.users import Users
from sandkeeper.settings import RightsSettings

__all__ = [
    "ARCHIVE",
    "DRIVES",
    "ENVIRONMENT",
    "OPEN",
    "OWN_DRIVES",
    "STANDING",
    "TUNNEL",
    "UPGRADE",
    "USER",
    "USERS",
    "Need",
    "Right",
    "Standing",
    "need_of",
    "open_paths",
    "protect",
    "standing_of",
    "user_of",
]

STANDING = "sandkeeper.standing"


class Right(IntEnum):
    """What a caller has shown to be; each includes those before it."""

    NONE = 0
    USER = 1
    OPERATOR = 2


class Need(msgspec.Struct, frozen=True):
    """The right that a route needs, and the area of the operator that it belongs to.

    A need of the user with an area is decided by the handler: it is the user's for what belongs to
    the workload, and the operator's for the rest. With `own_words` the handler asks for the right
    itself, for its wire has refusals of its own.
    """

    right: Right
    area: str = ""
    own_words: bool = False


OPEN = Need(Right.NONE)
USER = Need(Right.USER)
ARCHIVE = Need(Right.OPERATOR, "archive")
DRIVES = Need(Right.OPERATOR, "drives")
ENVIRONMENT = Need(Right.OPERATOR, "environment")
TUNNEL = Need(Right.OPERATOR, "tunnel")
UPGRADE = Need(Right.OPERATOR, "upgrade")
OWN_DRIVES = Need(Right.USER, "drives")
USERS = Need(Right.OPERATOR, "users")


class Standing(msgspec.Struct, frozen=True):
    """The right of one request under the operator's settings."""

    right: Right
    settings: RightsSettings

    def may(self, need: Need) -> bool:
        """Say whether this is enough, also by what the settings permit to everybody."""
        if need.right is Right.OPERATOR and need.area in self.settings.may:
            return self.right >= Right.USER
        return self.right >= need.right

    def check(self, need: Need) -> None:
        """Raise Forbidden, with what would permit it, unless this is enough."""
        if not self.may(need):
            raise Forbidden(f"this needs the operator's right ({need.area}): {self.advice(need)}")

    def advice(self, need: Need) -> str:
        """Say what would permit what needs the operator."""
        if self.settings.admin_token:
            how = "send the token of SANDKEEPER_ADMIN_TOKEN"
        elif self.settings.token:
            how = "send the token of SANDKEEPER_TOKEN"
        else:
            how = "start the server with SANDKEEPER_ADMIN_TOKEN and send that"
        if need.area in self.settings.may:
            return how
        return f"{how}, or permit it to everybody with SANDKEEPER_WORKLOAD_MAY={need.area}"

    def into(self, scope: Scope) -> None:
        """Have the request's handlers find it."""
        scope[STANDING] = self


def standing_of(request: HTTPConnection) -> Standing:
    """Return what the edge found out about a request."""
    found: Standing = request.scope[STANDING]
    return found


def user_of(request: HTTPConnection, users: Users, name: str) -> Identity | None:
    """Return the user that a request wants to act as, the workload's own without a name.

    Raises UnknownUser, and Forbidden for another user than that without the operator's right.
    """
    found = users.named(name)
    if found != users.default:
        standing_of(request).check(USERS)
    return found


def need_of(made: BaseRoute) -> Need:
    """Return what a route declares; raises TypeError when it declares nothing."""
    need: Any = getattr(made, "need", None)
    if not isinstance(need, Need):
        raise TypeError(f"{made!r} does not say what right it needs")
    return need


def open_paths(routes: Iterable[BaseRoute]) -> frozenset[str]:
    """Return the paths that are answered without a token."""
    return frozenset(str(getattr(one, "path", "")) for one in routes if need_of(one) == OPEN)


def protect(routes: Iterable[BaseRoute]) -> None:
    """Put the check in front of every route that needs more than the edge asks of all.

    Raises TypeError for a route that declares nothing.
    """
    for made in routes:
        need = need_of(made)
        if need.right <= Right.USER or need.own_words:
            continue
        if not isinstance(made, Route | WebSocketRoute):
            raise TypeError(f"{made!r} cannot be protected")
        if plain_of(made) is not None:
            raise TypeError(f"{made!r} needs more than its plain function is asked for")
        made.app = _Protected(made.app, need)


class _Protected:
    """Asks for a right before anything of the request is read."""

    def __init__(self, app: ASGIApp, need: Need) -> None:
        self._app = app
        self._need = need

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        standing: Standing = scope[STANDING]
        if scope["type"] == "websocket" and not standing.may(self._need):
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "not permitted"})
            return
        standing.check(self._need)
        await self._app(scope, receive, send)
