"""The records of streams: what a journal's chunks become for each kind of reader."""

import base64
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from sandkeeper.journal.cursor import Chunk, Gap
from sandkeeper.journal.lines import (
    KEEPALIVE_SECONDS,
    Decoder,
    PrefixedText,
    complete_end,
    strip_partial,
)
from sandkeeper.journal.segment import NOTICE, OUTPUT, REMARK, STDERR, STDOUT, Stream
from sandkeeper.jsonlines import json_line, sse_fields
from sandkeeper.linux.clocks import rfc3339_utc

__all__ = [
    "SILENT",
    "Characters",
    "EventRecords",
    "ExecRecords",
    "Heart",
    "LogRecords",
    "Outcome",
    "RawRecords",
    "TextLog",
    "pieces",
]

FELL_BEHIND = "[output truncated: the stream fell behind]\n"
SILENT = b'{"type":"keepalive"}\n'


def pieces(data: bytes) -> Iterator[tuple[int, str, bool]]:
    """Yield (position, text, is base64): text where it is UTF-8, base64 where it is not.

    What is left of a character that was cut at either end is base64 of its own, so that one cut
    does not encode all.
    """
    start, end = len(data) - len(strip_partial(data)), complete_end(data)
    borders = [0, start, max(start, end), len(data)]
    for first, last in pairwise(borders):
        if part := data[first:last]:
            try:
                yield first, part.decode(), False
            except UnicodeDecodeError:
                yield first, base64.b64encode(part).decode(), True


class Heart:
    """Has a stream never be silent for longer than `KEEPALIVE_SECONDS`.

    Also not while what the program writes makes no records, or none that are asked for.
    """

    def __init__(self) -> None:
        self._last = time.monotonic()

    def left(self) -> float:
        """Return for how many seconds silence may last from now on."""
        return max(0.0, self._last + KEEPALIVE_SECONDS - time.monotonic())

    def beat(self, block: bytes, alive: Callable[[], bytes]) -> bytes:
        """Return what to send: the block, or where it is empty what says `alive` when it is time.

        `alive` may have nothing to say yet.
        """
        if not block and self.left() <= 0:
            block = alive()
        if block:
            self._last = time.monotonic()
        return block


class Characters:
    """Holds what has come of a character until the rest does."""

    def __init__(self) -> None:
        self._held: dict[Stream, Chunk] = {}

    def whole(self, chunk: Chunk, *, together: bool) -> Iterator[Chunk]:
        """Yield the chunk with what was held of its stream, but for the beginning of a character.

        With `together` only bytes that stand together are joined, and what was held of another
        stream comes first: then offsets are those of the journal, and nothing is behind them.
        """
        if together and any(held.stream != chunk.stream for held in self._held.values()):
            yield from self.rest()
        held = self._held.pop(chunk.stream, None)
        if held is not None and together and held.end != chunk.offset:
            yield held
            held = None
        if held is not None:
            data = held.data + chunk.data
            chunk = Chunk(chunk.stream, chunk.end - len(data), chunk.time, data)
        end = complete_end(chunk.data)
        if end < len(chunk.data):
            tail = chunk.data[end:]
            self._held[chunk.stream] = Chunk(chunk.stream, chunk.end - len(tail), chunk.time, tail)
        if end:
            yield Chunk(chunk.stream, chunk.offset, chunk.time, chunk.data[:end])

    def rest(self) -> Iterator[Chunk]:
        """Yield what is held: nobody waits for it any longer."""
        yield from self._held.values()
        self._held.clear()


class Outcome(NamedTuple):
    """How a process ended: the wire's status, code, signal's number and reason."""

    status: str
    exit_code: int | None
    exit_signal: int | None
    reason: str


class TextLog:
    """The text form of `logs/stream`: lines behind the names of their streams."""

    def __init__(self) -> None:
        self._text = PrefixedText()

    def batch(self, items: list[Chunk | Gap]) -> bytes:
        """Return the text of a batch."""
        return b"".join(map(self._one, items))

    def _one(self, item: Chunk | Gap) -> bytes:
        if isinstance(item, Chunk):
            return self._text.feed(item)
        out = self._text.finish()
        if self._text.line_open:
            out += b"\n"
        self._text = PrefixedText()
        return out + self._text.feed(Chunk(STDOUT, item.end, 0, FELL_BEHIND.encode()))

    @property
    def deadline(self) -> int | None:
        """When something stops waiting for another line to end (microseconds); None: nothing."""
        return self._text.deadline

    def silence(self) -> float:
        """Return for how many seconds to wait for more."""
        if self.deadline is None:
            return KEEPALIVE_SECONDS
        # The clock may have been set since: nobody waits longer than the patience.
        return min(KEEPALIVE_SECONDS, max(0.0, self.deadline / 1e6 - time.time()))

    def expire(self, moment: int) -> bytes:
        """Return what has waited long enough at a time that the journal has settled.

        Behind a line that is closed because nothing is written in it a heartbeat stands.
        """
        told = self._text.expire(moment)
        return told + self.keepalive() if told == b"\n" else told

    def keepalive(self) -> bytes:
        """Return a heartbeat, unless a line is open."""
        return b"" if self._text.line_open else b"[keepalive]\n"

    def finish(self, ended: float) -> bytes:
        """Return what is left at the end, which was at a time (seconds)."""
        return self._text.finish(int(ended * 1e6))


class LogRecords:
    """The NDJSON form of `logs/stream`."""

    def __init__(self) -> None:
        self._characters = Characters()

    def batch(self, items: list[Chunk | Gap]) -> bytes:
        """Return the records of a batch."""
        return b"".join(record for item in items for record in self._one(item))

    def alive(self) -> bytes:
        """Return what is still held of characters, else a heartbeat."""
        return self.finish() or SILENT

    def finish(self) -> bytes:
        """Return what was never finished of characters."""
        return b"".join(r for chunk in self._characters.rest() for r in _output(chunk))

    def _one(self, item: Chunk | Gap) -> Iterator[bytes]:
        if isinstance(item, Gap) or item.stream == NOTICE:
            yield self.finish()
        if isinstance(item, Gap):
            told = f"{item.end - item.start} bytes are not kept any more"
            yield json_line({"type": "truncated", "data": told})
        elif item.stream == NOTICE:
            text = item.data.decode("utf-8", "replace")
            yield json_line({"type": "restart", "data": text})
        elif item.stream != REMARK:
            for chunk in self._characters.whole(item, together=False):
                yield from _output(chunk)


def _output(chunk: Chunk) -> Iterator[bytes]:
    for _, text, encoded in pieces(chunk.data):
        record = {"type": chunk.stream.wire, "data": text}
        if encoded:
            record["encoding"] = "base64"
        yield json_line(record)


class ExecRecords:
    """The NDJSON of a streaming `POST /process`: text only, no character split over records."""

    def __init__(self) -> None:
        self._decoder = Decoder()

    def batch(self, items: list[Chunk | Gap]) -> bytes:
        """Return the records of a batch."""
        return b"".join(map(self._one, items))

    def _one(self, item: Chunk | Gap) -> bytes:
        if isinstance(item, Gap):
            return json_line({"type": "stdout", "data": FELL_BEHIND})
        if item.stream == REMARK:
            return b""
        kind = STDERR if item.stream == STDERR else STDOUT
        text = self._decoder.decode(kind, item.data)
        return json_line({"type": kind.wire, "data": text}) if text else b""

    def finish(self) -> bytes:
        """Return records for characters that were never finished."""
        rests = {kind.wire: self._decoder.flush(kind) for kind in OUTPUT}
        return b"".join(
            json_line({"type": name, "data": text}) for name, text in rests.items() if text
        )


class EventRecords:
    """Our own event stream: every record says where it stands, as NDJSON or as SSE."""

    def __init__(
        self, outcome: Callable[[], Outcome], offset: int, *, sse: bool, streams: set[str]
    ) -> None:
        """`outcome` is asked for once the last output has been told."""
        self._outcome = outcome
        self._offset = offset
        self._sequence = 0
        self._sse = sse
        self._streams = streams
        self._characters = Characters()

    def batch(self, items: list[Chunk | Gap]) -> bytes:
        """Return the events of a batch."""
        return b"".join(event for item in items for event in self._one(item))

    def _one(self, item: Chunk | Gap) -> Iterator[bytes]:
        if isinstance(item, Gap):
            yield self._rest()
            self._offset = item.end
            yield self._event(
                {"type": "gap", "offset": item.start, "to": item.end, "reason": item.reason}
            )
        elif not self._streams or item.stream.wire in self._streams:
            for chunk in self._characters.whole(item, together=True):
                yield self._output(chunk)
        else:
            yield self._rest()
            self._offset = item.end

    def _rest(self) -> bytes:
        return b"".join(map(self._output, self._characters.rest()))

    def _output(self, chunk: Chunk) -> bytes:
        self._offset = chunk.end
        return b"".join(
            self._event(
                {
                    "type": "output",
                    "stream": chunk.stream.wire,
                    "offset": chunk.offset + position,
                    "time": rfc3339_utc(chunk.time),
                    "data": text,
                    **({"encoding": "base64"} if encoded else {}),
                }
            )
            for position, text, encoded in pieces(chunk.data)
        )

    def heartbeat(self) -> bytes:
        """Return what is held of a character, else an event that says: here, nothing new."""
        return self._rest() or self._event({"type": "heartbeat", "offset": self._offset})

    def end(self) -> bytes:
        """Return the last event: how the process ended."""
        rest = self._rest()
        outcome = self._outcome()
        return rest + self._event(
            {
                "type": "end",
                "offset": self._offset,
                "status": outcome.status,
                "exitCode": outcome.exit_code,
                "exitSignal": outcome.exit_signal,
                "reason": outcome.reason,
            }
        )

    def interrupted(self, why: str) -> bytes:
        """Return the last event of a stream that ends before its process: come again from here."""
        return self._rest() + self._event(
            {
                "type": "end",
                "offset": self._offset,
                "status": "running",
                "reason": why,
            }
        )

    def _event(self, fields: dict[str, Any]) -> bytes:
        """Write an event as a line."""
        self._sequence += 1
        data = json_line({"seq": self._sequence, **fields})
        if not self._sse:
            return data
        return b"id: %d\n%b\n" % (self._offset, sse_fields(fields["type"], data))


class RawRecords(EventRecords):
    """The same events for programs: bytes as they are, behind the line that tells their length."""

    def __init__(self, outcome: Callable[[], Outcome], offset: int, *, streams: set[str]) -> None:
        super().__init__(outcome, offset, sse=False, streams=streams)

    def _one(self, item: Chunk | Gap) -> Iterator[bytes]:
        if isinstance(item, Chunk) and (not self._streams or item.stream.wire in self._streams):
            self._offset = item.end
            yield self._event(
                {
                    "type": "output",
                    "stream": item.stream.wire,
                    "offset": item.offset,
                    "time": rfc3339_utc(item.time),
                    "length": len(item.data),
                }
            )
            yield item.data
        else:
            yield from super()._one(item)
