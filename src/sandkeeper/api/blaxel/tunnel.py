"""The WireGuard tunnel: apply, disconnect. Nothing can be read: the configuration holds keys."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import TUNNEL
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.schemas.tunnel import TunnelConfigRequest
from sandkeeper.errors import BadInput
from sandkeeper.log.access import Access
from sandkeeper.tunnel.service import Tunnel

__all__ = ["TunnelHandlers", "routes"]

BODY_BYTES = 1 << 20


class TunnelHandlers:
    """Handlers over the tunnel."""

    def __init__(self, *, tunnel: Tunnel, access: Access) -> None:
        self._tunnel = tunnel
        self._access = access

    async def apply(self, request: Request) -> Response:
        """Replace the tunnel."""
        body = await read_json(request, TunnelConfigRequest, BODY_BYTES)
        if not body.config:
            raise BadInput("invalid request body: config is required")
        self._access.audit("tunnel_update", caller(request))
        await self._tunnel.apply(body.config)
        return json_response({"path": "", "message": "Tunnel configuration updated successfully"})

    async def disconnect(self, request: Request) -> Response:
        """Take the tunnel away."""
        self._access.audit("tunnel_disconnect", caller(request))
        await self._tunnel.disconnect()
        return json_response({"path": "", "message": "Tunnel disconnected"})


def routes(handlers: TunnelHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        route("/network/tunnel/config", handlers.apply, "PUT", need=TUNNEL),
        route("/network/tunnel", handlers.disconnect, "DELETE", need=TUNNEL),
    ]
