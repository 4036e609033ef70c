"""The routes of E2B's wire. What answers them is loaded with the first request for one."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from sandkeeper.api.edge.rights import ENVIRONMENT, OPEN, USER, Need
from sandkeeper.api.edge.routing import route

if TYPE_CHECKING:
    from sandkeeper.api.e2b.server import E2bServer

__all__ = ["FIRSTS", "E2bDoor", "health_route", "metrics_route", "routes"]

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
FIRSTS = (*SERVICES, "files", "envs", "init")
"""How their paths begin."""

OURS = Need(USER.right, own_words=True)
OPERATORS = Need(ENVIRONMENT.right, ENVIRONMENT.area, own_words=True)


class E2bDoor:
    """Hands every request to the server, which `load` gives in a thread when there is none yet."""

    def __init__(self, load: "Callable[[], E2bServer]") -> None:
        self._load = load
        self._loading: asyncio.Task[E2bServer] | None = None

    async def answer(self, request: Request) -> Response:
        """Answer a request, whatever is wrong with it."""
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        # Shielded: whoever came first may go away while others wait for the same import.
        server = await asyncio.shield(self._loading)
        return await server.answer(request)


class _ChosenRoute(Route):
    """A route for some of the requests for its path: all others have another answer."""

    need: Need
    chosen: Callable[[Scope], bool]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match != Match.FULL or not self.chosen(scope):
            return Match.NONE, {}
        return match, child


def _chosen(path: str, door: E2bDoor, chosen: Callable[[Scope], bool], need: Need) -> BaseRoute:
    made = _ChosenRoute(path, door.answer, methods=["GET"])
    made.need, made.chosen = need, chosen
    return made


def _takes_json(scope: Scope) -> bool:
    accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return b"application/json" in accept and b"text/plain" not in accept


def _names_sandbox(scope: Scope) -> bool:
    return any(name == b"e2b-sandbox-id" for name, _ in scope["headers"])


def routes(door: E2bDoor) -> list[BaseRoute]:
    """Return the routes but for that of `/metrics`."""
    calls = [f"/{service}/{name}" for service, names in SERVICES.items() for name in names]
    return [
        *(route(path, door.answer, "POST", need=OURS) for path in calls),
        route("/files", door.answer, need=OURS),
        route("/files", door.answer, "POST", need=OURS),
        route("/files/compose", door.answer, "POST", need=OURS),
        route("/envs", door.answer, need=OURS),
        route("/init", door.answer, "POST", need=OPERATORS),
    ]


def metrics_route(door: E2bDoor) -> BaseRoute:
    """Return the route of `/metrics` for those who want JSON; it comes before the other's."""
    return _chosen("/metrics", door, _takes_json, OURS)


def health_route(door: E2bDoor) -> BaseRoute:
    """Return the route of `/health` for those who ask for a sandbox by its id."""
    return _chosen("/health", door, _names_sandbox, OPEN)
