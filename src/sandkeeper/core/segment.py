"""Segments: the files of a journal.

A segment is two files named by the absolute offset of its first byte: `<base>.seg` holds output
bytes, `<base>.idx` says whose they are. An index is a head of 64 bytes and records of 16:

    offset of the first byte (u64) · microseconds since the epoch << 4 | stream (u64)

A record reigns until the next one; the last until the end of the data. It is written *before* its
bytes, so after a kill -9 no byte is without an owner: the data file's size is the truth.
"""

import errno
import os
import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "HEAD",
    "NOTICE",
    "REMARK",
    "STDERR",
    "STDOUT",
    "STREAMS",
    "Index",
    "Segment",
    "pack_record",
    "pread",
    "read_head",
    "write_head",
]

STDOUT, STDERR, NOTICE, REMARK = range(4)
"""Whose bytes: the process's two streams; our restart notices, which belong to its output; and
remarks of stop and kill, which only live text streams show."""

STREAMS = 4
HEAD = struct.Struct("<8s7Q")
_RECORD = struct.Struct("<QQ")
_MAGIC = b"SKJ1\0\0\0\0"


@dataclass(frozen=True, slots=True)
class Segment:
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


def pack_record(offset: int, microseconds: int, stream: int) -> bytes:
    """Encode one index record."""
    return _RECORD.pack(offset, microseconds << 4 | stream)


def write_head(fd: int, segment: Segment) -> None:
    """Write the head of an index file."""
    head = HEAD.pack(_MAGIC, segment.base, *segment.before, segment.gap_from, 0)
    os.pwrite(fd, head, 0)


def read_head(path: Path) -> tuple[tuple[int, ...], int] | None:
    """Return (bytes before per stream, gap_from) of an index file, or None if it has no head."""
    try:
        with open(path, "rb") as file:
            raw = file.read(HEAD.size)
    except OSError:
        return None
    if len(raw) < HEAD.size:
        return None
    magic, _base, *rest = HEAD.unpack(raw)
    return (tuple(rest[:STREAMS]), rest[STREAMS]) if magic == _MAGIC else None


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


@dataclass(slots=True)
class Index:
    """The records of one index file, read as far as they were written when last refreshed."""

    fd: int
    records: "array[int]" = field(default_factory=lambda: array("Q"))

    def refresh(self, *, nowait: bool = False) -> None:
        """Read what was appended since; a half-written record waits for the next time."""
        start = HEAD.size + len(self.records) * 8
        while raw := pread(self.fd, 1 << 17, start, nowait=nowait):
            whole = len(raw) - len(raw) % _RECORD.size
            self.records.frombytes(raw[:whole])
            start += whole
            if whole < 1 << 17:
                return

    def __len__(self) -> int:
        return len(self.records) // 2

    def offset(self, number: int) -> int:
        """Return where record `number` begins."""
        return self.records[2 * number]

    def stream(self, number: int) -> int:
        """Return whose bytes record `number` begins."""
        return self.records[2 * number + 1] & 15

    def time(self, number: int) -> int:
        """Return when they arrived, in microseconds since the epoch."""
        return self.records[2 * number + 1] >> 4

    def find(self, offset: int) -> int:
        """Return the number of the record that reigns at `offset` (-1: none does)."""
        return bisect_right(range(len(self)), offset, key=self.offset) - 1

    def find_time(self, microseconds: int) -> int:
        """Return the number of the first record at or after a time."""
        return bisect_right(range(len(self)), microseconds - 1, key=self.time)
