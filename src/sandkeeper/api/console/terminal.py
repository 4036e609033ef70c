"""The terminal in a browser: the page and its WebSocket."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.console.terminal_page import TerminalPage
from sandkeeper.api.console.terminal_socket import TerminalSocket
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import empty_head, route, socket_route

__all__ = ["routes"]


async def _handshake_missing(_request: Request) -> Response:
    """Answer a plain GET where a WebSocket is expected."""
    return Response(b"Bad Request\n", 400, {"Sec-Websocket-Version": "13"}, media_type="text/plain")


def routes(page: TerminalPage, socket: TerminalSocket) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        route("/terminal", page.serve, need=USER),
        route("/terminal", empty_head, "HEAD", need=USER),
        socket_route("/terminal/ws", socket.serve, need=USER),
        route("/terminal/ws", _handshake_missing, need=USER),
        route("/terminal/ws", empty_head, "HEAD", need=USER),
    ]
