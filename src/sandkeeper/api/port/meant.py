"""Whether a request is for the sandbox that it came to.

Who leads requests to sandboxes by their addresses (`sandkeeper fleet`) knows what stood somewhere a
moment ago. An address may be another sandbox's by now, and the token that the request brings is
good there as well. So it says whom it means, and a server that knows its own name takes nothing
that is for another (RFC 9110, section 15.5.20).
"""

from starlette.types import Scope

from sandkeeper.api.edge.hosts import Gate
from sandkeeper.api.edge.middleware import Doors
from sandkeeper.errors import Misdirected

__all__ = ["MEANT", "MISDIRECTED", "MeantDoors"]

MEANT = b"x-sandkeeper-sandbox"
"""The name of the Sandbox, which is that of its Pod, that a request is for."""

MISDIRECTED = 421


class MeantDoors:
    """Doors that open to nothing that is for another sandbox than `name`."""

    def __init__(self, doors: Doors, name: str) -> None:
        self._doors = doors
        self._name = name.encode()

    def opens(self, scope: Scope, gate: Gate) -> bool:
        """Decide as the doors behind do; raises Misdirected for what is another's, and as they."""
        for field, value in scope["headers"]:
            if field == MEANT and value != self._name:
                raise Misdirected("this is another sandbox than the one that is meant: try again")
        return self._doors.opens(scope, gate)

    def shown(self, scope: Scope) -> str:
        """Return the path of a request for the log."""
        return self._doors.shown(scope)
