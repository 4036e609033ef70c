"""The journal of one run: everything it wrote, in order of arrival, on disk.

Operations
    writer (the pump's thread only): `reserve` a place for bytes of a stream, put them there,
    `commit` them; `skip` bytes that could not be stored; `drop_oldest`; `seal`.
    readers (any thread): look at `tail`, `segments`, `totals`; bytes are read through a
    `journal.cursor.Reader`, never through this object.
Goals
    One writer, any number of readers, no lock: readers see a tuple of segments that is replaced
    whole, and a tail that only grows and is raised after the bytes are in the file.
Plan
    Data and index files per segment (`journal.segment`). Retention removes whole segments from the
    front; what is gone is a `Gap` to readers, never NULs and never silence.
Warning
    `commit` must follow every `reserve` that put bytes into the file: the tail is what recovery
    would compute, and a reader trusts both.
"""

import asyncio
import os
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import time_ns
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from sandkeeper.journal.segment import (
    MAX_RECORDS,
    STDOUT,
    STREAMS,
    Segment,
    Stream,
    count_bytes,
    is_scarcity,
    pack_record,
    read_head,
    segment_bases,
    was_under_way,
    write_head,
)
from sandkeeper.linux.fds import duplicates
from sandkeeper.linux.paths.statefiles import SetAside, open_plain

__all__ = ["Journal", "Place"]

MERGE_MICROSECONDS = 1000
"""Bytes of one stream that arrive within this time share an index record."""


class Follower(Protocol):
    """Who follows a journal: what kind of reader, how far it has come, since when (monotonic)."""

    consumer: str
    taken: int
    since: float


class Waiting(Protocol):
    """Whether output is to wait for a reader (`journal.source`)."""

    is_paused: bool

    def is_full(self, tail: int) -> bool:
        """Say whether no more is to be carried now."""

    def is_low(self, tail: int) -> bool:
        """Say whether more may be carried again."""


class Place(NamedTuple):
    """Where the next bytes go: a descriptor and a position in its file."""

    fd: int
    position: int


class Journal:
    """The journal of one run in `folder`.

    `abandoned` says that this server stops and nobody will hear of later bytes;
    `tail` is the offset behind the last byte, `exit_offset` the tail when the process ended (None
    while it runs), `sealed` says that nothing will come any more, `totals` counts all bytes per
    stream, `forgotten` says that its folder is not to be made again, `absent` names the segments
    whose files cannot be found at present, `newlines` holds what readers have counted of closed
    segments, by base (`journal.places`), `followers` follow it, `hold` may have it wait for one.
    `awaited` says that somebody wants to hear of the next bytes: who sets it looks at `tail` once
    more afterwards, and the writer, who clears it, looks at it after `tail` has grown.
    """

    def __init__(
        self, folder: Path, *, segment_bytes: int = 4 << 20, clock: Callable[[], int] = time_ns
    ) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes
        self.segments: tuple[Segment, ...] = ()
        self.tail = 0
        self.totals = [0] * STREAMS
        self._lost = 0
        self.unread: dict[int, int] = {}
        """From which offset on a segment could not be read, by its base; readers tell."""
        self.absent: frozenset[int] = frozenset()
        self.exit_offset: int | None = None
        self.sealed = False
        self.forgotten = False
        self.abandoned = False
        self.awaited = True
        self._clock = clock
        self._data = self._index = -1
        self._spares: tuple[int, ...] = ()
        self._records = 0
        self._last_stream = -1
        self._last_time = 0
        self._holes = 0
        self.followers: set[Follower] = set()
        self.hold: Waiting | None = None
        self.newlines: dict[int, tuple[int, ...]] = {}
        self._waiters: list[asyncio.Future[bool]] = []

    def __repr__(self) -> str:
        return f"<Journal {self.folder.name} {self.first}..{self.tail}>"

    @property
    def first(self) -> int:
        """The offset of the first byte still kept; the tail when there is none."""
        segments = self.segments
        return segments[0].base if segments else self.tail

    @property
    def lost(self) -> int:
        """The bytes that are no longer (or never were) kept, or cannot be found at present."""
        absent, unread = self.absent, self.unread
        if not absent and not unread:
            return self._lost
        return self._lost + sum(
            self.end_of(segment)
            - (segment.base if segment.base in absent else unread[segment.base])
            for segment in self.segments
            if segment.base in absent or segment.base in unread
        )

    @property
    def kept(self) -> int:
        """The bytes kept on disk, the index not counted."""
        return self.tail - self.first - self._holes

    def end_of(self, segment: Segment) -> int:
        """Return the offset behind the last byte of a segment."""
        return self.tail if segment.end is None else segment.end

    def segment_at(self, offset: int) -> tuple[Segment | None, int]:
        """Return the segment that holds `offset`, or None and where the next kept byte is."""
        segments = self.segments
        number = bisect_right(segments, offset, key=lambda item: item.base) - 1
        if number >= 0 and offset < self.end_of(segments[number]):
            return segments[number], offset
        if number + 1 < len(segments):
            return None, segments[number + 1].base
        return None, self.tail

    # Waiting (event loop's thread only)

    async def changed(self, timeout: float, seen: int) -> bool:
        """Wait until there are more than `seen` bytes, the process has ended or all is sealed.

        False when nothing of it happened within `timeout` seconds.
        """
        self.awaited = True
        if self.tail > seen:
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiters.append(future)
        clock = loop.call_later(timeout, _settle, future, False)
        try:
            return await future
        finally:
            clock.cancel()
            if future in self._waiters:
                self._waiters.remove(future)

    def wake(self) -> None:
        """Wake all who wait."""
        waiters, self._waiters = self._waiters, []
        for future in waiters:
            _settle(future, True)

    def abandon(self) -> None:
        """Send all followers away."""
        self.abandoned = True
        self.wake()

    # Writing (the pump's thread only)

    def spare(self, fd: int) -> None:
        """Hold two copies of `fd` until there are files, so that nobody has what those need."""
        if self._data < 0 and not self._spares and not self.sealed:
            with suppress(OSError):
                self._spares = duplicates((fd, fd))

    def reserve(self, stream: Stream) -> Place:
        """Return where the next bytes of `stream` go; raises OSError.

        Their index record is written by then: after a crash it owns what the data file holds.
        """
        now = self._clock() // 1000
        if self._data < 0 or self._must_roll():
            self._roll()
        if stream != self._last_stream or now - self._last_time >= MERGE_MICROSECONDS:
            # Time must not run backwards inside a journal: readers search it by bisection.
            now = max(now, self._last_time)
            os.write(self._index, pack_record(self.tail, now, stream))
            self._records += 1
            self._last_stream, self._last_time = stream, now
        return Place(self._data, self.tail - self.segments[-1].base)

    def commit(self, stream: Stream, count: int) -> None:
        """Make `count` bytes behind the tail, just written there, visible to readers."""
        self.totals[stream] += count
        self.tail += count

    def advance(self, microseconds: int) -> None:
        """Have all later bytes recorded at this time or after it, whatever the clock says.

        So a reader that acted on the passing of time finds the same reason in a replay.
        """
        self._last_time = max(self._last_time, microseconds)
        self._last_stream = -1

    def append(self, stream: Stream, data: bytes) -> None:
        """Store bytes that are at hand; raises OSError and then stores a prefix of them."""
        view = memoryview(data)
        while view:
            place = self.reserve(stream)
            count = os.pwrite(place.fd, view, place.position)
            self.commit(stream, count)
            view = view[count:]

    def skip(self, stream: Stream, count: int) -> None:
        """Count bytes that could not be stored; readers get a gap in their place."""
        self.close()
        self.totals[stream] += count
        self._lost += count
        self.tail += count
        self._count_holes()

    def drop_oldest(self) -> int:
        """Remove the oldest segment unless it is being written; returns the bytes freed."""
        segments = self.segments
        if not segments or (len(segments) == 1 and self._data >= 0):
            return 0
        oldest = segments[0]
        size = self.end_of(oldest) - oldest.base
        self.segments = segments[1:]
        self.newlines.pop(oldest.base, None)
        self._lost += size
        self._count_holes()
        for path in (oldest.data_path, oldest.index_path):
            with suppress(OSError):  # gone, or on a disk that has become read-only
                # Emptied first: a reader that has it open would keep its space on a full disk.
                os.truncate(path, 0)
                path.unlink()
        return size

    def look(self) -> bool:
        """See which segments are where they belong; says whether that has changed.

        A folder may be removed or mounted over while we write: what is put into a file without a
        name is lost, and the next bytes go into a new segment where the folder is now.
        """
        absent = frozenset(segment.base for segment in self.segments if not self._is_there(segment))
        changed, self.absent = absent != self.absent, absent
        if self._data >= 0 and self.segments[-1].base in absent:
            self.close()
        return changed

    def _is_there(self, segment: Segment) -> bool:
        try:
            found = os.lstat(segment.data_path)
        except OSError as error:
            return is_scarcity(error)
        if self._data < 0 or segment is not self.segments[-1]:
            return True
        ours = os.fstat(self._data)
        return (ours.st_dev, ours.st_ino) == (found.st_dev, found.st_ino)

    def close(self) -> None:
        """Close the files; a later `reserve` opens a new segment."""
        for fd in self._spares:
            os.close(fd)
        self._spares = ()
        if self._data < 0:
            return
        os.close(self._data)
        os.close(self._index)
        self._data = self._index = -1
        self._last_stream = -1
        last = self.segments[-1]
        self.segments = (*self.segments[:-1], replace(last, end=self.tail))

    def seal(self) -> None:
        """Close for good: no process can write any more."""
        if self._data >= 0:
            self.look()
        self.close()
        self.sealed = True

    def _count_holes(self) -> None:
        stored = sum(self.end_of(segment) - segment.base for segment in self.segments)
        self._holes = self.tail - self.first - stored

    def _must_roll(self) -> bool:
        size = self.tail - self.segments[-1].base
        return size >= self.segment_bytes or self._records >= MAX_RECORDS

    def _roll(self) -> None:
        self.close()
        if self.segments and self.segments[-1].base == self.tail:  # the new one has its name
            self.segments = self.segments[:-1]
        gap_from = self.end_of(self.segments[-1]) if self.segments else self.tail
        segment = Segment(self.folder, self.tail, tuple(self.totals), gap_from)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            data = os.open(segment.data_path, flags, 0o600)
        except FileNotFoundError:
            if self.forgotten:
                raise
            os.mkdir(self.folder, 0o700)  # it was removed, or the state folder is another one
            data = os.open(segment.data_path, flags, 0o600)
        try:
            index = os.open(segment.index_path, flags | os.O_APPEND, 0o600)
        except OSError:
            os.close(data)
            raise
        try:
            write_head(index, segment)
        except OSError:
            os.close(data)
            os.close(index)
            raise
        self._data, self._index, self._records = data, index, 0
        self._last_stream = -1
        self.segments = (*self.segments, segment)

    # Recovery

    @classmethod
    def recover(
        cls, folder: Path, *, segment_bytes: int = 4 << 20, aside: SetAside | None = None
    ) -> "Journal":
        """Open the journal that an earlier server left in `folder`, as much as is left of it.

        A segment that cannot be read becomes a gap and goes `aside`. Raises OSError when not even
        the folder can be read.
        """
        journal = cls(folder, segment_bytes=segment_bytes)
        bases = segment_bases(folder)
        for base, following in zip(bases, [*bases[1:], None], strict=False):
            try:
                journal._take_up(base, following)
            except OSError as error:
                if is_scarcity(error):
                    raise
                if aside is not None and not was_under_way(Segment(folder, base), bases):
                    for path in (Segment(folder, base).data_path, Segment(folder, base).index_path):
                        if os.path.lexists(path):
                            aside.put(path, error.strerror)
        journal._count_holes()
        journal._lost = journal.tail - journal.kept
        return journal

    def _take_up(self, base: int, following: int | None) -> None:
        """Add the segment at `base`, which ends where the next one begins at the latest."""
        segment = Segment(self.folder, base)
        os.close(open_plain(segment.data_path))
        size = os.stat(segment.data_path).st_size
        head = read_head(segment.index_path, base)
        if head is None:  # what is missing in front was somebody's: it cannot be told whose
            before = list(self.totals)
            before[STDOUT] += base - sum(before)
            head = (tuple(before), min(self.tail, base))
        before_it, gap_from = head
        end = base + size if following is None else min(base + size, following)
        segment = replace(segment, before=before_it, gap_from=gap_from, end=end)
        totals, moment = count_bytes(segment, end)
        self.segments = (*self.segments, segment)
        self.tail, self.totals, self._last_time = end, totals, max(moment, self._last_time)

    def expect(self, tail: int) -> int:
        """Have what a record says was there, and is not, be a gap; returns its size in bytes."""
        if missing := max(0, tail - self.tail) if tail < 1 << 62 else 0:
            self.skip(STDOUT, missing)
        return missing


def _settle(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
