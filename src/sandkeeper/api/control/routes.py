"""The routes of E2B's control plane. What answers them is loaded with the first request."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.rights import USER, Need
from sandkeeper.api.edge.routing import route
from sandkeeper.once import Once

if TYPE_CHECKING:
    from sandkeeper.api.control.calls import ControlCalls

__all__ = ["ControlDoor", "routes"]

OURS = Need(USER.right, own_words=True)
REFUSED = ("templates", "volumes", "snapshots", "secrets")
"""What this control plane has none of."""


class ControlDoor:
    """Hands every request to the calls, which `load` gives when there are none yet."""

    def __init__(self, load: "Callable[[], Awaitable[ControlCalls]]") -> None:
        self._calls = Once(load)

    async def answer(self, request: Request) -> Response:
        """Answer a request, whatever is wrong with it."""
        calls = await self._calls.get()
        return await calls.answer(request)


def routes(door: ControlDoor) -> list[BaseRoute]:
    """Return the routes."""
    answer = door.answer
    made: list[BaseRoute] = []
    for base in ("/sandboxes", "/v2/sandboxes"):
        one = base + "/{name}"
        made += [
            route(base, answer, need=OURS),
            route(base, answer, "POST", need=OURS),
            route(one + "/connect", answer, "POST", need=OURS),
        ]
    one = "/sandboxes/{name}"
    calls = ("timeout", "refreshes", "pause", "resume", "fork", "snapshots")
    made += [
        route(one, answer, need=OURS),
        route(one, answer, "DELETE", need=OURS),
        route(one + "/metrics", answer, need=OURS),
        *(route(f"{one}/{name}", answer, "POST", need=OURS) for name in calls),
        route(one + "/network", answer, "PUT", need=OURS),
    ]
    for name in REFUSED:
        methods = ("GET", "POST", "PUT", "PATCH", "DELETE")
        made += [route("/" + name, answer, *methods, need=OURS)]
        made += [route(f"/{name}/{{rest:path}}", answer, *methods, need=OURS)]
    return made
