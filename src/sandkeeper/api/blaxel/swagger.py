"""`/swagger`: the description of the API and a page that shows it; `/openapi.json` besides."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.blaxel.description import Address, openapi, swagger
from sandkeeper.api.edge.pages import page_headers
from sandkeeper.api.edge.respond import encode_json
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.urls import with_prefix

__all__ = ["SwaggerHandlers", "routes"]

PAGE = Path(__file__).parents[2] / "web" / "swagger.html"
JSON = "application/json; charset=utf-8"

Described = Callable[[], Awaitable[list[BaseRoute]]]


class SwaggerHandlers:
    """Handlers of the description of what `described` gives; made when first asked, then kept."""

    def __init__(self, *, address: Address, origins: Sequence[str], described: Described) -> None:
        self._address = address
        self._origins = origins
        self._described = described
        self._made: dict[str, bytes] = {}
        self._making = asyncio.Lock()

    async def swagger(self, _request: Request) -> Response:
        """Give the description as the contract's clients read it."""
        return await self._document("swagger")

    async def openapi(self, _request: Request) -> Response:
        """Give it in the newer form, which says more."""
        return await self._document("openapi")

    async def _document(self, kind: str) -> Response:
        async with self._making:  # hundreds may ask at once
            if kind not in self._made:
                described = await self._described()
                self._made[kind] = await asyncio.to_thread(self._make, kind, described)
        return Response(self._made[kind], media_type=JSON)

    def _make(self, kind: str, routes: list[BaseRoute]) -> bytes:
        make = swagger if kind == "swagger" else openapi
        return encode_json(make(routes, self._address))

    async def page(self, _request: Request) -> Response:
        """Show the description; the page loads nothing but `doc.json` beside it."""
        page = await asyncio.to_thread(PAGE.read_text, "utf-8")
        script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
        headers = page_headers(script[1] if script else "", self._origins)
        return Response(page, 200, headers, media_type="text/html")

    async def to_page(self, request: Request) -> Response:
        """Lead to the page."""
        where = with_prefix(request.scope, "/swagger/index.html")
        if request.url.query:
            where += "?" + request.url.query
        return Response(b"", 301, {"Location": where})


def routes(handlers: SwaggerHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        route("/swagger", handlers.to_page, need=USER),
        route("/swagger/", handlers.to_page, need=USER),
        route("/swagger/index.html", handlers.page, need=USER),
        route("/swagger/doc.json", handlers.swagger, need=USER),
        route("/openapi.json", handlers.openapi, need=USER),
    ]
