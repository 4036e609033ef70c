"""Failures in the words of the wires, also of whoever has no token."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from sandkeeper.api.edge.respond import status_of, utf8
from sandkeeper.api.edge.rights import Right, standing_of
from sandkeeper.api.edge.routing import Handler
from sandkeeper.errors import SandkeeperError

__all__ = ["in_words"]


def in_words(handler: Handler, failed: Callable[[int, str], Response]) -> Handler:
    """Return a handler that answers by `failed` (a status, what is wrong) what is refused."""

    async def handle(request: Request) -> Response:
        if standing_of(request).right < Right.USER:
            return failed(401, "missing or wrong token: send it as X-Blaxel-Authorization")
        try:
            return await handler(request)
        except SandkeeperError as error:
            return failed(status_of(error), utf8(str(error)))

    return handle
