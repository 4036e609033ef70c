"""From the tokens of a request to its right (`SANDKEEPER_TOKEN`, `SANDKEEPER_ADMIN_TOKEN`).

And to whom it acts as: `?user=` on the routes of files, and what others own out of its reach.
"""

import hmac
from collections.abc import Collection, Iterable
from typing import Protocol

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sandkeeper.api.edge.pages import asks_for_page, token_page
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import (
    STANDING,
    USERS,
    Right,
    Standing,
    need_of,
    open_paths,
    user_of,
)
from sandkeeper.api.edge.routing import first_segment
from sandkeeper.api.edge.subject import names_user
from sandkeeper.api.edge.tickets.sessions import Sessions
from sandkeeper.api.edge.tokens import offers
from sandkeeper.api.edge.urls import PORT_NAME
from sandkeeper.linux.users import Users
from sandkeeper.settings import RightsSettings

__all__ = ["Accepted", "Acting", "Admission", "Doorkeeper", "know", "refuse"]


class Admission(Protocol):
    """Says who may go on."""

    def admits(self, scope: Scope) -> bool:
        """Say whether a request may go on at all."""


class Accepted:
    """The tokens of this server, and the right that each is good for; false where there is none.

    `SANDKEEPER_TOKEN` is the operator's until there is a token for the operator alone, for the
    workload never learns it. `apart` says that the workload has a user of its own: whoever asks
    without any token could be the workload then, and is the user only.
    """

    def __init__(self, settings: RightsSettings, *, apart: bool) -> None:
        self._token = settings.token.encode()
        self._admin = settings.admin_token.encode()
        self._with_token = Right.USER if self._admin else Right.OPERATOR
        self.anonymous = Right.NONE
        if not self._token:
            self.anonymous = Right.USER if self._admin or apart else Right.OPERATOR

    def __bool__(self) -> bool:
        return bool(self._token or self._admin)

    def right_of(self, offered: list[bytes]) -> Right:
        """Return the highest right for which one of what is offered is good."""
        if self._admin and _among(self._admin, offered):
            return Right.OPERATOR
        if self._token and _among(self._token, offered):
            return self._with_token
        return Right.NONE

    def right_without_session(self, scope: Scope) -> Right:
        """Return the right of a request by the tokens in it (`api.edge.tokens`: where)."""
        if not self:
            return self.anonymous
        return self.right_of(offers(scope)) or self.anonymous


class Doorkeeper:
    """Decides who a request comes from; without `sessions`, by tokens alone."""

    def __init__(
        self,
        settings: RightsSettings,
        *,
        accepted: Accepted,
        sessions: Sessions | None = None,
        open_paths: Collection[str],
        own_words: Collection[str] = (),
    ) -> None:
        self._accepted = accepted
        self._sessions = sessions
        self._open = open_paths
        self._own_words = own_words
        self._standings = {right: Standing(right, settings) for right in Right}
        self._everybodys = None if accepted else self._standings[accepted.anonymous]

    def admits(self, scope: Scope) -> bool:
        """Say whether a request may go on at all; its standing is in the scope then."""
        standing = self._everybodys or self._standings[self._right_of(scope)]
        standing.into(scope)
        if standing.right > Right.NONE:
            return True
        if PORT_NAME in scope:
            return False
        path: str = scope["path"]
        opened = path in self._open or first_segment(path) in self._own_words
        return scope["type"] == "http" and opened

    def _right_of(self, scope: Scope) -> Right:
        """Return the highest right that the request shows."""
        right = self._accepted.right_without_session(scope)
        if self._sessions is None:
            return right
        return max(right, self._sessions.right_of(scope))


def _among(token: bytes, offered: list[bytes]) -> bool:
    return any(hmac.compare_digest(offer, token) for offer in offered)


def know(routes: Iterable[BaseRoute]) -> None:
    """Have routes that need the user ask for the token themselves where the doorkeeper lets pass.

    It goes by paths: what one route answers to everybody may have another one beside it, for
    another method or another kind of answer, that does not.
    """
    routes = list(routes)
    paths = open_paths(routes)
    for made in routes:
        need, path = need_of(made), str(getattr(made, "path", ""))
        if (
            isinstance(made, Route)
            and path in paths
            and need.right > Right.NONE
            and not need.own_words
        ):
            made.app = _Known(made.app)
            made.plain = None  # type: ignore[attr-defined]


class _Known:
    """Answers 401 to whoever has shown nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        standing: Standing = scope[STANDING]
        await (self._app if standing.right > Right.NONE else refuse)(scope, receive, send)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 401, to a person who wants a page by one with a field for the token."""
    headers = {"WWW-Authenticate": 'Bearer realm="sandkeeper"'}
    if asks_for_page(scope):
        page, more = token_page(scope)
        response = Response(page, 401, {**headers, **more}, media_type="text/html")
    else:
        response = json_response({"error": "missing or wrong token"}, 401, headers)
    await response(scope, receive, send)


class Acting:
    """The layer around the router; bodies of processes and terminals name their user themselves."""

    def __init__(self, app: ASGIApp, users: Users) -> None:
        self._app = app
        self._users = users

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; raises UnknownUser and Forbidden."""
        users, standing = self._users, scope.get(STANDING)
        named = names_user(scope)
        if not (named or users.any_allowed) or not isinstance(standing, Standing):
            await self._app(scope, receive, send)
            return
        with users.asking(for_all=standing.may(USERS)):
            if not (named and _is_about_files(scope["path"])):
                await self._app(scope, receive, send)
                return
            name = query_of(scope).get("user", "")
            with users.acting_as(user_of(HTTPConnection(scope), users, name)):
                await self._app(scope, receive, send)


def _is_about_files(path: str) -> bool:
    area = first_segment(path)
    return area in {"watch", "git", "filesystem"} or area.startswith("filesystem-")
