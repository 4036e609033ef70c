"""Who has signed in at the console: two halves that stand for a token, and are not that token.

Browsers send a cookie to every port of its host, whoever listens there, a program of the workload
perhaps. So the cookie, which no script can read, is one half of a session; the other is kept by the
page in the storage of its origin, which has a port, and goes along as a field of its own (with a
WebSocket, as a subprotocol). Both are signed tickets of one right that end and can be ended. The
cookie alone reads what a user may read, for images and downloads, and does nothing.

Its name tells servers apart that share a host; without `Path` it belongs to the folder in front of
the route that sets it, whatever prefix a gateway has put there.
"""

import asyncio
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec
from starlette.types import Scope

from sandkeeper.api.edge.connections.fields import first_fields
from sandkeeper.api.edge.hosts import is_own_page
from sandkeeper.api.edge.rights import Right
from sandkeeper.api.edge.tickets.signing import SHAPE, Signer
from sandkeeper.api.edge.tokens import (
    SESSION,
    SESSION_COOKIE,
    SESSION_FIELD,
    SESSION_PROTOCOL,
    named_offers,
)
from sandkeeper.api.edge.urls import is_for_tcp
from sandkeeper.linux.paths.statefiles import UntrustedFile, read_own, write_atomically
from sandkeeper.patterns import pattern

__all__ = ["SECONDS", "Halves", "Sessions", "offered_protocol"]

SECONDS = 24 * 3600
PURPOSE, PAGE = "session", "page of a session"
ID_BYTES = 9
MOST_ENDED = 10_000
"""Whoever signs in and out more often in a day has the first of them be good again."""

_VALUE = pattern(rf"([12])\.([A-Za-z0-9_-]{{12}})\.({SHAPE})".encode())


class Halves(NamedTuple):
    """A session as its browser gets it: the value of the cookie, and what the page keeps."""

    cookie: str
    page: str


def offered_protocol(scope: Scope) -> str | None:
    """Return the subprotocol by which a WebSocket shows a session; the handshake must name it."""
    offered: list[str] = scope.get("subprotocols", [])
    return next((one for one in offered if one.startswith(SESSION_PROTOCOL)), None)


def _shown(scope: Scope) -> bytes:
    """Return the page's half as the request has it, empty without."""
    if scope["type"] == "websocket":
        return (offered_protocol(scope) or "").removeprefix(SESSION_PROTOCOL).encode()
    return first_fields(scope).get(SESSION_FIELD, b"")


class Sessions:
    """Begins, recognises and ends sessions; other tokens of the server void all of them.

    Those that were ended are kept in the state folder until their tickets would have ended.
    """

    def __init__(self, state: Path, tokens: Sequence[str], now: Callable[[], float]) -> None:
        self._signer = Signer(state / "ports.key", tokens, now)
        self._path = state / "sessions.json"
        self._now = now
        self._keeping = asyncio.Lock()

    @cached_property
    def cookie(self) -> str:
        """The name of this server's cookie."""
        return SESSION_COOKIE.decode() + self._signer.mark(PURPOSE)

    def begin(self, right: Right, key: str = "") -> Halves:
        """Return the halves of a new session, or of one (`key`) that goes on."""
        key = key or secrets.token_urlsafe(ID_BYTES)
        facts = (str(int(right)), key)
        cookie = f"{right:d}.{key}.{self._signer.sign(PURPOSE, *facts, seconds=SECONDS)}"
        return Halves(cookie, self._signer.sign(PAGE, *facts, seconds=SECONDS))

    def right_of(self, scope: Scope) -> Right:
        """Return what the session of a request may: nothing unless one of our own pages asks."""
        found = self.find(scope) if is_own_page(scope) else None
        if found is None:
            return Right.NONE
        if self.is_whole(scope, *found):
            return found[0]
        reads = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}
        reads = reads and not is_for_tcp(scope["path"])
        return min(found[0], Right.USER) if reads else Right.NONE

    def is_whole(self, scope: Scope, right: Right, key: str) -> bool:
        """Say whether the page's half of a session is shown as well."""
        return self._signer.opens(PAGE, str(int(right)), key, ticket=_shown(scope))

    def find(self, scope: Scope) -> tuple[Right, str] | None:
        """Return the right and the key of the session whose cookie comes along, if it is alive."""
        for name, value in named_offers(scope, SESSION):
            if name != self.cookie.encode():
                continue
            found = _VALUE.fullmatch(value)
            if found is None:
                continue
            right, key = found[1].decode(), found[2].decode()
            if key not in self._ended and self._signer.opens(PURPOSE, right, key, ticket=found[3]):
                return Right(int(right)), key
        return None

    def made_here(self, value: bytes) -> bool:
        """Say whether a value is one of ours, however old: of the cookie, or like a page's half."""
        found = _VALUE.fullmatch(value)
        if found is None:
            return re.fullmatch(SHAPE.encode(), value) is not None
        right, key = found[1].decode(), found[2].decode()
        return self._signer.made(PURPOSE, right, key, ticket=found[3])

    async def end(self, key: str) -> None:
        """Have a session open nothing any more, from now on; raises OSError if that is not kept.

        Event loop's thread only: several that end at once must not forget each other.
        """
        now, ended = self._now(), self._ended
        for one in [one for one, until in ended.items() if until <= now]:
            del ended[one]
        ended[key] = now + SECONDS
        while len(ended) > MOST_ENDED:
            del ended[next(iter(ended))]
        async with self._keeping:
            await asyncio.to_thread(write_atomically, self._path, msgspec.json.encode(ended))

    @cached_property
    def _ended(self) -> dict[str, float]:
        with suppress(OSError, UntrustedFile, msgspec.DecodeError):
            kept = read_own(self._path)
            if kept is not None:
                return msgspec.json.decode(kept, type=dict[str, float])
        return {}
