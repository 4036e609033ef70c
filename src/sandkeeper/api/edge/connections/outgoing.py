"""What answers hold in memory until their clients have taken them: bounded, all together.

Counted are the bytes that a connection has not taken yet, and what whoever makes a long answer
holds besides. When there is no room, clients that have taken nothing for a while lose their
connection, longest first; whoever wants more waits for that a little and is refused then.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Protocol

from starlette.types import Scope

from sandkeeper.errors import Unavailable

__all__ = ["ANSWER", "SMALL_BYTES", "Answer", "Outgoing", "answer_of"]

ANSWER = "sandkeeper.answer"
"""Where in a request's scope its `Answer` is."""

SMALL_BYTES = 64 << 10
"""An answer of this size always has room: it fits into what a connection buffers anyway."""

STALLED_SECONDS = 3.0
WAIT_SECONDS = 20.0
LOOK_SECONDS = 0.5


class Connection(Protocol):
    """What is to be known of a client's connection."""

    def unsent(self) -> int:
        """Return how many bytes the client has not taken."""

    @property
    def is_gone(self) -> bool:
        """Whether nobody is there any more."""

    def abort(self) -> None:
        """End it at once; what is unsent is dropped."""

    def when_drained(self, then: Callable[[], None]) -> None:
        """Call `then` once when nearly all was taken, or the connection is over."""


class Outgoing:
    """The room of all answers, in bytes; event loop's thread only."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.most = 0
        self.refused = 0
        self.cut = 0
        self.holders: dict[Answer, None] = {}
        self.queue: dict[Answer, asyncio.Event] = {}

    @property
    def is_over(self) -> bool:
        """Whether more is held than there is room for."""
        return self.held > self.limit

    def statistics(self) -> dict[str, int]:
        """Return bytes held now and at most, answers refused and clients cut off."""
        return {
            "heldBytes": self.held,
            "mostHeldBytes": self.most,
            "limitBytes": self.limit,
            "refused": self.refused,
            "cut": self.cut,
        }

    def add(self, size: int) -> None:
        """Count `size` bytes more (or less)."""
        self.held += size
        if size < 0:
            self.wake()
        self.most = max(self.most, self.held)

    def wake(self) -> None:
        """Have the one that has waited longest look again."""
        if self.queue:
            next(iter(self.queue.values())).set()

    def press(self, size: int) -> None:
        """Cut off clients that take nothing, as many as `size` bytes need."""
        now = monotonic()
        stalled = [holder for holder in self.holders if holder.stalled(now) > STALLED_SECONDS]
        for holder in sorted(stalled, key=lambda holder: holder.since):
            if self.held + size <= self.limit:
                return
            self.cut += 1
            holder.cut_off()


class Answer:
    """What the answer to one request holds."""

    def __init__(self, outgoing: Outgoing, connection: Connection | None) -> None:
        self._outgoing = outgoing
        self._connection = connection
        self._reserved = 0
        self._buffered = 0
        self._seen = -1
        self.since = monotonic()
        self.is_managed = False
        self._is_short = True

    def take(self, size: int) -> None:
        """Count `size` bytes that the answer is about to hold; raises Unavailable."""
        outgoing = self._outgoing
        if size > SMALL_BYTES and outgoing.held + size > outgoing.limit:
            outgoing.press(size)
            if outgoing.held + size > outgoing.limit:
                outgoing.refused += 1
                raise Unavailable("too many answers wait to be read: try again")
        self._is_short = False
        self._reserved += size
        self._count(size)

    async def reserve(self, size: int) -> None:
        """Do what `take` does, but wait a little for others to be read."""
        until = monotonic() + WAIT_SECONDS
        queue = self._outgoing.queue
        turn = queue[self] = asyncio.Event()
        try:
            while (
                not self._may_take(size) and not self.is_gone and (left := until - monotonic()) > 0
            ):
                turn.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, LOOK_SECONDS)):
                        await turn.wait()
        finally:
            del queue[self]
            self._outgoing.wake()
        self.take(size)

    def _may_take(self, size: int) -> bool:
        """Say whether there is room and nobody has waited for longer."""
        outgoing = self._outgoing
        if next(iter(outgoing.queue)) is not self:
            return False
        if outgoing.held + size > outgoing.limit:
            outgoing.press(size)
        return outgoing.held + size <= outgoing.limit

    @property
    def is_gone(self) -> bool:
        """Whether the client has left."""
        return self._connection is not None and self._connection.is_gone

    def give(self, size: int) -> None:
        """Give back so much of what was taken."""
        self._reserved -= size
        self._count(-size)

    def sent(self) -> None:
        """Count anew what the client has not taken: something was just sent."""
        self._is_short = False
        self.since = monotonic()
        self._look()
        if self._outgoing.is_over:
            self._outgoing.press(0)

    def finish(self) -> None:
        """End the request; what its client has not taken is counted until it has."""
        if self._is_short:
            return
        self.give(self._reserved)
        self._look()
        if self._buffered and self._connection is not None:
            self._connection.when_drained(self._drained)

    def stalled(self, now: float) -> float:
        """Return for how many seconds the client has taken nothing, as far as was looked."""
        if self._connection is None or (unsent := self._connection.unsent()) == 0:
            return 0.0
        if unsent != self._seen:
            self._seen, self.since = unsent, max(self.since, now if self._seen >= 0 else 0.0)
        return now - self.since

    def cut_off(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.abort()
        self._drained()

    def _look(self) -> None:
        unsent = self._connection.unsent() if self._connection is not None else 0
        # What was taken in advance stands for the same bytes on their way out.
        size = max(0, unsent - self._reserved) if unsent > SMALL_BYTES else 0
        if change := size - self._buffered:
            self._buffered = size
            self._count(change)

    def _drained(self) -> None:
        size, self._buffered = self._buffered, 0
        self._count(-size)

    def _count(self, size: int) -> None:
        self._outgoing.add(size)
        if self._reserved or self._buffered:
            self._outgoing.holders[self] = None
        else:
            self._outgoing.holders.pop(self, None)


def answer_of(scope: Scope) -> Answer:
    """Return the answer to a request; one of its own where there is no edge (a test)."""
    found: Answer | None = scope.get(ANSWER)
    return found or Answer(Outgoing(1 << 62), None)
