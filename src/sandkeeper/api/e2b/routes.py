"""The routes of E2B's wire. What answers them is loaded with the first request for one."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.rights import ENVIRONMENT, OPEN, USER, Need
from sandkeeper.api.edge.routing import route
from sandkeeper.once import Once

if TYPE_CHECKING:
    from sandkeeper.api.e2b.server import E2bServer

__all__ = ["E2bDoor", "routes"]

SERVICES = {
    "process.Process": (
        *("CloseStdin", "Connect", "List", "SendInput", "SendSignal", "Start", "StreamInput"),
        "Update",
    ),
    "filesystem.Filesystem": (
        *("CreateWatcher", "GetWatcherEvents", "ListDir", "MakeDir", "Move", "Remove"),
        *("RemoveWatcher", "Stat", "WatchDir"),
    ),
}
OURS = Need(USER.right, own_words=True)
OPERATORS = Need(ENVIRONMENT.right, ENVIRONMENT.area, own_words=True)


class E2bDoor:
    """Hands every request to the server, which `load` gives in a thread when there is none yet."""

    def __init__(self, load: "Callable[[], E2bServer]") -> None:
        self._server = Once(partial(asyncio.to_thread, load))

    async def answer(self, request: Request) -> Response:
        """Answer a request, whatever is wrong with it."""
        server = await self._server.get()
        return await server.answer(request)


def routes(door: E2bDoor) -> list[BaseRoute]:
    """Return the routes."""
    calls = [f"/{service}/{name}" for service, names in SERVICES.items() for name in names]
    return [
        *(route(path, door.answer, "POST", need=OURS) for path in calls),
        route("/files", door.answer, need=OURS),
        route("/files", door.answer, "POST", need=OURS),
        route("/files/compose", door.answer, "POST", need=OURS),
        route("/envs", door.answer, need=OURS),
        route("/init", door.answer, "POST", need=OPERATORS),
        # Where `api.edge.urls.readdress` leads those who ask as E2B's clients do.
        route("/e2b/health", door.answer, need=OPEN),
        route("/e2b/metrics", door.answer, need=OURS),
    ]
