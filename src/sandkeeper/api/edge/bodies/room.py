"""What the bodies of all requests may take together; every request has one, most have no body."""

from sandkeeper.errors import Unavailable

__all__ = ["HELD", "Held", "Room"]

HELD = "sandkeeper.held"
"""Where in a request's scope its `Held` is."""


class Room:
    """What the bodies of all requests together may take, in bytes."""

    def __init__(self, size: int) -> None:
        self.free = size


class Held:
    """What the body of one request takes; released with the request."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._size = 0

    def take(self, size: int) -> None:
        """Take more; raises Unavailable when there is none."""
        if size > self._room.free:
            raise Unavailable("too many large requests at once: try again")
        self._room.free -= size
        self._size += size

    def release(self) -> None:
        """Give everything back."""
        self._room.free += self._size
        self._size = 0
