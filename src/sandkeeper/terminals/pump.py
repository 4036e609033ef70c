"""The terminals' pump: one thread that carries what terminals show to their journals.

As `journal.pump` does for pipes, and apart from it, because a terminal ends with EIO, gives at most
4 KiB to a read and has a screen that somebody is watching: the writer may be held to the pace of
the fastest watcher (`Line.limit`), never to that of a slow one. A read between the terminal and
the journal's file lives in memory for some microseconds only; kill -9 can cost that much.

All terminals get their turn in rounds of at most 64 KiB, so one that floods delays no other. Its
program takes a processor, and the kernel's terminal code half of another: so a flood that nobody
follows rests between its rounds, and while somebody types elsewhere every flood is held to a rate.
"""

import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from sandkeeper.journal.budget import Budget
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import NOTICE, STDOUT, Stream
from sandkeeper.linux.worker import Worker

__all__ = ["Line", "TerminalPump"]

ROUND_BYTES = 64 << 10
READ_BYTES = 4096
DRAIN_BYTES = 1 << 20
DRAIN_MS = 20
REST_SECONDS = 0.001
TYPING_SECONDS = 0.3
WINDOW_SECONDS = 0.02
WINDOW_BYTES = 32 << 10
FOLLOWED_WINDOW_BYTES = 256 << 10
NO_LIMIT = 1 << 62


class Line:
    """One terminal on the pump. `limit` is the offset up to which may be read now; the event loop
    sets it (then `TerminalPump.resume`), `held` says that the pump stopped there.
    """

    __slots__ = (
        "at_end",
        "held",
        "journal",
        "limit",
        "master",
        "moved",
        "told",
        "watched",
        "window",
    )

    def __init__(self, master: int, journal: Journal) -> None:
        self.master = master
        self.journal = journal
        self.limit = NO_LIMIT
        self.held = False
        self.at_end = False
        self.told = False
        self.watched = False
        self.window = 0.0
        self.moved = 0


class TerminalPump(Worker):
    """Moves bytes.

    `notify` (lines have news) and `failed` (a terminal or an order had to be given up, with the
    reason) are called from its thread and must hand over to the event loop.
    """

    def __init__(
        self, budget: Budget, *, notify: Callable[[], None], failed: Callable[[str], None]
    ) -> None:
        super().__init__("terminals", failed=failed)
        self._budget = budget
        self._notify = notify
        self._lines: dict[int, Line] = {}
        self._news: deque[Line] = deque()
        self._notified = False
        self._resting: list[Line] = []
        self._rested = 0.0
        self._typed = 0.0
        self._typist: Line | None = None
        self._buffer = memoryview(bytearray(ROUND_BYTES))

    def watch(self, line: Line) -> None:
        """Begin to carry a terminal."""
        self._order(lambda: self._watch(line))

    def resume(self, line: Line) -> None:
        """Go on with a line whose limit was raised."""
        self._order(lambda: self._watch(line))

    def typed(self, line: Line) -> None:
        """Take notice that somebody types: until he stops, his echo comes before others' floods."""
        self._typist, self._typed = line, monotonic()

    def resized(self, line: Line, cols: int, rows: int) -> None:
        """Note a new size in the journal, behind what was shown so far."""
        self._order(lambda: self._append(line, NOTICE, f"{cols}x{rows};".encode()))

    def finish(self, line: Line, done: Callable[[], None]) -> None:
        """Carry what the terminal still holds, seal its journal, then call `done` on this thread.

        Bounded: what survivors of the session go on writing is not waited for.
        """

        def finish() -> None:
            try:
                self._finish(line)
            finally:  # its end is told, whatever becomes of its last words
                done()

        self._order(finish)

    def look(self, journals: list[Journal]) -> None:
        """Have journals see which of their files are still where they belong."""

        def look() -> None:
            for journal in journals:
                journal.look()

        self._order(look)

    def take_news(self) -> list[Line]:
        """Return the lines that changed since the last call; event loop's thread only."""
        self._notified = False
        news: list[Line] = []
        with suppress(IndexError):
            while True:
                line = self._news.popleft()
                line.told = False
                news.append(line)
        return news

    # The pump's thread

    def _patience(self) -> float | None:
        return max(0.0, self._rested - monotonic()) if self._resting else None

    def _ready(self, fd: int) -> None:
        if (line := self._lines.get(fd)) is not None:
            self._carry_in_turn(line)

    def _give_up(self, fd: int) -> None:
        line = self._lines[fd]
        self._forget(line)
        line.at_end = True
        self._tell(line)

    def _round_over(self) -> None:
        if self._resting and monotonic() >= self._rested:
            self._end_rest()
        if self._news and not self._notified:
            self._notified = True
            self._notify()

    def _carry_in_turn(self, line: Line) -> None:
        """Carry a round; a flood may then have to rest, for the sake of all others."""
        rest = self._rest_after(line, self._carry(line))
        if rest > 0 and line.watched:
            self._forget(line)
            if not self._resting:
                self._rested = monotonic() + rest
            self._resting.append(line)

    def _rest_after(self, line: Line, moved: int) -> float:
        followed = line.limit != NO_LIMIT
        now = monotonic()
        if now - self._typed > TYPING_SECONDS or line is self._typist:
            return REST_SECONDS if moved == ROUND_BYTES and not followed else 0.0
        # A terminal gives 4 KiB at a time: what makes a flood is how much comes in a while.
        if now - line.window > WINDOW_SECONDS:
            line.window, line.moved = now, 0
        line.moved += moved
        allowed = FOLLOWED_WINDOW_BYTES if followed else WINDOW_BYTES
        return line.window + WINDOW_SECONDS - now if line.moved > allowed else 0.0

    def _end_rest(self) -> None:
        resting, self._resting = self._resting, []
        for line in resting:
            self._watch(line)

    def _end(self) -> None:
        """Leave; terminals and their programs go on, held by the keeper."""
        super()._end()
        self._resting.clear()
        for line in list(self._lines.values()):
            self._forget(line)
            line.journal.close()

    def _watch(self, line: Line) -> None:
        line.held = False
        if not line.watched and not line.at_end:
            self._poller.register(line.master, select.EPOLLIN)
            self._lines[line.master] = line
            line.watched = True

    def _forget(self, line: Line) -> None:
        if line.watched:
            self._poller.unregister(line.master)
            del self._lines[line.master]
            line.watched = False

    def _tell(self, line: Line) -> None:
        if not line.told:
            line.told = True
            self._news.append(line)

    def _carry(self, line: Line) -> int:
        """Move one round; returns the bytes moved."""
        room = min(ROUND_BYTES, line.limit - line.journal.tail)
        if room < READ_BYTES and line.limit != NO_LIMIT:
            self._forget(line)
            line.held = True
            self._tell(line)
            return 0
        count = self._read(line, room)
        if count:
            self._append(line, STDOUT, self._buffer[:count])
        if line.at_end:
            self._forget(line)
            self._tell(line)
        return count

    def _read(self, line: Line, room: int) -> int:
        count = 0
        while count < room:
            try:
                got = os.readv(line.master, [self._buffer[count:room]])
            except BlockingIOError:
                break
            except OSError:  # EIO: all slaves are closed, or the terminal is hung up
                got = 0
            if not got:
                line.at_end = True
                break
            count += got
            if got < 64:  # a key's echo, not a flood: tell it at once
                break
        return count

    def _append(self, line: Line, stream: Stream, data: "bytes | memoryview") -> None:
        before = line.journal.tail
        try:
            line.journal.append(stream, data)  # type: ignore[arg-type]
        except OSError:
            lost = len(data) - (line.journal.tail - before)
            line.journal.skip(stream, lost)
        self._budget.grown(line.journal)
        self._tell(line)

    def _finish(self, line: Line) -> None:
        self._end_rest()
        self._forget(line)
        line.limit = NO_LIMIT
        if self._typist is line:
            self._typist = None
        moved = 0
        # What the kernel has not handed over yet comes with the hang-up, within microseconds.
        poller = select.poll()
        poller.register(line.master, select.POLLIN)
        while not line.at_end and moved < DRAIN_BYTES and poller.poll(DRAIN_MS):
            moved += self._carry(line)
        self._forget(line)
        line.at_end = True
        line.journal.exit_offset = line.journal.tail
        line.journal.seal()
        self._tell(line)
