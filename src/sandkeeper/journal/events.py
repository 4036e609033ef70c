"""The records of streams: what a journal's chunks become for each kind of reader."""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from sandkeeper.journal.cursor import Chunk, Gap
from sandkeeper.journal.lines import PATIENCE, Decoder, PrefixedText
from sandkeeper.journal.segment import NOTICE, OUTPUT, REMARK, STDERR, STDOUT
from sandkeeper.linux.clocks import rfc3339_utc

__all__ = [
    "SILENT",
    "EventRecords",
    "ExecRecords",
    "LogRecords",
    "Outcome",
    "TextLog",
    "pieces",
]

FELL_BEHIND = "[output truncated: the stream fell behind]\n"
SILENT = b'{"type":"keepalive"}\n'
_encode = msgspec.json.encode


def pieces(data: bytes) -> Iterator[tuple[int, str, bool]]:
    """Yield (position, text, is base64): text where it is UTF-8, base64 where it is not.

    A character that is cut at the end comes as base64 of its own, so one cut does not encode all.
    """
    try:
        yield 0, data.decode(), False
        return
    except UnicodeDecodeError as error:
        cut = error.start
        if len(data) - cut >= 4 or error.reason != "unexpected end of data":
            yield 0, base64.b64encode(data).decode(), True
            return
    if cut:
        yield 0, data[:cut].decode(), False
    yield cut, base64.b64encode(data[cut:]).decode(), True


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
        told = Chunk(STDOUT, item.end, 0, FELL_BEHIND.encode())
        ended = b"\n" if self._text.line_open else b""
        out = self._text.finish() or ended
        self._text = PrefixedText()
        return out + (b"" if out.endswith(b"\n") or not out else b"\n") + self._text.feed(told)

    @property
    def deadline(self) -> int | None:
        """When something stops waiting for another line to end (microseconds); None: nothing."""
        return self._text.deadline

    def silence(self) -> float | None:
        """Return for how many seconds to wait for more before the deadline; None: no hurry."""
        if self.deadline is None:
            return None
        # The clock may have been set since: nobody waits longer than the patience.
        return min(PATIENCE / 1e6, max(0.0, self.deadline / 1e6 - time.time()))

    def expire(self, moment: int) -> bytes:
        """Return what has waited long enough at a time that the journal has settled."""
        return self._text.expire(moment)

    def keepalive(self) -> bytes:
        """Return a heartbeat, unless a line is open."""
        return b"" if self._text.line_open else b"[keepalive]\n"

    def finish(self) -> bytes:
        """Return what is left at the end."""
        return self._text.finish()


class LogRecords:
    """The NDJSON form of `logs/stream`."""

    def batch(self, items: list[Chunk | Gap]) -> bytes:
        """Return the records of a batch."""
        return b"".join(record for item in items for record in self._one(item))

    def _one(self, item: Chunk | Gap) -> Iterator[bytes]:
        if isinstance(item, Gap):
            told = f"{item.end - item.start} bytes are not kept any more"
            yield _encode({"type": "truncated", "data": told}) + b"\n"
        elif item.stream == NOTICE:
            text = item.data.decode("utf-8", "replace")
            yield _encode({"type": "restart", "data": text}) + b"\n"
        elif item.stream != REMARK:
            for _, text, encoded in pieces(item.data):
                record = {"type": item.stream.wire, "data": text}
                if encoded:
                    record["encoding"] = "base64"
                yield _encode(record) + b"\n"


class ExecRecords:
    """The NDJSON of a streaming `POST /process`: text only, no character split over records."""

    def __init__(self) -> None:
        self._decoder = Decoder()

    def batch(self, items: list[Chunk | Gap]) -> bytes:
        """Return the records of a batch."""
        return b"".join(map(self._one, items))

    def _one(self, item: Chunk | Gap) -> bytes:
        if isinstance(item, Gap):
            return _encode({"type": "stdout", "data": FELL_BEHIND}) + b"\n"
        if item.stream == REMARK:
            return b""
        kind = STDERR if item.stream == STDERR else STDOUT
        text = self._decoder.decode(kind, item.data)
        return _encode({"type": kind.wire, "data": text}) + b"\n" if text else b""

    def finish(self) -> bytes:
        """Return records for characters that were never finished."""
        rests = {kind.wire: self._decoder.flush(kind) for kind in OUTPUT}
        return b"".join(
            _encode({"type": name, "data": text}) + b"\n" for name, text in rests.items() if text
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

    def batch(self, items: list[Chunk | Gap]) -> bytes:
        """Return the events of a batch."""
        return b"".join(event for item in items for event in self._one(item))

    def _one(self, item: Chunk | Gap) -> Iterator[bytes]:
        self._offset = item.end
        if isinstance(item, Gap):
            yield self._event(
                {"type": "gap", "offset": item.start, "to": item.end, "reason": item.reason}
            )
        elif not self._streams or item.stream.wire in self._streams:
            for position, text, encoded in pieces(item.data):
                yield self._event(
                    {
                        "type": "output",
                        "stream": item.stream.wire,
                        "offset": item.offset + position,
                        "time": rfc3339_utc(item.time),
                        "data": text,
                        **({"encoding": "base64"} if encoded else {}),
                    }
                )

    def heartbeat(self) -> bytes:
        """Return an event that says: still here, nothing new."""
        return self._event({"type": "heartbeat", "offset": self._offset})

    def end(self) -> bytes:
        """Return the last event: how the process ended."""
        outcome = self._outcome()
        return self._event(
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
        return self._event(
            {
                "type": "end",
                "offset": self._offset,
                "status": "running",
                "reason": why,
            }
        )

    def _event(self, fields: dict[str, Any]) -> bytes:
        self._sequence += 1
        data = _encode({"seq": self._sequence, **fields})
        if not self._sse:
            return data + b"\n"
        head = f"id: {self._offset}\nevent: {fields['type']}\ndata: ".encode()
        return head + data + b"\n\n"
