"""The screen of a session, as far as somebody asked for it.

The emulator is a cursor in the journal like any watcher. It is fed when somebody asks, or when the
terminal has become quiet, so a flood costs it nothing; what a flood leaves far behind is skipped
but for its modes and sizes.
"""

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sandkeeper.journal.cursor import Chunk, Gap, Reader
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import NOTICE, STDOUT
from sandkeeper.journal.turns import Turns

if TYPE_CHECKING:
    from sandkeeper.terminals.emulator import Emulator

__all__ = ["HISTORY_BYTES", "Mirror", "read_batch", "sizes_in"]

HISTORY_BYTES = 102_400
HISTORY_LINES = 2500
SKIP_BYTES = 128 << 10
SLICE_BYTES = 2048
SLICE_SECONDS = 0.0015
SMALL_CELLS = 16_000
ALL_CELLS = 2_000_000
"""Of all screens together, 120 MiB: of more, those go that nobody has asked for longest, and are
made anew from their journals when somebody does."""

_turns = Turns()


class Mirror:
    """The emulator of one journal; `fed` is how far it has read.

    `_front` is the offset in front of what is unfinished there: where a watcher goes on.
    """

    def __init__(self, journal: Journal, cols: int, rows: int) -> None:
        self._journal = journal
        self._size = (cols, rows)
        self.emulator: Emulator | None = None
        self.fed = 0
        self._front = 0
        self._piece = 0
        self._until = 0.0
        self._feeding = asyncio.Lock()

    @property
    def begun(self) -> bool:
        """Whether anybody has asked yet."""
        return self.emulator is not None

    @property
    def size(self) -> tuple[int, int] | None:
        """Columns and rows of the emulator, None before anybody has asked."""
        if self.emulator is None:
            return None
        return self.emulator.screen.columns, self.emulator.screen.lines

    async def screen(self, history: int, size: tuple[int, int]) -> "Emulator":
        """Return the emulator with everything on its screen that was shown when this was called.

        `history` is how much of a skipped flood is worth reading, in bytes; `size` the present
        one, for a terminal whose beginning is not kept.
        """
        target = self._journal.tail
        async with self._feeding:
            if self.emulator is None:
                # pyte and its tables of widths cost memory that a server without terminals saves.
                await asyncio.to_thread(_emulator, 80, 24)
                whole = self._journal.first == 0
                self.emulator = _emulator(*(self._size if whole else size))
                self.fed = self._front = self._journal.first
            await self._show()
            with Reader(self._journal) as reader:
                if target - self.fed > SKIP_BYTES:
                    await self._skip(reader, target - max(history, 16 << 10))
                    await self._take_tail(reader, target)
                while self.fed < target:
                    await self._feed(await read_batch(reader, self.fed, 32 << 10))
        _known.used(self, self.emulator.screen.cells)
        return self.emulator

    def forget(self) -> bool:
        """Let the emulator go, unless it is being fed; says whether it did."""
        if self._feeding.locked():
            return False
        self.emulator = None
        self.fed = self._front = self._piece = 0
        return True

    async def replay(self, history: int, size: tuple[int, int]) -> tuple[str, int]:
        """Return what draws the screen, and the offset where a watcher of it goes on."""
        emulator = await self.screen(history, size)
        if self._journal.tail == self._journal.first:
            return "", self.fed
        from sandkeeper.terminals.render import redraw

        screen = emulator.screen
        if screen.lines * screen.columns <= SMALL_CELLS:
            return redraw(screen, history), self._front
        async with self._feeding:  # what another feeds must not change it meanwhile
            await self._show()
            return await asyncio.to_thread(redraw, screen, history), self._front

    async def _feed(self, items: list[Chunk | Gap]) -> None:
        for item in items:
            if not self._slice():
                await self._breathe()
            if isinstance(item, Gap):
                self._pass(item.end)
            elif item.stream == NOTICE:
                self._take_size(item.data)
                self.fed = item.end
                self._front = self._front if self._pending else item.end
            else:
                await self._feed_text(item)

    @property
    def _pending(self) -> int:
        return self.emulator.pending if self.emulator else 0

    async def _feed_text(self, chunk: Chunk) -> None:
        assert self.emulator is not None
        if not chunk.data:
            self._pass(chunk.end)
        for start in range(0, len(chunk.data), SLICE_BYTES):
            piece = chunk.data[start : start + SLICE_BYTES]
            # Counted before it is shown: whoever waits may leave, and the emulator has it.
            self.fed = chunk.offset + start + len(piece)
            self._piece = len(piece)
            self.emulator.feed(piece, self._slice())
            await self._show()

    async def _show(self) -> None:
        """Have all that was fed be shown, others have their turns between."""
        assert self.emulator is not None
        while self.emulator.is_busy:
            await self._breathe()
            self.emulator.feed(b"", self._slice())
        if self._pending <= self._piece:
            self._front = self.fed - self._pending
        if not self._slice():
            await self._breathe()

    def _slice(self) -> float:
        """Return how long the present slice may go on, in seconds."""
        return max(0.0, self._until - time.monotonic())

    async def _breathe(self) -> None:
        """Let others run; one slice of all the screens is made in a round."""
        await _turns.take()
        self._until = time.monotonic() + SLICE_SECONDS

    def _pass(self, offset: int) -> None:
        if self.emulator is not None:
            self.emulator.skip()
        self.fed = self._front = offset

    def _take_size(self, data: bytes) -> None:
        if sizes := sizes_in(data):
            assert self.emulator is not None
            self.emulator.resize(*sizes[-1])

    async def _skip(self, reader: Reader, until: int) -> None:
        """Pass over a flood: only its modes and sizes are taken."""
        from sandkeeper.terminals.emulator import MODE_SEQUENCES

        assert self.emulator is not None
        self.emulator.skip()
        self.emulator.screen.history.clear()
        while self.fed < until:
            room = min(64 << 10, until - self.fed)
            for item in await read_batch(reader, self.fed, room):
                if isinstance(item, Chunk) and item.stream == STDOUT:
                    for found in MODE_SEQUENCES.finditer(item.data):
                        self.emulator.feed(found[0])
                        if not self._slice():
                            await self._breathe()
                elif isinstance(item, Chunk) and item.stream == NOTICE:
                    self._take_size(item.data)
                self._pass(item.end)
            await asyncio.sleep(0)

    async def _take_tail(self, reader: Reader, target: int) -> None:
        """Go on at the beginning of a line, and with no more lines than are kept."""
        items: list[Chunk | Gap] = []
        offset = self.fed
        while offset < target:
            items += await read_batch(reader, offset, target - offset)
            offset = items[-1].end
        chunks = [item for item in items if isinstance(item, Chunk) and item.stream == STDOUT]
        start, lines = self.fed, 0
        for chunk in reversed(chunks):
            place = len(chunk.data)
            while lines < HISTORY_LINES and (place := chunk.data.rfind(b"\n", 0, place)) >= 0:
                lines += 1
                start = chunk.offset + place + 1
        for item in items:
            if isinstance(item, Chunk) and item.stream == STDOUT and item.offset < start:
                rest = item.data[start - item.offset :]
                item = Chunk(item.stream, item.end - len(rest), item.time, rest)
            await self._feed([item])


class _Known:
    """All mirrors with an emulator, in the order in which they were asked, and its cells."""

    def __init__(self) -> None:
        self._cells: WeakKeyDictionary[Mirror, int] = WeakKeyDictionary()

    def used(self, mirror: Mirror, cells: int) -> None:
        self._cells.pop(mirror, None)
        self._cells[mirror] = cells
        total = sum(self._cells.values())
        for other in list(self._cells):
            if total <= ALL_CELLS:
                return
            if other is not mirror and other.forget():
                total -= self._cells.pop(other)


_known = _Known()


def _emulator(cols: int, rows: int) -> "Emulator":
    import sandkeeper.terminals.render  # noqa: F401 - both come in one go
    from sandkeeper.terminals.emulator import Emulator

    return Emulator(cols, rows)


def sizes_in(notice: bytes) -> list[tuple[int, int]]:
    """Return the sizes that a notice in a terminal's journal tells: `80x24;120x40;`."""
    found: list[tuple[int, int]] = []
    for size in notice.split(b";"):
        cols, _, rows = size.partition(b"x")
        with suppress(ValueError):
            found.append((int(cols), int(rows)))
    return found


async def read_batch(reader: Reader, offset: int, limit: int) -> list[Chunk | Gap]:
    """Read without a thread when the bytes are in memory, as at the live end they are."""
    with suppress(BlockingIOError):
        return reader.read(offset, limit, nowait=True)
    return await asyncio.to_thread(reader.read, offset, limit)
