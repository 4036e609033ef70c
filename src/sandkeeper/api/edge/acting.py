"""Who a request acts as: `?user=` on the routes of files, and what others own out of its reach."""

from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from sandkeeper.api.edge.rights import STANDING, USERS, Standing, user_of
from sandkeeper.api.edge.routing import first_segment
from sandkeeper.linux.users import Users

__all__ = ["Acting"]


class Acting:
    """The layer around the router; bodies of processes and terminals name their user themselves."""

    def __init__(self, app: ASGIApp, users: Users) -> None:
        self._app = app
        self._users = users

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; raises UnknownUser and Forbidden."""
        users, standing = self._users, scope.get(STANDING)
        named = b"user=" in scope["query_string"]
        if not (named or users.any_allowed) or not isinstance(standing, Standing):
            await self._app(scope, receive, send)
            return
        with users.asking(for_all=standing.may(USERS)):
            if not (named and _is_about_files(scope["path"])):
                await self._app(scope, receive, send)
                return
            name = QueryParams(scope["query_string"]).get("user", "")
            with users.acting_as(user_of(HTTPConnection(scope), users, name)):
                await self._app(scope, receive, send)


def _is_about_files(path: str) -> bool:
    area = first_segment(path)
    return area == "watch" or area == "filesystem" or area.startswith("filesystem-")
