"""What an execution said, as clients read it: a stream of events, or one answer.

A long event (an image of many megabytes) goes through piece by piece: nobody holds it whole.
"""

from collections.abc import Iterator

import msgspec

from sandkeeper.interpreter.execution import BROKEN, Piece, Pieces
from sandkeeper.journal.cursor import Abandoned, Chunk, Gap
from sandkeeper.jsonlines import json_line, sse_fields
from sandkeeper.linebreaks import in_one_line
from sandkeeper.linux.clocks import rfc3339_utc

__all__ = ["EventLines", "Gathered"]

OUTPUT = frozenset({"stdout", "stderr"})


class EventLines:
    """Events as NDJSON or SSE: those of the journal, each with its `cursor` and `time`."""

    def __init__(self, cursor: int, *, sse: bool) -> None:
        self._cursor = cursor
        self._sse = sse
        self._held = b""
        self._pieces = Pieces()

    def batch(self, items: list[Chunk | Gap]) -> bytes:
        """Return the text of a batch; raises Abandoned where an event breaks off in the middle."""
        return b"".join(map(self._piece, self._pieces.feed(items)))

    def finish(self) -> bytes:
        """Return what was held back."""
        return b"".join(map(self._piece, self._pieces.rest()))

    def first(self, execution: str, context: str) -> bytes:
        """Return the event that names the execution."""
        return self._whole("execution", {"id": execution, "context": context})

    def detached(self, why: str) -> bytes:
        """Return the last event of a stream that ends before the execution: come again from here.

        Nothing in the middle of another event, whose end is then missing anyway.
        """
        return b"" if self._held else self._whole("detached", {"reason": why})

    def heartbeat(self) -> bytes:
        """Return an event that says: here, nothing new; nothing in the middle of another."""
        return b"" if self._held else self._whole("heartbeat", {})

    def _whole(self, kind: str, fields: dict[str, object]) -> bytes:
        line = json_line({"type": kind, **fields, "cursor": self._cursor})
        return self._framed(kind, line)

    def _framed(self, kind: str, line: bytes) -> bytes:
        if not self._sse:
            return line
        return b"%bid: %d\n\n" % (sse_fields(kind, line), self._cursor)

    def _piece(self, piece: Piece) -> bytes:
        if piece.kind == BROKEN:
            raise Abandoned
        if piece.kind in OUTPUT:
            self._cursor = piece.cursor
            text = piece.data.decode("utf-8", "replace")
            fields = {"type": piece.kind, "text": text, "time": rfc3339_utc(piece.time)}
            return self._framed(piece.kind, json_line({**fields, "cursor": piece.cursor}))
        made = sse_fields(piece.kind, b"") if piece.begins and self._sse else b""
        # The last byte of an object closes it, and more belongs before that.
        data, self._held = self._held + piece.data, b""
        made += data[:-1]
        if not piece.ends:
            self._held = data[-1:]
            return made
        self._cursor = piece.cursor
        if piece.time:
            made += b',"time":"%b"' % rfc3339_utc(piece.time).encode()
        made += b',"cursor":%d}\n' % piece.cursor
        return made + (b"id: %d\n\n" % piece.cursor if self._sse else b"")


class Gathered:
    """One answer out of an execution's events; blocks in, blocks of JSON out.

    `stdout` and `stderr` are texts, `results` what it displayed and its result in their order,
    `error` the last one, `lost` the bytes that are not kept.
    """

    def __init__(self) -> None:
        self._pieces = Pieces()
        self._texts: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._results: list[bytes] = []
        self._error: list[bytes] = []
        self._lost = 0
        self._end = b""
        self._parts: list[bytes] = []
        self.size = 0

    def feed(self, items: list[Chunk | Gap]) -> None:
        """Take a batch; `size` is what all that were taken have made, in bytes."""
        for item in items:
            if isinstance(item, Gap):
                self._lost += item.end - item.start
        for piece in self._pieces.feed(items):
            self._take(piece)

    def _take(self, piece: Piece) -> None:
        if piece.kind in OUTPUT:
            encoded = msgspec.json.encode(piece.data.decode("utf-8", "replace"))
            self._texts[piece.kind].append(in_one_line(encoded)[1:-1])
            self.size += len(encoded)
            return
        self.size += len(piece.data)
        if piece.begins:
            self._parts = []
        self._parts.append(piece.data)
        if not piece.ends:
            return
        parts, self._parts = self._parts, []
        if piece.kind in {"display", "update", "result"}:
            self._results += [b","] if self._results else []
            self._results += parts
        elif piece.kind == "error":
            self._error = parts
        elif piece.kind == "clear":
            self._texts = {"stdout": [], "stderr": []}
            self._results = []
        elif piece.kind == "end":
            self._end = b"".join(parts)

    def blocks(self, record: bytes) -> Iterator[bytes]:
        """Yield the answer: the fields of `record`, a JSON object, then what was said."""
        for piece in self._pieces.rest():
            self._take(piece)
        yield record[:-1]
        for name, parts in self._texts.items():
            yield b',"%b":"' % name.encode()
            yield from _let_go(parts)
            yield b'"'
        yield b',"results":['
        yield from _let_go(self._results)
        yield b'],"error":'
        yield from self._error or [b"null"]
        yield b',"lostBytes":%d' % self._lost
        if self._end:
            seconds = msgspec.json.decode(self._end).get("seconds")
            yield b',"seconds":%b' % msgspec.json.encode(seconds)
        yield b"}"


def _let_go(parts: list[bytes]) -> Iterator[bytes]:
    """Yield parts and keep none: what is made of them is as large as they are together."""
    parts.reverse()
    while parts:
        yield parts.pop()
