"""A process's output as bytes, from an offset on, over lost connections and server restarts.

The events of a process carry the offset behind them, so whoever lost the connection asks for what
comes next: nothing twice, nothing missing.
"""

import base64
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from sandkeeper.client.connection import Reply, Server, segment
from sandkeeper.client.failures import Absence, ClientError, NoServer

__all__ = ["ProcessEnd", "ProcessFollower"]

RAW = "application/vnd.sandkeeper.events"
LINE_BYTES = 1 << 20

Write = Callable[[str, bytes, str], None]


CAUSES = {
    "timeout": "it was killed: its time (--timeout) was over",
    "oom": "it was killed: its memory was used up",
    "stopped": "it was stopped on request, by another client or the server's own end",
    "killed": "it was killed on request, by another client or the server's own end",
    "unknown": "how it ended nobody saw: its exit status is not known",
}
"""By `exitReason`; the others need no word."""


def _signal_name(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a process ended; `reason` is its `exitReason`."""

    code: int
    signal: int | None
    reason: str

    @property
    def status(self) -> int:
        """Return it as a shell has it: 128 and the number for a signal."""
        if self.signal:
            return 128 + self.signal
        return self.code if self.code >= 0 else 1

    def cause(self) -> str:
        """Say who or what ended it; empty for a program that came to its own end."""
        if self.reason == "signaled":
            return f"it was ended by {_signal_name(self.signal)}"
        return CAUSES.get(self.reason, "")


class EventLine(msgspec.Struct, rename="camel"):
    """What a line of `/process/{id}/events` may say."""

    type: str
    stream: str = ""
    offset: int = 0
    time: str = ""
    data: str = ""
    encoding: str = ""
    to: int = 0
    status: str = ""
    exit_code: int | None = None
    exit_signal: int | None = None
    reason: str = ""
    length: int = 0


_decode = msgspec.json.Decoder(EventLine).decode


def _event(line: bytes) -> EventLine:
    try:
        return _decode(line)
    except msgspec.MsgspecError as error:
        raise ClientError(f"the output has a line that is no event: {error}") from None


class _Cutter:
    """Cuts a stream into events; behind the line of an output its bytes follow as they are."""

    def __init__(self) -> None:
        self._rest = b""
        self._output = EventLine("output")

    def feed(self, block: bytes) -> Iterator[tuple[EventLine, bytes]]:
        """Give whole events, and of an output what is there of it, with where that stands."""
        data, at = self._rest + block if self._rest else block, 0
        while at < len(data):
            if self._output.length:
                piece = data[at : at + self._output.length]
                at += len(piece)
                yield self._output, piece
                self._output.length -= len(piece)
                self._output.offset += len(piece)
                continue
            end = data.find(b"\n", at)
            if end < 0:
                break
            event, at = _event(data[at:end]), end + 1
            if event.type == "output":
                self._output = event
            else:
                yield event, b""
        self._rest = data[at:]
        if len(self._rest) > LINE_BYTES:
            raise ClientError("the output has a line without an end")


def _events(answer: Reply) -> Iterator[tuple[EventLine, bytes]]:
    """Give events with their bytes, in whichever of its forms the server sends them."""
    if answer.header("Content-Type") == RAW:
        cutter = _Cutter()
        for block in answer.blocks():
            yield from cutter.feed(block)
        return
    for line in answer.lines():
        event = _event(line)
        coded = event.encoding == "base64"
        yield event, base64.b64decode(event.data) if coded else event.data.encode()


@dataclass
class ProcessFollower:
    """Follows one process.

    `write` gets a stream's name, bytes and time, `tell` what a person must know.

    `offset` is where it stands; a follower that is given one begins there. With `holds` a program
    that was started so waits for it.
    """

    server: Server
    identifier: str
    write: Write
    tell: Callable[[str], None]
    offset: int = 0
    live: bool = True
    holds: bool = False
    _missed: int = field(default=0, init=False)
    _gaps: int = field(default=0, init=False)

    def follow(self) -> ProcessEnd | None:
        """Follow to the end and return it; None for one that is not over when not `live`.

        Raises NoServer when nobody has answered for a minute, Refused for an unknown process.
        """
        try:
            return self._follow()
        finally:
            self._tell_missed()

    def _follow(self) -> ProcessEnd | None:
        absence = Absence(tell=self.tell)
        while True:
            try:
                return self._connection(absence)
            except ClientError as error:
                absence.wait(error)

    def _connection(self, absence: Absence) -> ProcessEnd | None:
        path = f"/process/{segment(self.identifier)}/events"
        query = {
            "cursor": self.offset,
            "follow": None if self.live else "false",
            "hold": "true" if self.holds else None,
        }
        headers = {"Accept": f"{RAW}, application/x-ndjson"}
        with self.server.open("GET", path, query=query, headers=headers) as answer:
            absence.heard()
            for event, data in _events(answer):
                if event.type != "end":
                    self._take(event, data)
                elif event.status != "running":
                    return ProcessEnd(event.exit_code or 0, event.exit_signal, event.reason)
                elif not self.live:
                    return None
        raise NoServer(f"{self.server.url}: the output breaks off")

    def _take(self, event: EventLine, data: bytes) -> None:
        if event.type == "output":
            self.write(event.stream, data, event.time)
            self.offset = event.offset + len(data)
        elif event.type == "gap":
            self._miss(max(0, event.to - event.offset), event.reason)
            self.offset = event.to

    def _miss(self, count: int, reason: str) -> None:
        """Tell the first of them at once; a program that is faster than its reader has many."""
        if not self._missed:
            self.tell(f"{count} bytes of output are not kept any more ({reason})")
        self._missed += count
        self._gaps += 1

    def _tell_missed(self) -> None:
        if self._gaps > 1:
            self.tell(f"{self._missed} bytes of output are missing, in {self._gaps} places")
