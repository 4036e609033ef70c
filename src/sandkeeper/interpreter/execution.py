"""One execution as clients see it: how it stands, and what it said from any point on."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sandkeeper.interpreter.events import SEPARATOR
from sandkeeper.interpreter.orders import Execute, Grown
from sandkeeper.interpreter.specs import ExecutionMeta
from sandkeeper.journal.cursor import Chunk, Follow, Gap
from sandkeeper.journal.events import Characters
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import NOTICE, Segment
from sandkeeper.journal.turns import Turns
from sandkeeper.linux.clocks import WorkTimer

__all__ = [
    "BROKEN",
    "Event",
    "EventStream",
    "Execution",
    "JournalMirror",
    "Piece",
    "Pieces",
    "gap_of",
]

LONG_BYTES = 64 << 10
BROKEN = "broken"


class JournalMirror(Journal):
    """The journal of an execution as its readers have it: the scribe writes, and tells of it."""

    def take(self, grown: Grown) -> None:
        """Take over what the scribe has written."""
        if grown.segments is not None:
            self.segments = tuple(
                Segment(self.folder, one.base, tuple(one.before), one.gap_from, one.end)
                for one in grown.segments
            )
        self.totals = list(grown.totals)
        self.tail = grown.tail
        if grown.meta.is_over:
            self.end()
        self.wake()

    def end(self) -> None:
        """Nothing will come any more."""
        self.exit_offset, self.sealed = self.tail, True


@dataclass(slots=True)
class Piece:
    """A part of an event, as it stands in the journal: long ones come in several.

    `data` is text of an output (`kind` is its stream's name), else bytes of a JSON object, whose
    `kind` its first piece has told. With `ends`, `cursor` is where to go on behind the event.
    """

    kind: str
    data: bytes
    time: int
    cursor: int
    begins: bool = True
    ends: bool = True


class Pieces:
    """Cuts what a journal holds into events; nothing is kept of one but its kind.

    A gap becomes an event of its own; one that it breaks off in the middle ends as `broken`.
    """

    def __init__(self) -> None:
        self._characters = Characters()
        self._kind = ""
        self._head = b""
        self._inside = self._told = False

    def feed(self, items: list[Chunk | Gap]) -> Iterator[Piece]:
        """Yield the pieces of a batch."""
        for item in items:
            if isinstance(item, Gap):
                yield from self._gap(item)
            elif item.stream == NOTICE:
                yield from self._events(item)
            else:
                for chunk in self._characters.whole(item, together=True):
                    yield _output(chunk)

    def rest(self) -> Iterator[Piece]:
        """Yield what was held of a character that never came whole."""
        for chunk in self._characters.rest():
            yield _output(chunk)

    def _gap(self, gap: Gap) -> Iterator[Piece]:
        yield from self.rest()
        if self._told:
            yield Piece(BROKEN, b"", 0, gap.end, begins=False)
        self._inside, self._told, self._head = False, False, b""
        fields = {"type": "gap", "bytes": gap.end - gap.start, "reason": gap.reason}
        yield Piece("gap", msgspec.json.encode(fields), 0, gap.end)

    def _events(self, chunk: Chunk) -> Iterator[Piece]:
        data, start = chunk.data, 0
        while start < len(data):
            if not self._inside:
                start = data.find(SEPARATOR, start) + 1
                if not start:
                    return
                self._inside = True
            end = data.find(b"\n", start)
            stop = len(data) if end < 0 else end
            yield from self._part(data[start:stop], chunk.time, chunk.offset + end + 1, end >= 0)
            start = stop + 1

    def _part(self, part: bytes, time: int, cursor: int, ends: bool) -> Iterator[Piece]:
        """Yield a part of an event, once enough has come to tell its kind."""
        begins = not self._told
        if begins:
            part, self._head = self._head + part, b""
            if not ends and part.count(b'"') < 4:
                self._head = part
                return
            self._kind = part.split(b'"', 4)[3].decode("ascii", "replace")
        self._told = self._inside = not ends
        yield Piece(self._kind, part, time, cursor if ends else 0, begins, ends)


def _output(chunk: Chunk) -> Piece:
    return Piece(chunk.stream.wire, chunk.data, chunk.time, chunk.end)


@dataclass(slots=True)
class Event:
    """What an execution said: text of `stdout` and `stderr`, else a JSON object.

    `cursor` is where to go on behind it, `time` when it came, in seconds since the epoch.
    """

    kind: str
    cursor: int
    time: float
    text: str = ""
    raw: bytes = field(default=b"", repr=False)

    def fields(self) -> dict[str, Any]:
        """Return the object of an event; a long one takes its time (`EventStream.fields_of`)."""
        found: dict[str, Any] = msgspec.json.decode(self.raw) if self.raw else {"text": self.text}
        return found


def gap_of(size: int, cursor: int, time: float) -> Event:
    """Return an event that stands for one of `size` bytes for which there is no room."""
    fields = {"type": "gap", "bytes": size, "reason": "memory"}
    return Event("gap", cursor, time, raw=msgspec.json.encode(fields))


class EventStream:
    """Reads events from a cursor on, live until the end; close it."""

    def __init__(self, follow: Follow) -> None:
        self._follow = follow
        self._pieces = Pieces()
        self._parts: list[bytes] = []
        self._dropped = False
        self.held = 0

    def close(self) -> None:
        """Close the reader."""
        self._follow.close()

    @property
    def is_dropping(self) -> bool:
        """Whether nothing is kept of the event that comes in pieces."""
        return self._dropped

    def drop(self) -> None:
        """Let go of the event that comes in pieces (`held` bytes so far): a gap tells of it."""
        self._dropped, self._parts = True, []

    async def next(self, timeout: float) -> list[Event] | None:
        """Return the next events, [] after so many seconds of silence, None behind the end.

        Raises Abandoned when the server stops first.
        """
        items = await self._follow.next(timeout)
        pieces = self._pieces.rest() if not items else self._pieces.feed(items)
        events = [event for piece in pieces for event in self._made(piece)]
        return events if items is not None or events else None

    def _made(self, piece: Piece) -> Iterator[Event]:
        if piece.begins:
            self._parts, self._dropped, self.held = [], False, 0
        self.held += len(piece.data)
        if not self._dropped:
            self._parts.append(piece.data)
        if piece.kind == BROKEN:
            self._parts, self.held = [], 0
        elif piece.ends:
            data, self._parts = b"".join(self._parts), []
            size, self.held = self.held, 0
            seconds = piece.time / 1e6
            if self._dropped:
                yield gap_of(size, piece.cursor, seconds)
            elif piece.kind in {"stdout", "stderr"}:
                text = data.decode("utf-8", "replace")
                yield Event(piece.kind, piece.cursor, seconds, text)
            else:
                yield Event(piece.kind, piece.cursor, seconds, raw=data)

    @staticmethod
    async def fields_of(event: Event) -> dict[str, Any]:
        """Return the object of an event, a long one read in a thread."""
        if len(event.raw) <= LONG_BYTES:
            return event.fields()
        return await asyncio.to_thread(event.fields)


class Execution:
    """An execution; event loop's thread only."""

    def __init__(self, meta: ExecutionMeta, folder: Path, weight: int = 0) -> None:
        """`weight` is what its code takes while it waits, in the `order` for it."""
        self.weight = weight
        self.order: Execute | None = None
        self.meta = meta
        self.folder = folder
        self.ended = asyncio.Event()
        self._journal: JournalMirror | None = None
        self.clock: WorkTimer | None = None
        if meta.is_over:
            self.ended.set()

    @property
    def is_over(self) -> bool:
        """Whether the end is told."""
        return self.meta.is_over

    @property
    def is_heard(self) -> bool:
        """Whether the scribe has told of it."""
        return self._journal is not None

    @property
    def tail(self) -> int:
        """Where its journal ends at present."""
        return self.meta.size if self._journal is None else self._journal.tail

    def was_over(self) -> None:
        """Take up an end that was told while nobody heard it."""
        self._journal = None
        self.ended.set()

    def live(self) -> JournalMirror:
        """Return the journal of one that the scribe tells of."""
        if self._journal is None:
            self._journal = JournalMirror(self.folder)
        return self._journal

    async def journal(self) -> Journal:
        """Return its journal; that of an earlier server's is read first."""
        if self._journal is None and self.is_over:
            found = await asyncio.to_thread(JournalMirror.recover, self.folder)
            assert isinstance(found, JournalMirror)
            found.end()
            self._journal = found
        return self.live()

    def take(self, grown: Grown) -> None:
        """Take news."""
        if self.is_over:
            return
        self.meta = grown.meta
        if grown.meta.status != "queued":
            self.order = None
        self.live().take(grown)
        if grown.meta.is_over:
            if self.clock is not None:
                self.clock.cancel()
            self.ended.set()

    async def wait(self) -> None:
        """Wait for the end."""
        await self.ended.wait()

    async def follow(
        self, cursor: int = 0, *, turns: Turns | None = None, consumer: str = "code"
    ) -> EventStream:
        """Return what it said and says from a cursor on; the caller closes it."""
        return EventStream(Follow(await self.journal(), cursor, turns=turns, consumer=consumer))

    async def events(self) -> list[Event]:
        """Return all that it has said once it is over; for those who need it in one piece."""
        await self.wait()
        found: list[Event] = []
        with closing(await self.follow()) as stream:
            while (events := await stream.next(1.0)) is not None:
                found += events
        return found
