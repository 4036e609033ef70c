"""Lines and text out of bytes: no line is cut by a chunk's border, no character either.

`PrefixedText` makes the text form of a log stream: every line carries the name of its stream.
Its output is a function of the journal alone (bytes and their recorded times), so a replay is
the same to the byte however the live stream was cut. Who tells it of a time by `expire` must have
the journal record all later bytes at that time or after it (`Journal.advance`).
"""

import codecs

from sandkeeper.journal.cursor import Chunk
from sandkeeper.journal.segment import NOTICE, REMARK, STDERR, STDOUT, Stream
from sandkeeper.journal.splitting import part_end

__all__ = [
    "KEEPALIVE_SECONDS",
    "OPEN_PATIENCE",
    "PATIENCE",
    "Decoder",
    "PrefixedText",
    "character_start",
    "complete_end",
    "cut_end",
    "strip_partial",
]

PREFIX = {STDOUT: b"stdout:", STDERR: b"stderr:", NOTICE: b"stdout:"}
PATIENCE = 250_000
"""Microseconds for which a finished line of one stream waits for the other's open line."""

KEEPALIVE_SECONDS = 3.5
"""No stream is silent for longer, whatever a program has written last. Clients that give up after
5 s of silence exist."""

OPEN_PATIENCE = int(KEEPALIVE_SECONDS * 1e6)
"""Microseconds for which the text form leaves a line open in which nothing is written."""

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


def complete_end(data: bytes) -> int:
    """Return where the last character begins if it is not whole, else where the bytes end.

    What is no UTF-8 has no characters.
    """
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            size = 1 + (0xC2 <= byte < 0xF5) + (0xE0 <= byte < 0xF5) + (0xF0 <= byte < 0xF5)
            return len(data) - back if back < size else len(data)
    return len(data)


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


def cut_end(data: bytes, limit: int) -> bytes:
    """Return at most `limit` bytes of the beginning, cut at a character."""
    return data if len(data) <= limit else data[: part_end(data, limit)]


class PrefixedText:
    """The text form of a log stream.

    Parts of a line go out at once. While a line is open, what the other stream writes waits for
    its end, but not longer than `PATIENCE` of recorded time and not more than `HELD_BYTES`: then
    the open line is closed with a newline, and goes on later behind a prefix of its own. So it is
    when nothing is written for `OPEN_PATIENCE`: what shows that a stream lives can only stand
    between lines. A character goes out with its last byte.
    """

    def __init__(self) -> None:
        self._open: Stream | None = None
        self._open_since = 0
        self._held: list[bytes] = []
        self._held_stream = STDOUT
        self._held_size = 0
        self._held_since = 0
        self._partial: dict[bytes, bytes] = {}

    @property
    def line_open(self) -> bool:
        """Whether a line has been begun and not ended: nothing else may be put between then."""
        return self._open is not None

    @property
    def deadline(self) -> int | None:
        """When, in microseconds since the epoch, something stops waiting; None: nothing waits."""
        if self._held:
            return self._held_since + PATIENCE
        return None if self._open is None else self._open_since + OPEN_PATIENCE

    def feed(self, chunk: Chunk) -> bytes:
        """Return the text that follows from the next chunk."""
        out = self.expire(chunk.time)
        if chunk.stream == REMARK:
            return out + self._close_line(chunk.time) + chunk.data
        prefix = PREFIX[chunk.stream]
        data = self._partial.pop(prefix, b"") + chunk.data
        if (end := complete_end(data)) < len(data):
            self._partial[prefix] = data[end:]
        return out + self._feed(chunk.stream, chunk.time, data[:end])

    def _feed(self, stream: Stream, time: int, data: bytes) -> bytes:
        if not data:
            return b""
        if self._open is not None and PREFIX[self._open] != PREFIX[stream]:
            return self._hold(stream, time, data)
        if not self._held:
            return self._write(stream, time, data)
        head, newline, rest = data.partition(b"\n")
        out = self._write(stream, time, head + newline)
        if newline:
            out += self._release(time)
        return out + self._feed(stream, time, rest)

    def expire(self, now: int) -> bytes:
        """Return what stops waiting at a time."""
        out = b""
        while (deadline := self.deadline) is not None and now >= deadline:
            out += self._close_line(deadline)
        return out

    def finish(self, now: int = 0) -> bytes:
        """Return what is left at the end, `now`; an unfinished last line stays without newline."""
        out = self.expire(now)
        for stream in (STDOUT, STDERR):
            if partial := self._partial.pop(PREFIX[stream], b""):
                out += self._feed(stream, now, partial)
        return out + (self._close_line(now) if self._held else b"")

    def _hold(self, stream: Stream, time: int, data: bytes) -> bytes:
        if not self._held:
            self._held_since = time
        self._held_stream = stream
        self._held.append(data)
        self._held_size += len(data)
        return self._close_line(time) if self._held_size > HELD_BYTES else b""

    def _close_line(self, time: int) -> bytes:
        if self._open is None:
            return self._release(time)
        self._open = None
        return b"\n" + self._release(time)

    def _release(self, time: int) -> bytes:
        if not self._held:
            return b""
        data, self._held, self._held_size = b"".join(self._held), [], 0
        return self._write(self._held_stream, time, data)

    def _write(self, stream: Stream, time: int, data: bytes) -> bytes:
        prefix = PREFIX[stream]
        head = b"" if self._open is not None else prefix
        if data.endswith(b"\n"):
            self._open = None
            return head + data[:-1].replace(b"\n", b"\n" + prefix) + b"\n"
        self._open, self._open_since = stream, time
        return head + data.replace(b"\n", b"\n" + prefix)
