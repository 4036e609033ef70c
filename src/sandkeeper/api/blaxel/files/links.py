"""The routes of links to files, of which some are answered without a token.

So they are known from the start; what answers them is loaded with the first request.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.rights import USER, Need
from sandkeeper.api.edge.routing import route

if TYPE_CHECKING:
    from sandkeeper.api.blaxel.files.link_calls import LinkHandlers

__all__ = ["LINK", "LINKS", "routes"]

LINKS, LINK = "/filesystem-links", "/filesystem-link"
TICKETED = Need(USER.right, own_words=True)
"""Who has the link needs no token: the handler asks for its ticket."""


class _Late:
    def __init__(self, load: "Callable[[], LinkHandlers]") -> None:
        self._load = load
        self._loaded: LinkHandlers | None = None

    def _handlers(self) -> "LinkHandlers":
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    async def make(self, request: Request) -> Response:
        return await self._handlers().make(request)

    async def revoke(self, request: Request) -> Response:
        return await self._handlers().revoke(request)

    async def read(self, request: Request) -> Response:
        return await self._handlers().read(request)

    async def write(self, request: Request) -> Response:
        return await self._handlers().write(request)


def routes(load: "Callable[[], LinkHandlers]") -> list[BaseRoute]:
    """Return the routes of this area."""
    late = _Late(load)
    return [
        route(LINKS, late.make, "POST", need=USER),
        route(LINKS, late.revoke, "DELETE", need=USER),
        route(LINK, late.read, need=TICKETED),
        route(LINK, late.write, "PUT", "POST", need=TICKETED),
    ]
