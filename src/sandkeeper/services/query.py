"""Questions to a log, answered on the server in bounded memory, block by block."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from sandkeeper.core.cursor import Chunk, Gap, Reader
from sandkeeper.core.journal import Journal
from sandkeeper.core.segment import NOTICE, REMARK, STDERR, STDOUT
from sandkeeper.errors import BadInput
from sandkeeper.services.events import rfc3339

__all__ = ["LineQuery", "Question", "matcher"]

BLOCK_LEAST, BLOCK_MOST = 4 << 10, 128 << 10
ANSWER_BYTES = 64 << 10
"""About so many bytes come of one step: short lines grow much as records, and a client that does
not read holds one answer in memory."""

LINE_BYTES = 64 << 10
TAIL_LINES = 10_000
TAIL_BYTES = 8 << 20
_STREAMS = {"stdout": (STDOUT, NOTICE), "stderr": (STDERR,), "": (STDOUT, STDERR, NOTICE)}
_NAMES = {STDOUT: "stdout", STDERR: "stderr", NOTICE: "stdout"}
_encode = msgspec.json.encode


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


class LineQuery:
    """Runs one question; each `step` reads one block and belongs on a worker thread.

    Lines are numbered from the first kept byte of the chosen streams. A line longer than 64 KiB
    comes in parts. Raises BadInput for a pattern RE2 refuses.
    """

    def __init__(self, journal: Journal, question: Question) -> None:
        self._question = question
        self._journal = journal
        self._reader = Reader(journal)
        self._streams = _STREAMS[question.stream]
        self._matches = matcher(question)
        self._end = journal.tail
        self._offset = 0
        self._number = 0
        self._given = 0
        self._limit = question.head or question.limit
        self._rests: dict[int, tuple[bytes, int, int]] = {}
        self._tail: deque[bytes] = deque(maxlen=min(question.tail, TAIL_LINES) or None)
        self._tail_bytes = 0
        self._cut = False
        self._block = BLOCK_LEAST
        self._done = False

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()

    def step(self) -> bytes | None:
        """Return records of the next block (possibly none), None after the last."""
        if self._done:
            return None
        items = self._reader.read(self._offset, min(self._block, max(1, self._end - self._offset)))
        if not items or self._offset >= self._end:
            return self._finish()
        self._offset = items[-1].end
        out: list[bytes] = []
        for item in items:
            if isinstance(item, Gap):
                gap = {"type": "gap", "offset": item.start, "to": item.end, "reason": item.reason}
                out.append(_encode(gap) + b"\n")
            elif item.stream in self._streams and item.stream != REMARK:
                self._lines(item, out)
            if self._given >= self._limit:
                self._cut = not self._question.head
                return b"".join(out) + (self._finish() or b"")
        answer = b"".join(out)
        wanted = self._block // 2 if len(answer) > ANSWER_BYTES else self._block * 2
        self._block = max(BLOCK_LEAST, min(BLOCK_MOST, wanted))
        return answer

    def _lines(self, chunk: Chunk, out: list[bytes]) -> None:
        kind = STDERR if chunk.stream == STDERR else STDOUT
        rest, offset, time = self._rests.pop(kind, (b"", chunk.offset, chunk.time))
        *whole, last = (rest + chunk.data).split(b"\n")
        consumed = -len(rest)
        for line in whole:
            self._line(kind, offset, time, line, out)
            if self._given >= self._limit:
                return
            consumed += len(line) + 1
            offset, time = chunk.offset + consumed, chunk.time
        while len(last) > LINE_BYTES:
            self._line(kind, offset, time, last[:LINE_BYTES], out)
            last = last[LINE_BYTES:]
        if last:
            self._rests[kind] = (last, offset, time)

    def _line(self, kind: int, offset: int, time: int, line: bytes, out: list[bytes]) -> None:
        self._number += 1
        if not self._wanted(offset, time, line):
            return
        record = _encode(
            {
                "type": "line",
                "line": self._number,
                "stream": _NAMES[kind],
                "offset": offset,
                "time": rfc3339(time),
                "text": line.decode("utf-8", "replace"),
            }
        )
        if not self._question.tail:
            self._given += 1
            out.append(record + b"\n")
            return
        if len(self._tail) == self._tail.maxlen:
            self._tail_bytes -= len(self._tail[0])
        self._tail.append(record)
        self._tail_bytes += len(record)
        while self._tail_bytes > TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft())
            self._cut = True

    def _wanted(self, offset: int, time: int, line: bytes) -> bool:
        question = self._question
        if question.start and self._number < question.start:
            return False
        if question.end and self._number > question.end:
            return False
        if offset < question.first_offset or time < question.since:
            return False
        if question.last_offset and offset >= question.last_offset:
            return False
        if question.until and time > question.until:
            return False
        return self._matches(line)

    def _finish(self) -> bytes | None:
        self._done = True
        out: list[bytes] = []
        for kind, (line, offset, time) in sorted(self._rests.items()):
            if self._given < self._limit:
                self._line(kind, offset, time, line, out)
        out += [record + b"\n" for record in self._tail]
        given = self._given + len(self._tail)
        end: dict[str, Any] = {"type": "end", "lines": given, "offset": self._offset}
        return b"".join(out) + _encode({**end, "truncated": self._cut}) + b"\n"


def matcher(question: Question, memory: int = 0) -> Callable[[bytes], bool]:
    """Return what says whether a line answers `grep`; raises BadInput for a bad pattern.

    It holds at most `memory` bytes, if that is given (RE2 then takes more time instead).
    """
    if not question.grep:
        return lambda _line: True
    if question.literal and not question.ignore_case:
        needle = question.grep.encode()
        return lambda line: needle in line
    import re2  # imported for the few requests that need it

    options = re2.Options()
    options.case_sensitive = not question.ignore_case
    options.literal = question.literal
    options.log_errors = False
    if memory:
        options.max_mem = memory
    try:
        pattern = re2.compile(question.grep.encode(), options)
    except re2.error as error:
        raise BadInput(f"invalid pattern: {_text(error)}") from None
    return lambda line: pattern.search(line) is not None


def _text(error: Exception) -> str:
    words = error.args[0] if error.args else ""
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
