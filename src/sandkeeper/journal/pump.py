"""The pump: one thread that carries all output from the pipes of children to their journals.

It makes system calls (which release the interpreter's lock) and nothing else: no parsing, no
lines, no clients, no lock that a request takes. Orders from the event loop come through a queue
and an eventfd; news goes back in batches, one `call_soon_threadsafe` for all journals that grew.
"""

import asyncio
import errno
import fcntl
import os
import select
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from sandkeeper.journal.budget import Budget
from sandkeeper.journal.journal import Journal, Waiting
from sandkeeper.journal.rests import REST_MILLISECONDS, Pace
from sandkeeper.journal.segment import STREAMS, Stream
from sandkeeper.journal.source import Source, available, hung_up
from sandkeeper.journal.stage import SIZE, Stage
from sandkeeper.linux.worker import Worker

__all__ = ["Pump"]

BULK = 8192
"""From so many bytes on, a read into the stage beats a splice."""

PIPE_BYTES = 1 << 20
RELEASE_SECONDS = 0.01
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class Pump(Worker):
    """Moves bytes.

    `stage_paths` are places for the stage, the best first. `carried` counts the bytes moved per
    stream since the start. `notify` (journals have grown) and
    `failed` (a stream had to be given up, with the reason) are called from its thread and must
    hand over to the event loop.
    """

    def __init__(
        self,
        stage_paths: Sequence[Path],
        budget: Budget,
        *,
        notify: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        super().__init__("pump", failed=failed)
        self._stage_paths = stage_paths
        self._budget = budget
        self._notify = notify
        self._resting = select.poll()
        self._resting.register(self._bell.fd, select.POLLIN)
        self._pace = Pace()
        self._moved = 0
        self._sources: dict[int, Source] = {}
        self._paused: dict[Journal, list[Source]] = {}
        self._grown: deque[Journal] = deque()
        self._notified = False
        self._splices = True
        self.carried = [0] * STREAMS
        self._stage: Stage | None = None
        self._released: deque[tuple[Journal, tuple[Source, ...]]] = deque()

    def start(self) -> None:
        """Start the thread; raises OSError when the stage cannot be made."""
        self._stage = Stage(*self._stage_paths)
        super().start()

    def add(self, *sources: Source) -> None:
        """Begin to carry new streams; nothing is done when the pump has stopped.

        From any thread, without waking the pump's: nobody else knows these streams yet.
        """
        with suppress(ValueError):  # the poller is closed
            self._watch(sources)

    def watch(self, *sources: Source) -> None:
        """Carry these streams again, for another attempt on the same pipes."""
        self._order(lambda: self._watch(sources))

    def append(self, journal: Journal, stream: Stream, data: bytes) -> None:
        """Write words of our own behind what the process wrote so far."""
        self._order(lambda: self._append(journal, stream, data))

    def drain(self, sources: tuple[Source, ...], done: Callable[[], None]) -> None:
        """Carry what the pipes hold at this moment, then call `done` on the pump's thread.

        What a surviving grandchild writes meanwhile waits for its turn: this always ends.
        """
        self._order(lambda: self._drain(sources, done))

    def go_on(self, journal: Journal) -> None:
        """Look whether output that waits for a reader (`journal.hold`) is to wait any longer."""
        self._order(lambda: self._go_on(journal))

    def settle(self, journal: Journal, moment: int, done: Callable[[int], None]) -> None:
        """Have later bytes recorded at `moment` (microseconds) or after it.

        `done` gets the tail below which all earlier ones stand, on the pump's thread.
        """
        self._order(lambda: self._settle(journal, moment, done))

    def look(self, journals: Iterable[Journal]) -> None:
        """Have journals see which of their files are still where they belong."""
        known = list(journals)

        def look() -> None:
            for journal in known:
                if journal.look():
                    journal.awaited = False
                    self._grown.append(journal)

        self._order(look)

    def release(self, journal: Journal, sources: tuple[Source, ...]) -> None:
        """Give up pipes whose process is over; each is still carried until its last writer goes.

        On the event loop it is done within RELEASE_SECONDS, for all that ended meanwhile: nobody
        waits for it, and a thread that wakes beside a start holds that up.
        """
        self._released.append((journal, sources))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._order(self._release_all)
            return
        if len(self._released) == 1:
            loop.call_later(RELEASE_SECONDS, self._order, self._release_all)

    def take_grown(self) -> list[Journal]:
        """Return the journals that changed and were awaited; event loop's thread only."""
        self._notified = False
        grown: list[Journal] = []
        with suppress(IndexError):
            while True:
                grown.append(self._grown.popleft())
        return grown

    def statistics(self) -> dict[str, int]:
        """Return how many streams are watched, orders wait, and journals have untold news."""
        return {
            "streams": len(self._sources),
            "untold": len(self._grown),
            **super().statistics(),
        }

    # The pump's thread

    def _ready(self, fd: int) -> None:
        source = self._sources.get(fd)
        if source is None:
            return
        hold = source.journal.hold
        if hold is not None and hold.is_full(source.journal.tail):
            self._pause(source, hold)
        else:
            self._moved += self._carry(source)

    def _pause(self, source: Source, hold: Waiting) -> None:
        """Leave in the pipe what comes; a poller that is told of nothing would tell of its end."""
        journal = source.journal
        self._poller.unregister(source.fd)
        source.paused = True
        self._paused.setdefault(journal, []).append(source)
        hold.is_paused = True
        self._go_on(journal)  # the reader may have come on before it could see that

    def _go_on(self, journal: Journal) -> None:
        hold = journal.hold
        if hold is not None and not hold.is_low(journal.tail):
            return
        if hold is not None:
            hold.is_paused = False
        for source in self._paused.pop(journal, []):
            source.paused = False
            if source.watched:
                self._poller.register(source.fd, select.EPOLLIN)

    def _give_up(self, fd: int) -> None:
        source = self._sources[fd]
        self._forget(source)
        self._failed(f"stream {source.stream} of {source.run} is not carried any more")

    def _woken(self) -> None:
        self._pace.woken()

    def _round_over(self) -> None:
        moved, self._moved = self._moved, 0
        self._tell()
        if self._pace.wants_rest(moved) and self._running:
            # Orders end the rest at once: nobody waits for it.
            self._resting.poll(REST_MILLISECONDS)

    def _tell(self) -> None:
        if self._grown and not self._notified:
            self._notified = True
            self._notify()

    def _mark(self, journal: Journal) -> None:
        """Tell of new bytes if somebody waits: a flood must not wake the loop for nobody."""
        if journal.awaited:
            journal.awaited = False
            self._grown.append(journal)

    def _end(self) -> None:
        super()._end()
        self._release_all()
        for source in list(self._sources.values()):
            self._forget(source)
            source.journal.close()
        if self._stage is not None:
            self._stage.close()

    def _watch(self, sources: tuple[Source, ...]) -> None:
        for source in sources:  # before any of them is carried, which is another thread's
            source.journal.spare(self._bell.fd)
        for source in sources:
            source.at_end = False
            if not source.watched:
                _enlarge(source.fd)
                source.watched = True
                self._sources[source.fd] = source
                self._poller.register(source.fd, select.EPOLLIN)

    def _forget(self, source: Source) -> None:
        if source.watched:
            if not source.paused:
                self._poller.unregister(source.fd)
            del self._sources[source.fd]
            source.watched = False

    def _append(self, journal: Journal, stream: Stream, data: bytes) -> None:
        before = journal.tail
        try:
            journal.append(stream, data)
        except OSError:
            self._skip(journal, stream, len(data) - (journal.tail - before))
        self._mark(journal)

    def _settle(self, journal: Journal, moment: int, done: Callable[[int], None]) -> None:
        journal.advance(moment)
        done(journal.tail)

    def _drain(self, sources: tuple[Source, ...], done: Callable[[], None]) -> None:
        for source in sources:
            rest = available(source.fd) if source.fd >= 0 else 0
            while rest > 0 and (moved := self._carry(source, rest)):
                rest -= moved
        self._tell()
        done()

    def _release_all(self) -> None:
        while self._released:
            self._attempt(self._release_next)

    def _release_next(self) -> None:
        self._release(*self._released.popleft())

    def _release(self, journal: Journal, sources: tuple[Source, ...]) -> None:
        journal.hold = None
        self._go_on(journal)
        for source in sources:
            source.close_writer()
            if source.watched:
                self._carry(source)
            source.at_end = source.at_end or not source.watched
            if not source.watched:
                source.close()
        self._seal_if_over(journal)

    def _seal_if_over(self, journal: Journal) -> None:
        if journal.exit_offset is None or journal.sealed:
            return
        if any(source.journal is journal for source in list(self._sources.values())):
            return
        journal.seal()
        self._grown.append(journal)

    def _carry(self, source: Source, most: int = SIZE) -> int:
        """Move at most `most` bytes of one stream; returns how many."""
        source.moving = True
        try:
            return self._move(source, most)
        finally:
            source.moving = False

    def _move(self, source: Source, most: int) -> int:
        waiting = available(source.fd)
        if not waiting:
            if hung_up(source.fd) and not available(source.fd):
                self._ended(source)
            return 0
        count = min(waiting, most, max(4096, source.journal.segment_bytes))
        try:
            if count >= BULK or not self._splices:
                moved = self._carry_bulk(source, count)
            else:
                moved = self._splice(source, count)
        except BlockingIOError:  # the child itself reads its pipe
            return 0
        self.carried[source.stream] += moved
        self._mark(source.journal)
        return moved

    def _ended(self, source: Source) -> None:
        """All writers of the pipe are gone; another run may bring new ones."""
        source.at_end = True
        self._forget(source)
        if source.journal.exit_offset is not None:
            source.close()
            self._seal_if_over(source.journal)

    def _splice(self, source: Source, count: int) -> int:
        """Move a little without a copy of ours: what splice(2) has moved is in the file."""
        journal = source.journal
        for _attempt in range(3):
            try:
                place = journal.reserve(source.stream)
                moved = os.splice(
                    source.fd, place.fd, count, offset_dst=place.position, flags=SPLICE_FLAGS
                )
            except BlockingIOError:
                raise
            except OSError as error:
                if error.errno == errno.EINVAL:  # this file system cannot be spliced to
                    self._splices = False
                    return self._carry_bulk(source, count)
                if error.errno in NO_SPACE and self._budget.make_room(journal):
                    continue
                break
            journal.commit(source.stream, moved)
            self._budget.grown(journal)
            return moved
        return self._discard(source, count)

    def _carry_bulk(self, source: Source, count: int) -> int:
        stage, journal = self._stage, source.journal
        assert stage is not None
        self._open_place(source)
        data = stage.read(source.fd, count, source.run, journal.tail)
        stored = 0
        while stored < len(data):
            written = self._store(source, data[stored:])
            if written == 0:
                self._skip(journal, source.stream, len(data) - stored)
                break
            stored += written
        stage.done()
        self._budget.grown(journal)
        return len(data)

    def _open_place(self, source: Source) -> None:
        """Write the index record before the bytes leave the pipe, so that a crash finds it."""
        with suppress(OSError):
            source.journal.reserve(source.stream)

    def _store(self, source: Source, data: memoryview) -> int:
        journal = source.journal
        for _attempt in range(3):
            try:
                place = journal.reserve(source.stream)
                written = os.pwrite(place.fd, data, place.position)
            except OSError as error:
                if error.errno in NO_SPACE and self._budget.make_room(journal):
                    continue
                return 0
            journal.commit(source.stream, written)
            return written
        return 0

    def _discard(self, source: Source, count: int) -> int:
        """Take bytes out of the pipe that cannot be stored: the child must not wait for a disk."""
        data = os.read(source.fd, count)
        if data:
            self._skip(source.journal, source.stream, len(data))
        return len(data)

    def _skip(self, journal: Journal, stream: Stream, count: int) -> None:
        """Leave a gap; the files are closed, and what comes next needs descriptors again."""
        journal.skip(stream, count)
        journal.spare(self._bell.fd)


def _enlarge(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:  # a user's pipes together have a limit (pipe(7)): it works with less
        return


SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
