"""Routes as the contract has them: HEAD only where named, a wrong method is an unknown route."""

import re
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from sandkeeper.api.urls import raw_path

__all__ = ["Handler", "empty_head", "path_route", "route"]

Handler = Callable[[Request], Awaitable[Response]]


class _ExactRoute(Route):
    """A route that does not match another method, where Starlette's answers 405."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return (match, child) if match == Match.FULL else (Match.NONE, {})


def route(path: str, handler: Handler, *methods: str) -> Route:
    """Bind `handler` to exactly `methods` (GET when none is named)."""
    made = _ExactRoute(path, handler, methods=list(methods) or ["GET"])
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

    raw_pattern: re.Pattern[bytes] | None = None
    below = True
    """It serves what is below its path, too."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] not in (self.methods or ()):
            return Match.NONE, {}
        if self.raw_pattern is not None:
            found = self.raw_pattern.match(raw_path(scope)) is not None
        else:
            path: str = scope["path"]
            if path.startswith("//"):  # a client whose base URL ends in a slash
                path = "/" + path.lstrip("/")
            found = path.startswith(self.path + "/")
        if not found:
            return Match.NONE, {}
        return Match.FULL, {"endpoint": self.endpoint, "path_params": {}}


def path_route(
    prefix: str, handler: Handler, *methods: str, raw_pattern: re.Pattern[bytes] | None = None
) -> Route:
    """Bind `handler` to `prefix/…` for exactly `methods`; `api.urls.raw_rest` gives the path.

    `raw_pattern`, matched at the start of the undecoded path, decides instead where it is given.
    """
    made = _PathRoute(prefix, handler, methods=list(methods) or ["GET"])
    made.raw_pattern = raw_pattern
    if "HEAD" not in methods and made.methods is not None:
        made.methods.discard("HEAD")
    return made
