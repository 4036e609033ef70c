"""The end of a server: who has connected is answered, who has not is refused, nobody is reset.

Newcomers are kept out first, and whoever the kernel has let in is accepted (`network.newcomers`).
Then connections end: one at rest at once, one whose request is being answered behind the answer,
and one that is new, and whose first request may be on its way, has a moment for it, and so has one
that was answered just now. Every answer says from here on that its connection ends.
"""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from uvicorn.server import Server

from sandkeeper.linux.addresses import is_loopback
from sandkeeper.network.newcomers import keep_out, waiting

if TYPE_CHECKING:
    from sandkeeper.api.edge.connections.protocol import EdgeProtocol

__all__ = ["Ending"]

LOOK_EVERY = 0.002
ROUND_TRIP_SECONDS = 0.1
"""So long a connection may take to be set up that was begun before newcomers were kept out; from
this machine it is set up within the call of its client."""
NEWCOMER_SECONDS = 1.0
AGAIN_SECONDS = 0.02
"""So long after an answer that did not say that its connection ends, its client may ask again."""
CLOSE = (b"connection", b"close")


class Ending:
    """Ends all connections of a server within `seconds`, and closes its listening sockets."""

    def __init__(
        self, server: Server, listeners: Sequence[socket.socket], *, seconds: float
    ) -> None:
        self._server = server
        self._listeners = listeners
        self._seconds = seconds
        self._spares_newcomers = True
        self._told: set[object] = set()

    async def end(self) -> None:
        """End them; who is not done in time is given up."""
        state, began = self._server.server_state, asyncio.get_running_loop().time()
        # First: a thread may be about to answer, and nobody may ask again on its connection.
        state.default_headers = [*state.default_headers, CLOSE]
        self._tell_present()
        for listener in self._listeners:
            with suppress(OSError):  # no such filters here: who comes at the last moment is reset
                keep_out(listener)
        if not all(map(_is_near, self._listeners)):
            await self._tend(began + ROUND_TRIP_SECONDS)
        await self._tend(began + NEWCOMER_SECONDS, until=self._nobody_waits)
        for listening in self._server.servers:
            listening.close()
        for listener in self._listeners:
            listener.close()
        await self._tend(began + NEWCOMER_SECONDS, until=self._nobody_is_left)
        self._spares_newcomers = False
        await self._tend(began + self._seconds, until=self._nobody_is_left)
        for task in state.tasks:
            task.cancel()

    def _tell_present(self) -> None:
        """Have the answers that are being made say it, too."""
        for connection in self._server.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_started:
                cycle.default_headers = self._server.server_state.default_headers

    def _nobody_waits(self) -> bool:
        return not any(map(waiting, self._listeners))

    def _nobody_is_left(self) -> bool:
        state = self._server.server_state
        return not state.connections and not state.tasks

    async def _tend(self, end: float, until: Callable[[], bool] = lambda: False) -> None:
        """Close what comes to rest, until a time, or until something holds."""
        loop = asyncio.get_running_loop()
        while loop.time() < end and not self._server.force_exit and not until():
            for connection in list(self._server.server_state.connections):
                self._see_to(connection)  # type: ignore[arg-type]
            await asyncio.sleep(LOOK_EVERY)

    def _see_to(self, connection: "EdgeProtocol") -> None:
        if hasattr(connection, "is_idle"):
            if not (self._spares_newcomers and _may_ask(connection)):
                connection.shutdown()
        elif connection not in self._told:  # it speaks another protocol than HTTP
            self._told.add(connection)
            connection.shutdown()


def _is_near(listener: socket.socket) -> bool:
    return is_loopback(str(listener.getsockname()[0]))


def _may_ask(connection: "EdgeProtocol") -> bool:
    """Say whether a request is on its way here: a first one, the next, or one not all read."""
    cycle = connection.cycle
    if cycle is not None and not cycle.response_complete:
        return False
    if cycle is None or not connection.is_idle or connection.rested < AGAIN_SECONDS:
        return True
    return _has_unread(connection)


def _has_unread(connection: "EdgeProtocol") -> bool:
    with suppress(OSError, ValueError):
        number = connection.transport.get_extra_info("socket").fileno()
        (count,) = struct.unpack("=i", fcntl.ioctl(number, termios.FIONREAD, b"\0" * 4))
        return bool(count)
    return False
