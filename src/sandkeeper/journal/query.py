"""Questions to a log, answered on the server in bounded memory, block by block."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from sandkeeper.errors import BadInput
from sandkeeper.journal.cursor import Chunk, Gap, Reader
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.places import (
    KIND,
    clean_place,
    gaps_before,
    newlines_before,
    place_of_last,
)
from sandkeeper.journal.segment import NOTICE, STDOUT, Stream, output_streams
from sandkeeper.journal.splitting import LineSplitter
from sandkeeper.linux.clocks import rfc3339_utc

__all__ = ["LineQuery", "Question", "ask", "matcher", "next_block", "sized_matcher"]

BLOCK_LEAST, BLOCK_MOST = 4 << 10, 128 << 10
ANSWER_BYTES = 64 << 10
"""About so many bytes come of one step: short lines grow much as records, and a client that does
not read holds one answer in memory."""

PATTERN_BYTES = 2 << 20
"""What one pattern may hold. RE2 compiles under the interpreter's lock, 20 to 40 ms for a MiB."""

LINE_BYTES = 64 << 10
TAIL_LINES = 10_000
TAIL_BYTES = 8 << 20
_encode = msgspec.json.encode
_threads = ThreadPoolExecutor(2, "questions")
"""A pattern may need seconds for a line; nobody but others who ask waits for that."""


@dataclass(frozen=True, slots=True)
class Question:
    """Which lines are wanted; 0 or empty means no condition.

    `since` and `until` are times (µs), `first_offset` and `last_offset` journal offsets, `start`
    and `end` line numbers from 1, `grep` an RE2 pattern; at most `limit` lines are given, from the
    front (`head`) or the back (`tail`).
    """

    stream: str = ""
    since: int = 0
    until: int = 0
    first_offset: int = 0
    last_offset: int = 0
    start: int = 0
    end: int = 0
    grep: str = ""
    literal: bool = True
    ignore_case: bool = False
    head: int = 0
    tail: int = 0
    limit: int = 10_000

    @property
    def is_plain(self) -> bool:
        """Whether every line from the start on is wanted."""
        return not (self.grep or self.until or self.last_offset or self.end)


async def ask(journal: Journal, question: Question) -> "LineQuery":
    """Begin a query; raises BadInput for a pattern RE2 refuses."""
    return await asyncio.get_running_loop().run_in_executor(_threads, LineQuery, journal, question)


async def next_block(query: "LineQuery") -> bytes | None:
    """Return what `step` does, made in a thread of the questions' own."""
    return await asyncio.get_running_loop().run_in_executor(_threads, query.step)


class LineQuery:
    """Runs one question; each `step` reads one block and belongs on a worker thread.

    Lines are numbered from the first kept byte of the chosen streams, in the order in which they
    end. One longer than 64 KiB comes in parts, all but the last marked `continued`; it has the
    number of the moment at which its first part is told. What stands before the place where the
    answer begins is counted, not looked at. Raises BadInput for a pattern RE2 refuses.
    """

    def __init__(self, journal: Journal, question: Question) -> None:
        self._question = question
        self._journal = journal
        self._reader = Reader(journal)
        chosen = output_streams(question.stream)
        self._streams = (*chosen, NOTICE) if STDOUT in chosen else chosen
        self._matches = matcher(question)
        self._end = journal.tail
        self._offset = 0
        self._number = 0
        self._given = 0
        self._limit = question.head or question.limit
        self._open: dict[Stream, _OpenLine] = {}
        self._tail: deque[_Line] = deque(maxlen=min(question.tail, TAIL_LINES) or None)
        self._tail_bytes = 0
        self._cut = False
        self._steps = self._answer()

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()

    def step(self) -> bytes | None:
        """Return records of the next block (possibly none), None after the last."""
        return next(self._steps, None)

    def _answer(self) -> Iterator[bytes]:
        start = self._start()
        yield b"".join(_gap_record(gap) for gap in gaps_before(self._journal, start))
        self._number = newlines_before(self._journal, self._reader, self._streams, start)
        self._offset = start
        block = BLOCK_LEAST
        while self._offset < self._end and not self._is_full:
            items = self._reader.read(self._offset, min(block, self._end - self._offset))
            if not items:
                break
            self._offset = items[-1].end
            answer = b"".join(self._records(items))
            wanted = block // 2 if len(answer) > ANSWER_BYTES else block * 2
            block = max(BLOCK_LEAST, min(BLOCK_MOST, wanted))
            yield answer
        if self._is_full:
            self._cut = not self._question.head
        yield from self._rest()

    def _start(self) -> int:
        """Return an offset before which there is no line of the answer, and none is open."""
        question, journal, reader = self._question, self._journal, self._reader
        start = max(journal.first, min(question.first_offset, self._end))
        if question.since:
            start = max(start, min(reader.offset_at(question.since), self._end))
        if question.tail and question.is_plain:
            lines, size = min(question.tail, TAIL_LINES), TAIL_BYTES + LINE_BYTES
            last = place_of_last(journal, reader, self._streams, lines, size, self._end)
            start = max(start, last)
        return clean_place(journal, reader, self._streams, start) if start else 0

    @property
    def _is_full(self) -> bool:
        return self._given >= self._limit

    def _records(self, items: list[Chunk | Gap]) -> Iterator[bytes]:
        for item in items:
            if isinstance(item, Gap):
                yield _gap_record(item)
            elif item.stream in self._streams:
                for line in self._lines(item):
                    if self._is_full:
                        return
                    yield from self._told(line)

    def _lines(self, chunk: Chunk) -> "Iterator[_Line]":
        kind = KIND[chunk.stream]
        line = self._open.setdefault(kind, _OpenLine())
        pending = len(line.splitter.pending)
        if not pending and not line.number:
            line.time = chunk.time
        offset = chunk.offset - pending
        for text, ends in line.splitter.feed(chunk.data):
            number = line.number or self._count()
            yield _Line(number, kind, offset, line.time, text, not ends)
            offset += len(text) + ends
            line.number = 0 if ends else number
            line.time = chunk.time
        line.behind = chunk.end

    def _count(self) -> int:
        self._number += 1
        return self._number

    def _told(self, line: "_Line") -> Iterator[bytes]:
        if not self._wanted(line):
            return
        if not self._question.tail:
            self._given += 1
            yield line.record()
            return
        if len(self._tail) == self._tail.maxlen:
            self._tail_bytes -= len(self._tail[0].text)
        self._tail.append(line)
        self._tail_bytes += len(line.text)
        while self._tail_bytes > TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft().text)
            self._cut = True

    def _wanted(self, line: "_Line") -> bool:
        question = self._question
        if question.start and line.number < question.start:
            return False
        if question.end and line.number > question.end:
            return False
        if line.offset < question.first_offset or line.time < question.since:
            return False
        if question.last_offset and line.offset >= question.last_offset:
            return False
        if question.until and line.time > question.until:
            return False
        return self._matches(line.text)

    def _rest(self) -> Iterator[bytes]:
        """Yield the lines that never ended, the tail, and the end."""
        for kind, line in sorted(self._open.items()):
            if (text := line.splitter.pending) and not self._is_full:
                number = line.number or self._count()
                yield b"".join(
                    self._told(_Line(number, kind, line.behind - len(text), line.time, text))
                )
        given = self._given + len(self._tail)
        while self._tail:
            yield b"".join(_up_to(self._tail, ANSWER_BYTES))
        end: dict[str, Any] = {"type": "end", "lines": given, "offset": self._offset}
        yield _encode({**end, "truncated": self._cut}) + b"\n"


class _Line(NamedTuple):
    number: int
    kind: Stream
    offset: int
    time: int
    text: bytes
    continued: bool = False

    def record(self) -> bytes:
        fields: dict[str, Any] = {
            "type": "line",
            "line": self.number,
            "stream": self.kind.wire,
            "offset": self.offset,
            "time": rfc3339_utc(self.time),
            "text": self.text.decode("utf-8", "replace"),
        }
        if self.continued:
            fields["continued"] = True
        return _encode(fields) + b"\n"


class _OpenLine:
    """The line of one kind that has begun: `number` once a part was told, `behind` its end."""

    def __init__(self) -> None:
        self.splitter = LineSplitter(LINE_BYTES)
        self.number = 0
        self.time = 0
        self.behind = 0


def _up_to(lines: deque[_Line], size: int) -> Iterator[bytes]:
    while lines and size > 0:
        record = lines.popleft().record()
        size -= len(record)
        yield record


def _gap_record(gap: Gap) -> bytes:
    fields = {"type": "gap", "offset": gap.start, "to": gap.end, "reason": gap.reason}
    return _encode(fields) + b"\n"


def matcher(question: Question, memory: int = PATTERN_BYTES) -> Callable[[bytes], bool]:
    """Return what says whether a line answers `grep`; raises BadInput for a bad pattern.

    It holds at most `memory` bytes; one that would need more to be compiled is a bad pattern.
    """
    return sized_matcher(question, memory)[0]


def sized_matcher(question: Question, memory: int) -> tuple[Callable[[bytes], bool], int]:
    """Return a `matcher` and the size of its program: its worst is size times length, 7 ns each."""
    if not question.grep:
        return lambda _line: True, 1
    if question.literal and not question.ignore_case:
        needle = question.grep.encode()
        return lambda line: needle in line, 1
    import re2  # imported for the few requests that need it

    options = re2.Options()
    options.case_sensitive = not question.ignore_case
    options.literal = question.literal
    options.log_errors = False
    options.never_capture = True  # groups make RE2 copy places at each step: 90 s for one line
    options.max_mem = memory
    try:
        pattern = re2.compile(question.grep.encode(), options)
    except re2.error as error:
        raise BadInput(f"invalid pattern: {_text(error)}") from None
    return lambda line: pattern.search(line) is not None, pattern.programsize


def _text(error: Exception) -> str:
    words = error.args[0] if error.args else ""
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
