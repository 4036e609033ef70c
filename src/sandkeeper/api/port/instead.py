"""Who answers for a port on which no server of the sandbox listens: code interpreters' clients.

They know theirs by its port (`settings.CODE_PORTS`). Such a request is one of the API by another
address: it needs what the API asks of everybody, and neither a ticket nor a page of another port
opens it.
"""

from collections.abc import Callable, Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from sandkeeper.api.edge.rights import STANDING, Right, Standing
from sandkeeper.api.edge.urls import INSTEAD, PORT_NAME
from sandkeeper.api.port.door import Door

__all__ = ["Instead"]

TOLD_BY_PAGES = frozenset({b"origin", b"sec-fetch-site"})


class Instead:
    """Leads to the `routes` of this server for `ports`; on those of `own` it listens itself."""

    def __init__(
        self,
        ports: frozenset[int],
        own: frozenset[int],
        routes: Callable[[], Sequence[BaseRoute]],
    ) -> None:
        self._ports = ports
        self._own = own & ports
        self._routes = routes

    def owns(self, port: int) -> bool:
        """Say whether whoever listens on a port is this server."""
        return port in self._own

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, door: Door, path: bytes
    ) -> bool:
        """Answer a request for `path` of a port; False when it is none of ours."""
        if door.port not in self._ports or not _may(scope, door):
            return False
        led = {name: value for name, value in scope.items() if name != PORT_NAME}
        led |= {"path": path.decode("latin-1"), "raw_path": path, INSTEAD: door.port}
        for made in self._routes():
            match, child = made.matches(led)
            if match == Match.FULL:
                await made.handle({**led, **child}, receive, send)
                return True
        return False


def _may(scope: Scope, door: Door) -> bool:
    """Say whether a request shows what the API asks for: the right, and that it is no page's."""
    standing = scope.get(STANDING)
    if not isinstance(standing, Standing) or standing.right < Right.USER or door.ticket:
        return False
    # By its path the gate has let it pass as it does for the API; by a host name as for a port.
    return door.name is None or not any(name in TOLD_BY_PAGES for name, _ in scope["headers"])
