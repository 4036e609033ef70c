"""Questions to a log, answered on the server in bounded memory, block by block."""

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from sandkeeper.journal.cursor import Chunk, Gap, Reader
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.matching import LINE_BYTES, PartFilter, Question, Search, matcher
from sandkeeper.journal.places import (
    KIND,
    clean_place,
    gaps_before,
    newlines_before,
    place_of_last,
)
from sandkeeper.journal.segment import NOTICE, STDOUT, Stream, output_streams
from sandkeeper.journal.splitting import LineSplitter
from sandkeeper.jsonlines import json_line
from sandkeeper.linux.clocks import rfc3339_utc

__all__ = ["LineQuery", "ask", "next_block"]

BLOCK_LEAST, BLOCK_MOST = 4 << 10, 128 << 10
ANSWER_BYTES = 64 << 10
"""About so many bytes come of one step: short lines grow much as records, and a client that does
not read holds one answer in memory."""

TAIL_LINES = 10_000
TAIL_BYTES = 8 << 20
_threads = ThreadPoolExecutor(2, "questions")
"""A pattern may need seconds for a line; nobody but others who ask waits for that."""


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
    number of the moment at which its first part is met, and counts once. With `grep` those parts
    come in which a match lies, or a piece of it. What stands before the place where the
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
        self._unfinished: set[int] = set()
        """The numbers of lines of which parts have been told and others may follow."""
        self._tail: deque[_Line] = deque()
        self._tail_lines: Counter[int] = Counter()
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
        while self._offset < self._end and not (self._is_full or self._is_past):
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
        if question.tail and (question.is_plain or self._is_bounded):
            lines, size = min(question.tail, TAIL_LINES), TAIL_BYTES + LINE_BYTES
            end = min(self._end, question.last_offset or self._end)
            last = place_of_last(journal, reader, self._streams, lines, size, end)
            start = max(start, last)
        return clean_place(journal, reader, self._streams, start) if start else 0

    @property
    def _is_full(self) -> bool:
        return self._given >= self._limit and not self._unfinished

    @property
    def _is_bounded(self) -> bool:
        """Whether every line is wanted that begins between two offsets."""
        question = self._question
        return bool(question.last_offset) and not (question.grep or question.until or question.end)

    @property
    def _is_past(self) -> bool:
        """Whether no line can follow that begins before the offset where the answer ends."""
        last = self._question.last_offset
        if not self._is_bounded or self._offset < last:
            return False
        begun = (line for line in self._open.values() if line.number or line.splitter.pending)
        return not any(
            line.number or line.behind - len(line.splitter.pending) < last for line in begun
        )

    def _records(self, items: list[Chunk | Gap]) -> Iterator[bytes]:
        for item in items:
            if isinstance(item, Gap):
                yield _gap_record(item)
            elif item.stream in self._streams:
                for line in self._lines(item):
                    yield from self._told(line)
                    if self._is_full:
                        return

    def _lines(self, chunk: Chunk) -> "Iterator[_Line]":
        kind = KIND[chunk.stream]
        line = self._open.get(kind)
        if line is None:
            line = self._open[kind] = _OpenLine(self._matches)
        pending = len(line.splitter.pending)
        if not pending and not line.number:
            line.time = chunk.time
        offset = chunk.offset - pending
        for text, ends in line.splitter.feed(chunk.data):
            number = line.number or self._count()
            part = _Line(number, kind, offset, line.time, text, not ends)
            yield from self._answers(line, part)
            if ends:
                self._unfinished.discard(number)
            offset += len(text) + ends
            line.number = 0 if ends else number
            line.time = chunk.time
        line.behind = chunk.end

    def _answers(self, line: "_OpenLine", part: "_Line") -> "Iterator[_Line]":
        """Yield the part, or those of its line that are known to be wanted now."""
        if self._question.grep and (line.number or part.continued):
            yield from filter(self._wanted, line.parts.feed(part, part.text, part.continued))
        elif self._wanted(part) and self._matches(part.text):
            yield part

    def _count(self) -> int:
        self._number += 1
        return self._number

    def _told(self, line: "_Line") -> Iterator[bytes]:
        if self._question.tail:
            self._keep(line)
        elif line.number in self._unfinished or self._given < self._limit:
            self._given += line.number not in self._unfinished
            if line.continued:
                self._unfinished.add(line.number)
            yield line.record()

    def _keep(self, line: "_Line") -> None:
        """Keep it for the tail, and let go of the first."""
        most = min(self._question.tail, TAIL_LINES)
        self._tail.append(line)
        self._tail_lines[line.number] += 1
        self._tail_bytes += len(line.text)
        while len(self._tail_lines) > most or self._tail_bytes > TAIL_BYTES:
            self._cut = self._cut or len(self._tail_lines) <= most
            gone = self._tail.popleft()
            self._tail_bytes -= len(gone.text)
            self._tail_lines[gone.number] -= 1
            if not self._tail_lines[gone.number]:
                del self._tail_lines[gone.number]

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
        return not (question.until and line.time > question.until)

    def _last(self, kind: Stream, line: "_OpenLine") -> "Iterator[_Line]":
        if text := line.splitter.pending:
            number = line.number or self._count()
            part = _Line(number, kind, line.behind - len(text), line.time, text)
            yield from self._answers(line, part)
        else:
            yield from filter(self._wanted, line.parts.finish())

    def _rest(self) -> Iterator[bytes]:
        """Yield the lines that never ended, the tail, and the end."""
        for kind, line in sorted(self._open.items()):
            parts = list(self._last(kind, line))
            yield b"".join(record for part in parts for record in self._told(part))
        given = self._given + len(self._tail_lines)
        while self._tail:
            yield b"".join(_up_to(self._tail, ANSWER_BYTES))
        end: dict[str, Any] = {"type": "end", "lines": given, "offset": self._offset}
        yield json_line({**end, "truncated": self._cut})


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
        return json_line(fields)


class _OpenLine:
    """The line of one kind that has begun: `number` once a part was told, `behind` its end."""

    def __init__(self, search: Search) -> None:
        self.splitter = LineSplitter(LINE_BYTES)
        self.parts: PartFilter[_Line] = PartFilter(search)
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
    return json_line(fields)
