"""Routes as the contract has them: HEAD only where named, a wrong method is an unknown route."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from sandkeeper.api.edge.connections.plain import Plain, PlainRoutes
from sandkeeper.api.edge.rights import OPEN, Need, need_of
from sandkeeper.api.edge.urls import raw_path

__all__ = [
    "Area",
    "AreaRouter",
    "Areas",
    "Handler",
    "empty_head",
    "first_segment",
    "methods_of",
    "path_route",
    "route",
    "socket_route",
]

Handler = Callable[[Request], Awaitable[Response]]


class _ExactRoute(Route):
    """A route that does not match another method, where Starlette's answers 405."""

    need: Need
    plain: Plain | None = None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return (match, child) if match == Match.FULL else (Match.NONE, {})

    def serves(self, scope: Scope) -> bool:
        """Say whether the path is this route's, whatever the method."""
        return super().matches(scope)[0] != Match.NONE


def route(
    path: str, handler: Handler, *methods: str, need: Need, plain: Plain | None = None
) -> Route:
    """Bind `handler` to exactly `methods` (GET when none is named).

    `plain` answers what it can at once (`api.edge.connections.plain`).
    """
    made = _ExactRoute(path, handler, methods=list(methods) or ["GET"])
    made.need, made.plain = need, plain
    if "HEAD" not in methods and made.methods is not None:
        made.methods.discard("HEAD")  # Starlette adds HEAD to every GET; the contract does not
    return made


async def empty_head(_request: Request) -> Response:
    """Answer a HEAD that the contract leaves empty: 200, nothing is looked up."""
    return Response(b"", 200)


class _PathRoute(Route):
    """A route on `prefix` and everything below it, whatever bytes a path has.

    Starlette's `{name:path}` stops at a newline, and its slash redirects would lose the
    difference between `/x` and `//x` that file paths rest on.
    """

    need: Need
    plain: Plain | None = None
    raw_pattern: re.Pattern[bytes] | None = None
    below = True
    """It serves what is below its path, too."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] not in (self.methods or ()):
            return Match.NONE, {}
        if not self.serves(scope):
            return Match.NONE, {}
        return Match.FULL, {"endpoint": self.endpoint, "path_params": {}}

    def serves(self, scope: Scope) -> bool:
        """Say whether the path is this route's, whatever the method."""
        if self.raw_pattern is not None:
            return self.raw_pattern.match(raw_path(scope)) is not None
        path: str = scope["path"]
        if path.startswith("//"):  # a client whose base URL ends in a slash
            path = "/" + path.lstrip("/")
        return path.startswith(self.path + "/")


def path_route(
    prefix: str,
    handler: Handler,
    *methods: str,
    need: Need,
    raw_pattern: re.Pattern[bytes] | None = None,
    plain: Plain | None = None,
) -> Route:
    """Bind `handler` to `prefix/…` for exactly `methods`; `api.edge.urls.raw_rest` gives the path.

    `raw_pattern`, matched at the start of the undecoded path, decides instead where it is given.
    """
    made = _PathRoute(prefix, handler, methods=list(methods) or ["GET"])
    made.need, made.raw_pattern, made.plain = need, raw_pattern, plain
    if "HEAD" not in methods and made.methods is not None:
        made.methods.discard("HEAD")
    return made


class _SocketRoute(WebSocketRoute):
    """A route of WebSockets."""

    need: Need


def socket_route(
    path: str, handler: Callable[[WebSocket], Awaitable[None]], *, need: Need
) -> WebSocketRoute:
    """Bind `handler` to WebSockets that are opened at `path`."""
    made = _SocketRoute(path, handler)
    made.need = need
    return made


def methods_of(routes: Iterable[BaseRoute], scope: Scope) -> set[str]:
    """Return the methods that some of the routes take at a request's path."""
    mine = [one for one in routes if isinstance(one, (_ExactRoute, _PathRoute))]
    return {method for one in mine if one.serves(scope) for method in one.methods or ()}


def first_segment(path: str) -> str:
    """Return what stands between the first slashes and the next."""
    return path.lstrip("/").partition("/")[0]


class Area(msgspec.Struct, frozen=True):
    """Routes whose paths begin with one of `firsts`; `make` loads them.

    `is_open` says that some of them are answered without a token: those are loaded at the start.
    `own_words` says that all of them ask for the right themselves, and refuse as their wire does.
    """

    firsts: tuple[str, ...]
    make: Callable[[], list[BaseRoute]]
    is_open: bool = False
    own_words: bool = False


class Areas:
    """All areas; each is made once."""

    def __init__(self, areas: Iterable[Area]) -> None:
        self._areas = list(areas)
        self._made: dict[Area, list[BaseRoute]] = {}
        self._by_first = {first: area for area in self._areas for first in area.firsts}
        self._prepare: Callable[[list[BaseRoute]], None] | None = None
        self.plain = PlainRoutes()

    @property
    def firsts(self) -> set[str]:
        """The first segments of all paths that are known."""
        return set(self._by_first)

    def __contains__(self, first: str) -> bool:
        return first in self._by_first

    def prepared_by(self, prepare: Callable[[list[BaseRoute]], None]) -> None:
        """Have something done to the routes of each area before any of them is used."""
        self._prepare = prepare

    def add(self, area: Area) -> None:
        """Put another behind the rest."""
        self._areas.append(area)
        self._by_first |= dict.fromkeys(area.firsts, area)

    def routes(self) -> list[BaseRoute]:
        """Return every route; makes all areas."""
        return [made for area in self._areas for made in self._routes_of(area)]

    async def routes_in_turn(self) -> list[BaseRoute]:
        """Return the same; others have their turn between two areas, for each may be an import."""
        found: list[BaseRoute] = []
        for area in self._areas:
            found += self._routes_of(area)
            await asyncio.sleep(0)
        return found

    def open_routes(self) -> list[BaseRoute]:
        """Return the routes of the areas that may be answered without a token."""
        return [made for area in self._areas if area.is_open for made in self._routes_of(area)]

    def own_words(self) -> frozenset[str]:
        """Return how the paths begin whose routes ask for the right themselves."""
        return frozenset(first for area in self._areas if area.own_words for first in area.firsts)

    def below(self, first: str) -> list[BaseRoute]:
        """Return the routes that can match a path that begins so."""
        area = self._by_first.get(first)
        if area is None:
            return []
        # The proxy's route has no path of Starlette's kind.
        paths = [(made, getattr(made, "path", first)) for made in self._routes_of(area)]
        return [made for made, path in paths if first_segment(path) == first]

    def _routes_of(self, area: Area) -> list[BaseRoute]:
        """Raises TypeError for a route that is not where its path says, or open where none is."""
        if area not in self._made:
            made = area.make()
            for one in made:
                if first_segment(getattr(one, "path", area.firsts[0])) not in area.firsts:
                    raise TypeError(f"{one!r} is not in the area {area.firsts}")
                if need_of(one) == OPEN and not (area.is_open or area.own_words):
                    raise TypeError(f"{one!r} is open, and its area is not")
                if need_of(one).own_words != area.own_words and need_of(one) != OPEN:
                    raise TypeError(f"{one!r} and its area ask for rights in different places")
            if self._prepare is not None:
                self._prepare(made)
            self._made[area] = made
            self.plain.add(made)
        return self._made[area]


class AreaRouter:
    """Tries only the routes that can match: those with the path's first segment.

    Their order stays. One after the other, a hundred routes take up to 80 µs for each request.
    `default` answers what none of some routes matches.
    """

    def __init__(self, areas: Areas, default: Callable[[Sequence[BaseRoute]], ASGIApp]) -> None:
        self._areas = areas
        self._default = default
        self._routers = {"": self._router("")}

    def _router(self, first: str) -> Router:
        tried = self._areas.below(first)
        return Router(tried, redirect_slashes=False, default=self._default(tried))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or a WebSocket."""
        first = first_segment(scope["path"])
        if first not in self._areas:
            first = ""
        router = self._routers.get(first)
        if router is None:
            router = self._routers[first] = self._router(first)
        await router(scope, receive, send)
