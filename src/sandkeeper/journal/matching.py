"""Whether lines answer a question, whatever their length and however they come in.

A line of up to `LINE_BYTES` is looked at whole. Of a longer one so much is held that a match of up
to `LINE_BYTES` is found wherever in the line it lies; `^` and `$` mean the line's own ends there,
never those of a piece. Only a match that is longer itself may be missed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from sandkeeper.errors import BadInput
from sandkeeper.journal.lines import character_start

__all__ = [
    "EXCERPT_CHARACTERS",
    "LINE_BYTES",
    "PATTERN_BYTES",
    "Match",
    "OpenLine",
    "PartFilter",
    "Question",
    "Search",
    "anything",
    "excerpt",
    "matcher",
    "sized_matcher",
]

LINE_BYTES = 64 << 10
EXCERPT_CHARACTERS = 8192
PATTERN_BYTES = 2 << 20
"""What one pattern may hold. RE2 compiles under the interpreter's lock, 20 to 40 ms for a MiB."""


MATCHES_MOST = 1000
"""So many matches in one part are passed over to find one that reaches into the next; with more of
them the next is told as well."""

Part = TypeVar("Part")


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


class Search(Protocol):
    """Says where the first match lies in `text` between two places; the rest is its context."""

    def __call__(self, text: bytes, start: int = 0, end: int | None = None) -> "Match | None":
        """Return it, if there is one."""


class Match(NamedTuple):
    """Where a match begins and ends."""

    start: int
    end: int


def matcher(question: Question, memory: int = PATTERN_BYTES) -> Search:
    """Return what finds the `grep` of a question in a line; raises BadInput for a bad pattern.

    It holds at most `memory` bytes; one that would need more to be compiled is a bad pattern.
    """
    return sized_matcher(question, memory)[0]


def sized_matcher(question: Question, memory: int) -> tuple[Search, int]:
    """Return a `matcher` and the size of its program: its worst is size times length, 7 ns each."""
    if not question.grep:
        return anything, 1
    if question.literal and not question.ignore_case:
        needle = question.grep.encode()

        def find(text: bytes, start: int = 0, end: int | None = None) -> Match | None:
            found = text.find(needle, start, end)
            return None if found < 0 else Match(found, found + len(needle))

        return find, 1
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
        raise BadInput(f"invalid pattern: {wrong_with(error)}") from None

    def search(text: bytes, start: int = 0, end: int | None = None) -> Match | None:
        found = pattern.search(text, start, end)
        return None if found is None else Match(*found.span())

    return search, pattern.programsize


def anything(text: bytes, start: int = 0, end: int | None = None) -> Match | None:
    """Find the empty match that is in every text."""
    return Match(start, start)


def wrong_with(error: Exception) -> str:
    """Return what RE2 says is wrong with a pattern."""
    words = error.args[0] if error.args else ""
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)


class OpenLine:
    """What is held of a stream's open line: all of it, or its last `LINE_BYTES`."""

    def __init__(self) -> None:
        self.held = b""
        self.is_cut = False

    def lines(self, text: bytes) -> Iterator[tuple[bytes, int, bool]]:
        """Yield the lines of `held` and what follows it, `text` in all.

        As (line, where to begin to look, whether the line ends there).
        """
        *whole, rest = text.split(b"\n")
        start = character_start(text, 1) if self.is_cut else 0
        for line in whole:
            yield line, start, True
            start = 0
        if rest:
            yield rest, start, False

    def keep(self, text: bytes) -> None:
        """Hold what is needed of `held` and what follows it, `text` in all."""
        rest = text[text.rfind(b"\n") + 1 :]
        self.is_cut = len(rest) > LINE_BYTES or (self.is_cut and len(rest) == len(text))
        self.held = rest[character_start(rest, len(rest) - LINE_BYTES) :] if self.is_cut else rest


def excerpt(line: bytes, match: Match) -> str:
    """Return a line as text; of a longer one `EXCERPT_CHARACTERS`, with the match in the middle.

    Of a match that is longer itself the beginning is shown.
    """
    before, matched, behind = (
        part.decode("utf-8", "replace")
        for part in (line[: match.start], line[match.start : match.end], line[match.end :])
    )
    room = max(0, EXCERPT_CHARACTERS - len(matched))
    left = min(len(before), max(room // 2, room - len(behind)))
    return (before[len(before) - left :] + matched + behind)[:EXCERPT_CHARACTERS]


class PartFilter(Generic[Part]):
    """Of the parts of a line too long to be held, those in which a match lies, or a piece of it.

    A part is looked at with the one before and a character of the next, so it waits for that.
    """

    def __init__(self, search: Search) -> None:
        self._search = search
        self._parts: list[tuple[Part, bytes]] = []
        self._is_cut = False
        self._told = False

    def feed(self, part: Part, text: bytes, continued: bool) -> Iterator[Part]:
        """Take the next part; yields what is known to be wanted by now."""
        if self._parts:
            yield from self._looked(behind=text[:4])
        self._parts.append((part, text))
        if not continued:
            yield from self.finish()

    def finish(self) -> Iterator[Part]:
        """Yield what is left at the end of the line, and be ready for another."""
        if self._parts:
            yield from self._looked(behind=b"")
        self._parts, self._is_cut, self._told = [], False, False

    def _looked(self, behind: bytes) -> Iterator[Part]:
        """Look at the last part, of which the next begins with `behind`; keep nothing else."""
        before = self._parts[0][1] if len(self._parts) > 1 else b""
        part, text = self._parts[-1]
        window = before + text + behind
        start = character_start(window, 1) if self._is_cut else 0
        end = len(before) + len(text)
        found = self._search(window, start, end)
        tries = MATCHES_MOST if before else 0
        while tries and found is not None and found.end <= len(before):
            found = self._search(window, found.start + 1, end)  # was told with the part before
            tries -= 1
        if found is not None:
            if found.start < len(before) and not self._told:
                yield self._parts[0][0]
            yield part
        self._told = found is not None
        self._is_cut = self._is_cut or bool(before)
        self._parts = [(part, text)]
