"""What a stream of this wire holds: here an event of many megabytes becomes one line."""

from sandkeeper.api.edge.connections.outgoing import SMALL_BYTES, Answer
from sandkeeper.errors import Unavailable
from sandkeeper.interpreter.execution import Event, EventStream, gap_of

__all__ = ["AnswerRoom"]

COPIES = 3
"""An event that is turned into words is there as it stood in the journal, as data and as a line."""

STEP_BYTES = 4 * SMALL_BYTES
"""At least so much is asked for at once: what is small always has room, however often it comes."""


class AnswerRoom:
    """Counts that as part of an answer (edge.connections.outgoing), and tells what has none."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._counted = 0

    async def fitting(self, stream: EventStream, events: list[Event]) -> list[Event]:
        """Return events, with a gap for each long one if no room for them came in time."""
        held = 0 if stream.is_dropping else stream.held
        try:
            await self._count(held + COPIES * sum(len(one.raw) for one in events))
        except Unavailable:
            if held:
                stream.drop()
            self._give(0)
            return [_short(one) for one in events]
        return events

    async def _count(self, size: int) -> None:
        if size > max(SMALL_BYTES, self._counted):
            more = max(STEP_BYTES, size - self._counted)
            await self._answer.reserve(more)
            self._counted += more
        elif size <= SMALL_BYTES or self._counted - size > STEP_BYTES:
            self._give(size if size > SMALL_BYTES else 0)

    def _give(self, size: int) -> None:
        if self._counted > size:
            self._answer.give(self._counted - size)
            self._counted = size


def _short(event: Event) -> Event:
    small = len(event.raw) <= SMALL_BYTES
    return event if small else gap_of(len(event.raw), event.cursor, event.time)
