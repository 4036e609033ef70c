"""Signing in at the console: a token becomes a session (`api.edge.tickets.sessions`).

The routes belong to the folder in front of everything (`/console-session`), because a cookie
without `Path` belongs to the folder of the route that sets it: the prefix of a gateway, which
this server need not know.
"""

import socket
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from time import monotonic
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper import __version__
from sandkeeper.api.edge.auth import Accepted
from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import OPEN, Right
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.tickets.sessions import SECONDS, Sessions
from sandkeeper.linux.identity import Identity
from sandkeeper.log.access import Access

__all__ = ["Facts", "SessionHandlers", "routes"]

BODY_BYTES = 16 << 10
WRONG_MOST = 10
WRONG_SECONDS = 60.0
CLIENTS = 1024
"""Of so many clients wrong tokens are counted."""


class SignIn(msgspec.Struct):
    """The body of a sign-in."""

    token: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the console's pages want to know of the server that does not change."""

    workdir: str
    home: str
    identity: Identity | None
    terminals: bool

    def told(self) -> dict[str, Any]:
        """Return them as they go out."""
        return {
            "version": __version__,
            "hostname": socket.gethostname(),
            "workdir": self.workdir,
            "home": getattr(self.identity, "home", "") or self.home,
            "user": getattr(self.identity, "name", ""),
            "terminals": self.terminals,
        }


class SessionHandlers:
    """Handlers of `/console-session`."""

    def __init__(
        self, *, sessions: Sessions, accepted: Accepted, access: Access, facts: Facts
    ) -> None:
        self._sessions = sessions
        self._accepted = accepted
        self._access = access
        self._facts = facts
        self._wrong = _Wrong()

    async def look(self, request: Request) -> Response:
        """Say who asks; a session that is shown lasts its full time again."""
        found = self._sessions.find(request.scope)
        if found is not None and self._sessions.is_whole(request.scope, *found):
            return self._begun(request, *found)
        right = self._accepted.right_without_session(request.scope)
        return json_response(self._told(right, session=False))

    async def sign_in(self, request: Request) -> Response:
        """Exchange a token for a session; 401 for a wrong one, 429 after ten within a minute.

        A right one is let in whatever was tried before it: the workload may have the same address,
        and would lock out the person.
        """
        body = await read_json(request, SignIn, BODY_BYTES)
        right = self._accepted.right_of([body.token.encode("utf-8", "replace")])
        if right == Right.NONE:
            # Once it is all here: of many that are asked at once each would be a first one before.
            return self._refused(request, _client(request))
        self._access.audit("console_sign_in", caller(request), right=right.name.lower())
        return self._begun(request, right)

    def _refused(self, request: Request, client: str) -> Response:
        if wait := self._wrong.wait(client):
            told = {"error": "too many wrong tokens: wait a minute"}
            return json_response(told, 429, {"Retry-After": str(wait)})
        self._wrong.count(client)
        self._access.audit("console_sign_in_refused", caller(request))
        return json_response({"error": "wrong token"}, 401)

    async def sign_out(self, request: Request) -> Response:
        """End the session that is shown: its cookie opens nothing any more."""
        found = self._sessions.find(request.scope)
        if found is not None and self._sessions.is_whole(request.scope, *found):
            with suppress(OSError):  # a full disk: it is over for as long as this server runs
                await self._sessions.end(found[1])
            self._access.audit("console_sign_out", caller(request))
        gone = f"{self._sessions.cookie}=; Max-Age=0; {_guards(request)}"
        return json_response({"signedIn": False}, 200, {"Set-Cookie": gone})

    def _told(self, right: Right, *, session: bool) -> dict[str, Any]:
        page = {
            "signedIn": right > Right.NONE,
            "session": session,
            "tokenNeeded": bool(self._accepted),
            "right": right.name.lower(),
        }
        return page | self._facts.told() if right > Right.NONE else page

    def _begun(self, request: Request, right: Right, key: str = "") -> Response:
        halves = self._sessions.begin(right, key)
        cookie = f"{self._sessions.cookie}={halves.cookie}; Max-Age={SECONDS}; {_guards(request)}"
        return json_response(
            self._told(right, session=True) | {"page": halves.page}, 200, {"Set-Cookie": cookie}
        )


class _Wrong:
    """Counts wrong tokens by client, so that nobody fills the log with them."""

    def __init__(self) -> None:
        self._tried: OrderedDict[str, list[float]] = OrderedDict()

    def wait(self, client: str) -> int:
        """Return for how many seconds wrong ones of a client are not looked at; 0: they are."""
        since = monotonic() - WRONG_SECONDS
        tried = [moment for moment in self._tried.get(client, []) if moment > since]
        return int(tried[0] - since) + 1 if len(tried) >= WRONG_MOST else 0

    def count(self, client: str) -> None:
        """Count one."""
        tried = self._tried.setdefault(client, [])
        tried[:] = [*tried[1 - WRONG_MOST :], monotonic()]
        self._tried.move_to_end(client)
        if len(self._tried) > CLIENTS:
            self._tried.popitem(last=False)


def _client(request: Request) -> str:
    """Return who asks, by address; one who has an IPv6 network (RFC 6177: a /64) has all of it."""
    client: str = (request.scope.get("client") or ("",))[0]
    try:
        address = IPv6Address(client.partition("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, 64), strict=False))


def _guards(request: Request) -> str:
    secure = "; Secure" if request.scope["scheme"] == "https" else ""
    return f"HttpOnly; SameSite=Strict{secure}"


def routes(handlers: SessionHandlers) -> list[BaseRoute]:
    """Return the routes of signing in and out."""
    return [
        route("/console-session", handlers.look, need=OPEN),
        route("/console-session", handlers.sign_in, "POST", need=OPEN),
        route("/console-session", handlers.sign_out, "DELETE", need=OPEN),
    ]
