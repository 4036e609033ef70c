"""What a connection has sent and its parser has not seen yet: fed in turns, a little in each.

A parser gets small slices, for a millisecond at most; what is left waits for a turn and the
connection is not read meanwhile. `api.edge.connections.intake` says why, for clients; servers
behind `/port` are no better.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter

from sandkeeper.journal.turns import Turns

__all__ = ["Intake"]

SLICE_BYTES = 4096
TURN_SECONDS = 0.001
READ_BYTES = 64 << 10
REST_BYTES = 512 << 10
"""After so much in reads of `READ_BYTES` and more the others have a round of the loop: libuv makes
thirty reads of 256 KiB in one of its own, of each connection, as long as the parser keeps up."""

_turns = Turns()


class Intake:
    """The bytes of one connection that are still to be parsed; event loop's thread only.

    `feed` takes a slice; `ready` says whether another may be fed now, and whoever makes it true
    calls `wake`. `hold` and `let_go` stop and start the reading of the connection.
    """

    def __init__(
        self,
        feed: Callable[[bytes], None],
        ready: Callable[[], bool],
        hold: Callable[[], None],
        let_go: Callable[[], None],
        slice_bytes: int = SLICE_BYTES,
    ) -> None:
        self._feed = feed
        self._ready = ready
        self._hold = hold
        self._let_go = let_go
        self._slice_bytes = slice_bytes
        self._left = b""
        self._at = 0
        self._task: asyncio.Task[None] | None = None
        self._in_a_row = 0
        self._rests = False

    @property
    def waits(self) -> bool:
        """Whether there are bytes that were not parsed, or the connection is held for a round."""
        return bool(self._left) or self._rests

    def take(self, data: bytes) -> None:
        """Parse what a millisecond suffices for; the rest later."""
        if not self._left and len(data) <= self._slice_bytes < READ_BYTES and self._is_free():
            self._in_a_row = 0
            self._feed(data)
            return
        self._left = self._left[self._at :] + data if self._left else data
        self._at = 0
        if self._task is None:
            self._some()
        self._in_a_row = self._in_a_row + len(data) if len(data) >= READ_BYTES else 0
        if self._left:
            self._hold()
            self.wake()
        elif self._in_a_row >= REST_BYTES and not self._rests:
            self._rests = True
            self._hold()
            asyncio.get_running_loop().call_soon(self._rested)

    def _is_free(self) -> bool:
        return self._task is None and self._ready()

    def _rested(self) -> None:
        self._rests, self._in_a_row = False, 0
        if not self._left and self._task is None:
            self._let_go()

    def wake(self) -> None:
        """Go on with what is left, if there is any."""
        if self._left and self._task is None and self._ready():
            self._task = asyncio.ensure_future(self._rest())

    def drop(self) -> bytes:
        """Forget what is left and return it: it is not to be parsed any more."""
        left, self._left, self._at = self._left[self._at :], b"", 0
        return left

    def _some(self) -> None:
        until = perf_counter() + TURN_SECONDS
        while self._left and self._ready():
            piece = self._left[self._at : self._at + self._slice_bytes]
            self._at += len(piece)
            if self._at >= len(self._left):
                self._left, self._at = b"", 0
            self._feed(piece)
            if perf_counter() > until:
                return

    async def _rest(self) -> None:
        try:
            while self._left and self._ready():
                await _turns.take()
                self._some()
        finally:
            self._task = None
        if not self._left:
            self._let_go()
