"""Readers of journals: bytes by offset, tails per stream, and following the live end.

A reader owns two descriptors (the data and the index of the segment it stands in) and a position
is just an integer, so any number of readers costs the writer nothing.
"""

import asyncio
import errno
import os
from contextlib import suppress
from time import monotonic

import msgspec

from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import Index, Segment, Stream, is_scarcity, pread
from sandkeeper.journal.turns import Turns
from sandkeeper.linux.fds import Use, is_scarce
from sandkeeper.linux.paths.statefiles import open_plain

__all__ = ["Abandoned", "Chunk", "Follow", "Gap", "Reader", "tails"]

BLOCK = 32 << 10
"""Bytes of one read: what a client that stops reading makes us hold is a few of these."""

WINDOW = 32 << 10


class Chunk(msgspec.Struct, frozen=True):
    """Bytes of one stream that stand together; `time` in microseconds since the epoch."""

    stream: Stream
    offset: int
    time: int
    data: bytes

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.offset + len(self.data)


class Gap(msgspec.Struct, frozen=True):
    """Bytes `start` to `end` that are not kept; `reason` is `retention` or `storage`."""

    start: int
    end: int
    reason: str


class Reader:
    """Reads one journal; use as a context manager or close it.

    Not for two threads at once. One that `lasts` leaves the last descriptors to others.
    """

    def __init__(self, journal: Journal, *, lasts: bool = False) -> None:
        self._journal = journal
        self._lasts = lasts
        self._segment: Segment | None = None
        self._data = -1
        self._index: Index | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors; the reader can be used again."""
        for fd in (self._data, self._index.fd if self._index else -1):
            if fd >= 0:
                os.close(fd)
        self._data, self._index, self._segment = -1, None, None

    def close_scarce(self) -> None:
        """Close them where they are of the last ones, which are for others; `read` opens again."""
        fds = (self._data, self._index.fd if self._index else -1)
        if is_scarce(max(fds), Use.FOLLOWER):
            self.close()

    def read(self, offset: int, limit: int = BLOCK, *, nowait: bool = False) -> list[Chunk | Gap]:
        """Return what stands at `offset`: chunks of at most `limit` bytes in all, or one gap.

        An empty list means the tail. With `nowait`, raises BlockingIOError where the disk would
        have to be waited for (preadv2(2), RWF_NOWAIT, Linux 4.14).
        """
        tail = self._journal.tail
        if offset >= tail:
            return []
        segment, kept = self._journal.segment_at(offset)
        if segment is None:
            retained = offset < self._journal.first
            return [Gap(offset, min(kept, tail), "retention" if retained else "storage")]
        end = min(tail, offset + limit, segment.base + self._size(segment, tail))
        try:
            if not self._open(segment):
                return self._vanished(segment, offset, tail)
            data = pread(self._data, end - offset, offset - segment.base, nowait=nowait)
            if data:
                if self._journal.unread.get(segment.base, offset + 1) <= offset:
                    self._journal.unread.pop(segment.base, None)
                return self._split(offset, data, nowait=nowait)
        except OSError as error:
            if is_scarcity(error):
                raise
            self._mark(segment, offset, error)
        return self._vanished(segment, offset, tail)

    def _size(self, segment: Segment, tail: int) -> int:
        return (tail if segment.end is None else segment.end) - segment.base

    def _mark(self, segment: Segment, offset: int, error: OSError | None = None) -> None:
        """Have what cannot be read count as lost: it is where it belongs, and a disk fails."""
        if error is None or error.errno == errno.EIO:
            unread = self._journal.unread
            unread[segment.base] = min(offset, unread.get(segment.base, offset))

    def _vanished(self, segment: Segment, offset: int, tail: int) -> list[Chunk | Gap]:
        """A segment cannot be read: retention was faster than we, or its files are no more."""
        self.close()
        end = max(segment.base + self._size(segment, tail), min(self._journal.first, tail))
        retained = offset < self._journal.first
        return [Gap(offset, end, "retention" if retained else "storage")]

    def _open(self, segment: Segment) -> bool:
        if self._segment is not None and self._segment.base == segment.base:
            return True
        self.close()
        try:
            self._data = open_plain(segment.data_path)
            self._index = Index(open_plain(segment.index_path), segment.base, segment.end)
            if self._lasts and is_scarce(self._index.fd, Use.FOLLOWER):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        except OSError as error:
            self.close()
            if is_scarcity(error):
                raise
            return False
        self._segment = segment
        return True

    def _split(self, offset: int, data: bytes, *, nowait: bool) -> list[Chunk | Gap]:
        index = self._index
        assert index is not None
        index.refresh(nowait=nowait)
        number = index.find(offset)
        end = offset + len(data)
        chunks: list[Chunk | Gap] = []
        start = offset
        while start < end:
            following = number + 1
            stop = min(end, index.offset(following)) if following < len(index) else end
            if stop > start:
                piece = data[start - offset : stop - offset]
                chunks.append(Chunk(index.stream(number), start, index.time(number), piece))
                start = stop
            number = following
        return chunks

    def offset_at(self, microseconds: int) -> int:
        """Return the offset of the first kept byte that arrived at or after a time."""
        for segment in self._journal.segments:
            if not self._is_indexed(segment, nowait=False) or self._index is None:
                continue
            number = self._index.find_time(microseconds)
            if number < len(self._index):
                return max(self._index.offset(number), segment.base)
        return self._journal.tail

    def extents(self, segment: Segment, *, nowait: bool) -> list[tuple[int, int, int]]:
        """Return (stream, start, end) of every record of a segment; empty if it is gone."""
        tail = self._journal.tail
        if not self._is_indexed(segment, nowait=nowait) or self._index is None:
            return []
        return list(self._index.extents(segment.base + self._size(segment, tail)))

    def _is_indexed(self, segment: Segment, *, nowait: bool) -> bool:
        """Have the index of a segment at hand; False where it cannot be read."""
        try:
            if not self._open(segment) or self._index is None:
                return False
            self._index.refresh(nowait=nowait)
        except OSError as error:
            if is_scarcity(error):
                raise
            return False
        return True

    def plain(self, segment: Segment, start: int, end: int) -> bytes:
        """Return the bytes of a segment from `start` to `end`, whosever they are; none: gone."""
        if start >= end or not self._open(segment):
            return b""
        return pread(self._data, end - start, start - segment.base)

    def window(self, segment: Segment, end: int, *, nowait: bool) -> tuple[int, bytes]:
        """Return a block of the open segment that ends at `end`, and its offset.

        The block is empty where it cannot be read.
        """
        start = max(segment.base, end - WINDOW)
        try:
            data = pread(self._data, end - start, start - segment.base, nowait=nowait)
        except OSError as error:
            if is_scarcity(error):
                raise
            self._mark(segment, start, error)
            return start, b""
        if start + len(data) < end:  # the disk fails in the middle, or somebody has cut it
            self._mark(segment, start + len(data))
            return start, b""
        return start, data


def tails(
    journal: Journal, streams: tuple[int, ...], limit: int, *, nowait: bool = False
) -> dict[int, tuple[list[tuple[int, bytes]], bool]]:
    """Return per stream its last `limit` bytes as (offset, bytes), and whether some are missing.

    The cost follows the index of the segments that hold them, not what other streams wrote:
    segments without bytes of a stream are skipped. `nowait` as in `Reader.read`.
    """
    pieces: dict[int, list[tuple[int, bytes]]] = {stream: [] for stream in streams}
    room = dict.fromkeys(streams, limit)
    before = list(journal.totals)  # what comes while this reads is not missing at the beginning
    after = before
    with Reader(journal) as reader:
        for segment in reversed(journal.segments):
            wanted = {s for s in streams if room[s] > 0 and after[s] > segment.before[s]}
            after = list(segment.before)
            if wanted:
                _tails_of_segment(reader, segment, wanted, room, pieces, nowait)
    lengths = {stream: sum(len(data) for _, data in found) for stream, found in pieces.items()}
    return {
        stream: (
            found[::-1],
            lengths[stream] < before[stream]
            or (room[stream] <= 0 and lengths[stream] < journal.totals[stream]),
        )
        for stream, found in pieces.items()
    }


def _tails_of_segment(
    reader: Reader,
    segment: Segment,
    wanted: set[int],
    room: dict[int, int],
    pieces: dict[int, list[tuple[int, bytes]]],
    nowait: bool,
) -> None:
    base, block = segment.base, b""
    for stream, start, end in reversed(reader.extents(segment, nowait=nowait)):
        if stream not in wanted or room[stream] <= 0:
            continue
        start = max(start, end - room[stream])
        room[stream] -= end - start
        while start < end:
            if not base < end <= base + len(block):
                base, block = reader.window(segment, end, nowait=nowait)
                if not block:
                    return
            part = max(start, base)
            pieces[stream].append((part, block[part - base : end - base]))
            end = part


class Abandoned(Exception):
    """The server stops; the process goes on, and so does its journal with the next server."""


class Follow:
    """Follows a journal from an offset: history, then live, until the process has ended.

    `consumer` names the kind of reader where lags are told, `taken` is how far it has come: who
    asks for the next batch has dealt with the last. With `turns` each batch waits for one.

    What grandchildren write after that end belongs to nobody who watched: a follower stops at the
    offset of the end, a later one at what was there when it came. Close it.
    """

    def __init__(
        self,
        journal: Journal,
        offset: int = 0,
        *,
        turns: Turns | None = None,
        limit: int = BLOCK,
        consumer: str = "stream",
        bound: int | None = None,
    ) -> None:
        """With `bound` the end is there, whatever comes later."""
        self._journal = journal
        self._turns = turns
        self._reader = Reader(journal, lasts=True)
        self._limit = limit
        self._bound = bound if journal.exit_offset is None else journal.tail
        self.offset = self.taken = offset
        self.consumer = consumer
        self.since = monotonic()
        journal.followers.add(self)

    def close(self) -> None:
        """Close the reader."""
        self._journal.followers.discard(self)
        self._reader.close()

    async def next(self, timeout: float) -> list[Chunk | Gap] | None:
        """Return what comes next, [] after `timeout` seconds of silence, None at the end.

        No task is made for it, and nothing is lost when it is cancelled. Raises Abandoned when
        the server stops before the process.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        self.taken = self.offset
        while True:
            if self._turns is not None:
                await self._turns.take()
            batch = await self._read()
            if batch:
                self.offset = batch[-1].end
                return batch
            if self._bound is None:
                self._bound = self._journal.exit_offset
            if self._bound is not None and self.offset >= self._bound:
                return None
            if self._journal.abandoned:
                raise Abandoned
            if self._journal.tail <= self.offset and not self._journal.sealed:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0 or not await self._journal.changed(left, self.offset):
                    return []

    async def _read(self) -> list[Chunk | Gap]:
        """Read without a thread when the bytes are in memory, as at the live end they are."""
        room = self._limit
        if self._bound is not None:
            room = min(room, self._bound - self.offset)
        if room <= 0:
            return []
        with suppress(BlockingIOError):
            return self._reader.read(self.offset, room, nowait=True)
        return await asyncio.to_thread(self._reader.read, self.offset, room)
