"""Reloading the environment that later processes inherit."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import ENVIRONMENT
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.subject import caller
from sandkeeper.log.access import Access
from sandkeeper.settings.sources import EnvironmentReload

__all__ = ["EnvironmentHandlers", "routes"]


class EnvironmentHandlers:
    """Handlers over the environment service."""

    def __init__(self, *, reload: EnvironmentReload, access: Access) -> None:
        self._reload = reload
        self._access = access

    async def reload(self, request: Request) -> Response:
        """Apply the metadata document and tell how much changed."""
        done = await self._reload.reload()
        self._access.audit("environment_reload", caller(request), generation=done.generation)
        return json_response(
            {"generation": done.generation, "applied": done.applied, "removed": done.removed}
        )


def routes(handlers: EnvironmentHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [route("/environment/reload", handlers.reload, "POST", need=ENVIRONMENT)]
