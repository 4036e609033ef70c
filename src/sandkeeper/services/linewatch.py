"""Waiting for a line of a process's output: a cursor on its journal, in bounded memory."""

import asyncio
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

from sandkeeper.core.cursor import Abandoned, Chunk, Follow, Gap
from sandkeeper.core.journal import Journal
from sandkeeper.core.lines import LineSplitter
from sandkeeper.core.segment import STDERR, STDOUT
from sandkeeper.errors import BadInput, Unavailable
from sandkeeper.services.query import Question, matcher

__all__ = ["FoundLine", "LineWatch"]

LINE_BYTES = 64 << 10
SILENCE_SECONDS = 60.0
_WHOLE_TEXT = re.compile(r"\\[AzQ]|\(\?[A-Za-z]*-")


@dataclass(frozen=True, slots=True)
class FoundLine:
    """A line that answers the question, and the offset behind it."""

    text: str
    end: int


class LineWatch:
    """Looks for the first line that answers `question.grep`; raises BadInput for a bad pattern.

    A flood costs one search of each block: only a block with a match is taken apart into lines.
    """

    def __init__(self, question: Question) -> None:
        self._matches = matcher(question)
        self._might_match = _block_matcher(question)
        self._streams = {"stdout": (STDOUT,), "stderr": (STDERR,)}.get(
            question.stream, (STDOUT, STDERR)
        )

    async def first(self, journal: Journal, offset: int) -> FoundLine | None:
        """Wait for the line from `offset` on; None when the output ends without it.

        Raises Unavailable when the server stops. What stands in a line without an end counts.
        """
        lines = {stream: LineSplitter(LINE_BYTES) for stream in self._streams}
        with closing(Follow(journal, offset, consumer="wait")) as follow:
            while (batch := await _next(follow)) is not None:
                for item in batch:
                    found = None if isinstance(item, Gap) else self._look(item, lines)
                    if found is not None:
                        return found
                await asyncio.sleep(0)  # catching up with a flood must leave others their turn
        return None

    def _look(self, chunk: Chunk, lines: dict[int, LineSplitter]) -> FoundLine | None:
        splitter = lines.get(chunk.stream)
        if splitter is None:
            return None
        data = splitter.pending + chunk.data
        if not self._might_match(data):
            splitter.skip(data)
            return None
        behind = chunk.offset - len(splitter.pending)
        for line, ends in splitter.feed(chunk.data):
            behind += len(line) + ends
            if self._matches(line):
                return _found(line, behind)
        # A prompt has no newline yet.
        if splitter.pending and self._matches(splitter.pending):
            return _found(splitter.pending, chunk.end)
        return None


def _block_matcher(question: Question) -> Callable[[bytes], bool]:
    """Return what says whether some line of a block may match; True where it cannot tell.

    With `^` and `$` at every newline a pattern that matches a line matches its block too, unless
    it names the ends of the text or switches flags off.
    """
    if question.literal:
        return matcher(question)
    if _WHOLE_TEXT.search(question.grep):
        return lambda _data: True
    try:
        return matcher(replace(question, grep=f"(?m:{question.grep})"))
    except BadInput:
        return lambda _data: True


async def _next(follow: Follow) -> list[Chunk | Gap] | None:
    try:
        return await follow.next(SILENCE_SECONDS)
    except Abandoned:
        raise Unavailable("the server is stopping") from None


def _found(line: bytes, end: int) -> FoundLine:
    return FoundLine(line.decode("utf-8", "replace"), end)
