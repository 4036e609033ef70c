"""Lines and text out of bytes: no line is cut by a chunk's border, no character either.

`PrefixedText` makes the text form of a log stream: every line carries the name of its stream.
Its output is a function of the journal alone (bytes and their recorded times), so a replay is
the same to the byte however the live stream was cut. Who tells it of a time by `expire` must have
the journal record all later bytes at that time or after it (`Journal.advance`).
"""

import codecs
from collections.abc import Iterator

from sandkeeper.journal.cursor import Chunk
from sandkeeper.journal.segment import NOTICE, REMARK, STDERR, STDOUT, Stream

__all__ = [
    "PATIENCE",
    "Decoder",
    "LineSplitter",
    "PrefixedText",
    "character_start",
    "cut_end",
    "part_end",
    "strip_partial",
]

PREFIX = {STDOUT: b"stdout:", STDERR: b"stderr:", NOTICE: b"stdout:"}
PATIENCE = 250_000
"""Microseconds for which a finished line of one stream waits for the other's open line."""

HELD_BYTES = 64 << 10
"""So much of one stream waits for the other's open line; more ends the wait."""


class Decoder:
    """UTF-8 per stream; a character split over chunks comes whole with its last byte."""

    def __init__(self) -> None:
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = [make("replace") for _ in range(4)]

    def decode(self, stream: Stream, data: bytes) -> str:
        """Return the text that is complete by now."""
        return self._decoders[stream].decode(data)

    def flush(self, stream: Stream) -> str:
        """Return U+FFFD for a character that was never finished, else nothing."""
        return self._decoders[stream].decode(b"", True)


def character_start(data: bytes, place: int) -> int:
    """Return where to cut bytes so that nothing before `place` is kept, nor half a character.

    What is no UTF-8 is cut there.
    """
    start = max(0, place)
    stop = min(start + 3, len(data))
    while 0 < start < stop and data[start] & 0xC0 == 0x80:
        start += 1
    return start


def strip_partial(data: bytes) -> bytes:
    """Drop the rest of a character from the front of bytes that were cut there."""
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]


def part_end(data: bytes, limit: int) -> int:
    """Return where to cut bytes that are longer than `limit`: there, or before its character.

    What is no UTF-8 is cut at the limit; a limit below four bytes may cut characters.
    """
    end = limit
    while end > limit - 4 and end > 0 and data[end] & 0xC0 == 0x80:
        end -= 1
    return end if end > 0 and data[end] & 0xC0 != 0x80 else limit


def cut_end(data: bytes, limit: int) -> bytes:
    """Return at most `limit` bytes of the beginning, cut at a character."""
    return data if len(data) <= limit else data[: part_end(data, limit)]


class LineSplitter:
    """Collects the lines of one stream; a line longer than `limit` comes in parts.

    `pending` is what stands behind the last newline, `start` its offset.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.pending = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Yield (line without its newline, whether the line ends there)."""
        *whole, rest = (self.pending + data).split(b"\n") if self.pending else data.split(b"\n")
        for line in whole:
            yield from self._parts(line, True)
        while len(rest) > self._limit:
            end = part_end(rest, self._limit)
            yield rest[:end], False
            rest = rest[end:]
        self.pending = rest

    def skip(self, data: bytes) -> None:
        """Take `pending` and what follows it, `data` in all, without looking at the lines."""
        rest = data[data.rfind(b"\n") + 1 :]
        while len(rest) > self._limit:
            rest = rest[part_end(rest, self._limit) :]
        self.pending = rest

    def _parts(self, line: bytes, ends: bool) -> Iterator[tuple[bytes, bool]]:
        while len(line) > self._limit:
            end = part_end(line, self._limit)
            yield line[:end], False
            line = line[end:]
        yield line, ends


class PrefixedText:
    """The text form of a log stream.

    Parts of a line go out at once. While a line is open, what the other stream writes waits for
    its end, but not longer than `PATIENCE` of recorded time and not more than `HELD_BYTES`: then
    the open line is closed with a newline, and goes on later behind a prefix of its own.
    `line_open` says that the last byte given out was not a newline: nothing else may be put
    between then.
    """

    def __init__(self) -> None:
        self._open: Stream | None = None
        self._held: list[bytes] = []
        self._held_stream = STDOUT
        self._held_size = 0
        self._held_since = 0

    @property
    def line_open(self) -> bool:
        """Whether a line has been begun and not ended."""
        return self._open is not None

    @property
    def deadline(self) -> int | None:
        """When, in microseconds since the epoch, held bytes stop waiting; None: nothing is held."""
        return self._held_since + PATIENCE if self._held else None

    def feed(self, chunk: Chunk) -> bytes:
        """Return the text that follows from the next chunk."""
        out = self.expire(chunk.time)
        if chunk.stream == REMARK:
            return out + self._close_line() + chunk.data
        if self._open is not None and not self._same(chunk.stream):
            return out + self._hold(chunk)
        if not self._held:
            return out + self._write(chunk.stream, chunk.data)
        head, newline, rest = chunk.data.partition(b"\n")
        out += self._write(chunk.stream, head + newline)
        if newline:
            out += self._release()
        if rest:
            out += self.feed(Chunk(chunk.stream, chunk.end - len(rest), chunk.time, rest))
        return out

    def expire(self, now: int) -> bytes:
        """Return what stops waiting at a time."""
        if not self._held or now < self._held_since + PATIENCE:
            return b""
        return self._close_line()

    def finish(self) -> bytes:
        """Return what is left at the end; an unfinished last line stays without its newline."""
        return self._close_line() if self._held else b""

    def _same(self, stream: Stream) -> bool:
        return self._open is not None and PREFIX[self._open] == PREFIX[stream]

    def _hold(self, chunk: Chunk) -> bytes:
        if not self._held:
            self._held_since = chunk.time
        self._held_stream = chunk.stream
        self._held.append(chunk.data)
        self._held_size += len(chunk.data)
        return self._close_line() if self._held_size > HELD_BYTES else b""

    def _close_line(self) -> bytes:
        if self._open is None:
            return self._release()
        self._open = None
        return b"\n" + self._release()

    def _release(self) -> bytes:
        if not self._held:
            return b""
        data, self._held, self._held_size = b"".join(self._held), [], 0
        return self._write(self._held_stream, data)

    def _write(self, stream: Stream, data: bytes) -> bytes:
        prefix = PREFIX[stream]
        head = b"" if self._open is not None else prefix
        if data.endswith(b"\n"):
            self._open = None
            return head + data[:-1].replace(b"\n", b"\n" + prefix) + b"\n"
        self._open = stream
        return head + data.replace(b"\n", b"\n" + prefix)
