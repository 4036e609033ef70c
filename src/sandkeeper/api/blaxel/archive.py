"""The archive: export, status, resume; fetching one, and applying one."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.rights import ARCHIVE
from sandkeeper.api.edge.routing import route

if TYPE_CHECKING:
    from sandkeeper.api.blaxel.archive_calls import ArchiveCalls

__all__ = ["ArchiveHandlers", "routes"]


class ArchiveHandlers:
    """Handlers of `/archive`; `load` makes what does the work, in a thread, at the first call."""

    def __init__(self, load: "Callable[[], ArchiveCalls]") -> None:
        self._load = load
        self._calls: ArchiveCalls | None = None

    async def export(self, request: Request) -> Response:
        """Export what changed."""
        return await (await self._loaded()).export(request)

    async def status(self, request: Request) -> Response:
        """Show how the archive stands."""
        return await (await self._loaded()).status(request)

    async def resume(self, request: Request) -> Response:
        """Lift the freeze."""
        return await (await self._loaded()).resume(request)

    async def content(self, request: Request) -> Response:
        """Send the archive that is kept, or the rest of it."""
        return await (await self._loaded()).content(request)

    async def fetched(self, request: Request) -> Response:
        """Give up the archive that is kept: somebody has it."""
        return await (await self._loaded()).fetched(request)

    async def bring(self, request: Request) -> Response:
        """Apply an archive that lies in a file."""
        return await (await self._loaded()).bring(request)

    async def _loaded(self) -> "ArchiveCalls":
        if self._calls is None:
            self._calls = await asyncio.to_thread(self._load)
        return self._calls


def routes(handlers: ArchiveHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        route("/archive/export", handlers.export, "POST", need=ARCHIVE),
        route("/archive/status", handlers.status, need=ARCHIVE),
        route("/archive/resume", handlers.resume, "POST", need=ARCHIVE),
        route("/archive/content", handlers.content, need=ARCHIVE),
        route("/archive/content", handlers.fetched, "DELETE", need=ARCHIVE),
        route("/archive/import", handlers.bring, "POST", need=ARCHIVE),
    ]
