"""Segments: the files of a journal.

A segment is two files named by the absolute offset of its first byte: `<base>.seg` holds output
bytes, `<base>.idx` says whose they are. An index is a head of 64 bytes and records of 16:

    offset of the first byte (u64) · microseconds since the epoch << 4 | stream (u64)

A record reigns until the next one; the last until the end of the data. It is written *before* its
bytes, so after a kill -9 no byte is without an owner: the data file's size is the truth.

Readers are total: whatever bytes the files hold, there is an answer. A record that cannot be true
(it goes backwards, begins behind the data, names no stream) is passed over and the one before it
reigns on; bytes that no record owns count as standard output; a head that cannot be true is made
anew from what is known.
"""

import errno
import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

import msgspec

from sandkeeper.errors import BadInput
from sandkeeper.linux.paths.statefiles import LAST_SECOND, open_plain

__all__ = [
    "HEAD",
    "MAX_RECORDS",
    "NOTICE",
    "OUTPUT",
    "REMARK",
    "STDERR",
    "STDOUT",
    "STREAMS",
    "Index",
    "Segment",
    "Stream",
    "count_bytes",
    "is_scarcity",
    "output_streams",
    "pack_record",
    "pread",
    "put_back",
    "read_head",
    "segment_bases",
    "was_under_way",
    "write_head",
]


class Stream(IntEnum):
    """Whose bytes, as indexes store it; `wire` is its name for clients.

    The process's two streams; our restart notices, which belong to its output; and remarks of stop
    and kill, which only live text streams show.
    """

    STDOUT, STDERR, NOTICE, REMARK = range(4)
    wire: str

    def __init__(self, _number: int) -> None:
        self.wire = self._name_.lower()


STDOUT, STDERR, NOTICE, REMARK = BY_NUMBER = tuple(Stream)
STREAMS = len(BY_NUMBER)
OUTPUT = (STDOUT, STDERR)
"""What a process itself writes to."""

HEAD = struct.Struct("<8s7Q")
_RECORD = struct.Struct("<QQ")
_MAGIC = b"SKJ1\0\0\0\0"
MAX_RECORDS = 8192
"""A segment ends after so many records, which bounds what a reader keeps of an index."""

_LAST_MICROSECOND = LAST_SECOND * 10**6
_LARGEST = 1 << 62
_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR})


class Segment(msgspec.Struct, frozen=True):
    """One segment: `before` are the bytes per stream ahead of it, lost ones included.

    `gap_from` is less than `base` when bytes between two segments could not be stored.
    """

    folder: Path
    base: int
    before: tuple[int, ...] = (0,) * STREAMS
    gap_from: int = 0
    end: int | None = None

    @property
    def data_path(self) -> Path:
        """The file of output bytes."""
        return self.folder / f"{self.base:020d}.seg"

    @property
    def index_path(self) -> Path:
        """The file of index records."""
        return self.folder / f"{self.base:020d}.idx"


def output_streams(name: str) -> tuple[Stream, ...]:
    """Return which of `OUTPUT` a client means by a name, an empty one both; raises BadInput."""
    found = tuple(stream for stream in OUTPUT if name in {"", stream.wire})
    if not found:
        raise BadInput(f"unknown stream: {name}")
    return found


def pack_record(offset: int, microseconds: int, stream: int) -> bytes:
    """Encode one index record."""
    return _RECORD.pack(offset, microseconds << 4 | stream)


def write_head(fd: int, segment: Segment) -> None:
    """Write the head of an index file."""
    head = HEAD.pack(_MAGIC, segment.base, *segment.before, segment.gap_from, 0)
    os.pwrite(fd, head, 0)


def read_head(path: Path, base: int) -> tuple[tuple[int, ...], int] | None:
    """Return (bytes before per stream, gap_from) of the index file of the segment at `base`.

    None where the head cannot be true; raises OSError where there is none that can be read.
    """
    fd = open_plain(path)
    try:
        raw = os.pread(fd, HEAD.size, 0)
    finally:
        os.close(fd)
    if len(raw) < HEAD.size:
        raise OSError(errno.ENODATA, "it is cut off", str(path))
    magic, said, *before, gap_from, _ = HEAD.unpack(raw)
    if magic != _MAGIC or said != base or gap_from > base or sum(before) != base:
        return None
    return tuple(before), gap_from


def segment_bases(folder: Path, endings: tuple[str, ...] = ("idx", "seg")) -> list[int]:
    """Return the offsets that name the segments of a folder, in order; raises OSError."""
    found = set()
    for entry in os.listdir(folder):
        stem, _, end = entry.partition(".")
        if end in endings and len(stem) == 20 and stem.isascii() and stem.isdigit():
            found.add(int(stem))
    return sorted(base for base in found if base < _LARGEST)


def is_scarcity(error: OSError) -> bool:
    """Say whether a read failed for want of something (descriptors, memory), not of the file."""
    return error.errno in _SCARCE


def pread(fd: int, count: int, position: int, *, nowait: bool = False) -> bytes:
    """Read at a position; with `nowait`, raise BlockingIOError where the disk would be waited for.

    preadv2(2) with RWF_NOWAIT (Linux 4.14). A file system that does not know the flag is tmpfs
    (before Linux 6.13), where nothing has to be waited for.
    """
    if not nowait:
        return os.pread(fd, count, position)
    buffer = bytearray(count)
    try:
        got = os.preadv(fd, [buffer], position, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return os.pread(fd, count, position)
        raise
    return bytes(memoryview(buffer)[:got])


class Index(msgspec.Struct):
    """The records of one index file, read as far as they were written when last refreshed.

    `base` and `end` are the segment's; `end` is None while it is being written. There is always
    a record, it begins at `base` at the latest, and offsets and times never go backwards.
    """

    fd: int
    base: int = 0
    end: int | None = None
    records: "array[int]" = msgspec.field(default_factory=lambda: array("Q"))
    _read: int = HEAD.size

    def refresh(self, *, nowait: bool = False) -> None:
        """Read what was appended since; a half-written record waits for the next time."""
        room = HEAD.size + MAX_RECORDS * _RECORD.size
        while (least := room - self._read) > 0 and (
            raw := pread(self.fd, min(1 << 17, least), self._read, nowait=nowait)
        ):
            whole = len(raw) - len(raw) % _RECORD.size
            found = array("Q")
            found.frombytes(raw[:whole])
            self.records += found if self._is_sound(found) else self._mended(found)
            self._read += whole
            if whole < 1 << 17:
                return

    def _is_sound(self, found: "array[int]") -> bool:
        """Say whether all is as it was written, at the speed of C: it is so but for damage."""
        offsets, words = found[0::2].tolist(), found[1::2].tolist()
        if not offsets:
            return True
        last = self.records[-2] if self.records else self.base
        end = _LARGEST if self.end is None else self.end
        moments = [word >> 4 for word in words]
        return (
            (last <= offsets[0] if self.records else last == offsets[0])
            and offsets[-1] <= end
            and offsets == sorted(offsets)
            and moments == sorted(moments)
            and (not self.records or self.records[-1] >> 4 <= moments[0])
            and moments[-1] <= _LAST_MICROSECOND
            and max([word & 15 for word in words]) < STREAMS
        )

    def _mended(self, found: "array[int]") -> "array[int]":
        made = array("Q")
        last, moment = (self.records[-2], self.records[-1] >> 4) if self.records else (-1, 0)
        end = _LARGEST if self.end is None else self.end
        for offset, word in zip(found[0::2], found[1::2], strict=True):
            if word & 15 >= STREAMS or not max(last, self.base) <= offset <= end:
                continue
            if last < 0 and offset > self.base:  # nobody knows whose the first bytes are
                made.extend((self.base, STDOUT))
            if moment <= word >> 4 <= _LAST_MICROSECOND:
                moment = word >> 4
            made.extend((offset, moment << 4 | word & 15))
            last = offset
        return made

    def _known(self) -> "array[int]":
        return self.records or array("Q", (self.base, STDOUT))

    def __len__(self) -> int:
        return len(self.records) // 2 or 1

    def offset(self, number: int) -> int:
        """Return where record `number` begins."""
        return self._known()[2 * number]

    def stream(self, number: int) -> Stream:
        """Return whose bytes record `number` begins."""
        return BY_NUMBER[self._known()[2 * number + 1] & 15]

    def time(self, number: int) -> int:
        """Return when they arrived, in microseconds since the epoch."""
        return self._known()[2 * number + 1] >> 4

    def extents(self, last: int) -> Iterator[tuple[int, int, int]]:
        """Yield (stream, start, end) of what each record owns up to the offset `last`."""
        known = self._known()
        starts = known[0::2].tolist()
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], last], strict=True)):
            if start < min(stop, last):
                yield known[2 * number + 1] & 15, start, min(stop, last)

    def find(self, offset: int) -> int:
        """Return the number of the record that reigns at `offset`, from `base` on."""
        return max(0, bisect_right(range(len(self)), offset, key=self.offset) - 1)

    def find_time(self, microseconds: int) -> int:
        """Return the number of the first record at or after a time."""
        return bisect_right(range(len(self)), microseconds - 1, key=self.time)


def was_under_way(segment: Segment, bases: list[int]) -> bool:
    """Say whether a kill while a segment was made, or dropped, explains what is missing of it."""
    if segment.base == bases[0] and not os.path.lexists(segment.data_path):
        return True
    with suppress(OSError):
        return segment.base == bases[-1] and os.lstat(segment.data_path).st_size == 0
    return False


def count_bytes(segment: Segment, end: int) -> tuple[list[int], int]:
    """Return the bytes per stream up to the end of a segment, and when the last ones came."""
    totals = list(segment.before)
    fd = open_plain(segment.index_path)
    try:
        index = Index(fd, segment.base, end)
        index.refresh()
    finally:
        os.close(fd)
    for stream, start, stop in index.extents(end):
        totals[stream] += stop - start
    return totals, index.time(len(index) - 1)


def put_back(folder: Path, offset: int, data: bytes) -> bool:
    """Write staged bytes at `offset` into the files of a killed server, before their recovery.

    Says whether there was a place for them: they never stood behind the end of a segment.
    Raises OSError.
    """
    base = max((base for base in segment_bases(folder, ("seg",)) if base <= offset), default=None)
    if base is None:
        return False
    fd = open_plain(Segment(folder, base).data_path, os.O_RDWR)
    try:
        if os.fstat(fd).st_size < offset - base:
            return False
        os.pwrite(fd, data, offset - base)
    finally:
        os.close(fd)
    return True
