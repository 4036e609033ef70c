"""Waiting for lines of processes' output: one pass over a journal for all who wait.

A pass reads a journal once, from where its waiters begin, and looks for all their patterns. Who
begins elsewhere begins another pass, which joins the first when it has come as far. Looking is
done in one worker thread for all journals, a bounded piece at a time and in turn.

RE2 needs as many steps as a pattern's program is long, for each byte of a line, where its table of
states has no room: seconds for the largest. Large patterns, and those that took long, are looked
for in passes and a thread of their own, where they delay each other only.
"""

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from copy import copy
from dataclasses import dataclass
from time import monotonic, thread_time
from typing import Any, ClassVar
from weakref import WeakValueDictionary, finalize

from sandkeeper.errors import BadInput, Unavailable
from sandkeeper.journal.cursor import Abandoned, Chunk, Follow, Gap
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.matching import (
    PATTERN_BYTES,
    OpenLine,
    Question,
    Search,
    anything,
    excerpt,
    matcher,
    sized_matcher,
)
from sandkeeper.journal.segment import OUTPUT, STDERR, STDOUT, output_streams

__all__ = ["FoundLine", "LineBoard", "Pattern"]

SILENCE_SECONDS = 60.0
SMALL_BYTES = 256 << 10
MEMORY_MOST = 256 << 20
GROUP = 16
GROUP_BYTES = 1 << 20
PIECE_SECONDS = 0.01
AT_ONCE_STEPS = 256 << 10
"""So much is looked at by the event loop itself: bytes times sizes of programs, 2 ms at worst."""

LARGE = 128
"""Size of a program, from which on a pattern is slow by itself: 60 ms for a line, at worst."""

SLOW_SECONDS, SLOW_SECONDS_A_LINE = 0.02, 2e-6
_WHOLE_TEXT = re.compile(r"\\[AzQ]|\(\?[A-Za-z]*-")


@dataclass(frozen=True, slots=True)
class FoundLine:
    """A line that answers the question (`matching.excerpt`), and the offset behind it."""

    text: str
    end: int


class Pattern:
    """What lines must match and on which streams; `of` makes it, one for all who ask the same."""

    _known: ClassVar["WeakValueDictionary[object, Pattern]"] = WeakValueDictionary()
    _held = 0

    def __init__(self, question: Question) -> None:
        self.key = _key(question)
        self.matches, self.size, self.memory = _matcher(question)
        self.is_slow = self.size > LARGE
        self.streams = output_streams(question.stream)
        self.block_pattern = _block_pattern(question)
        """RE2 that matches in any block in which a line matches; None where there is none."""
        Pattern._held += self.memory
        finalize(self, Pattern._release, self.memory)

    @classmethod
    def of(cls, question: Question) -> "Pattern":
        """Return it; raises BadInput for a bad one, Unavailable when all hold MEMORY_MOST."""
        known = cls._known.get(_key(question))
        if known is None:
            if cls._held > MEMORY_MOST:
                raise Unavailable("too many patterns are waited for")
            known = cls._known[_key(question)] = cls(question)
        return known

    @classmethod
    def _release(cls, memory: int) -> None:
        cls._held -= memory


def _key(question: Question) -> tuple[object, ...]:
    return (question.stream, question.grep, question.literal, question.ignore_case)


def _matcher(question: Question) -> tuple[Search, int, int]:
    """Return a matcher, its size and what it may hold: little, unless the pattern is larger."""
    with suppress(BadInput):
        return *sized_matcher(question, SMALL_BYTES), SMALL_BYTES
    return *sized_matcher(question, PATTERN_BYTES), PATTERN_BYTES


class _Seeker:
    """A pattern in a pass, and who waits for it."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.waiting: list[asyncio.Future[FoundLine | None]] = []

    def tell(self, found: FoundLine | None) -> None:
        for waiting in self.waiting:
            if not waiting.done():
                waiting.set_result(found)
        self.waiting.clear()

    def fail(self, error: Exception) -> None:
        for waiting in self.waiting:
            if not waiting.done():
                waiting.set_exception(error)


class _Group:
    """A few seekers behind one pattern, with which most blocks are passed by at once."""

    def __init__(self) -> None:
        self.seekers: list[_Seeker] = []
        self._might: Search | None = None

    def add(self, seeker: _Seeker) -> None:
        self.seekers.append(seeker)
        self._might = None

    @property
    def is_full(self) -> bool:
        size = sum(seeker.pattern.size for seeker in self.seekers)
        return len(self.seekers) >= GROUP or size > LARGE

    def might_match(self, data: bytes) -> bool:
        if self._might is None:
            self._might = self._compiled()
        began = thread_time()
        might = self._might(data) is not None
        if thread_time() - began > SLOW_SECONDS:  # each by itself will tell whose fault it is
            self._might = anything
        return might

    def _compiled(self) -> Search:
        patterns = {seeker.pattern.block_pattern for seeker in self.seekers}
        if None not in patterns:
            joined = "|".join(f"(?:{pattern})" for pattern in patterns)
            try:
                return matcher(Question(grep=joined, literal=False), GROUP_BYTES)
            except BadInput:  # all are good, but together too large
                pass
        return anything


class _Pass:
    """One pass over a journal."""

    def __init__(self, offset: int, *, slow: bool = False) -> None:
        self.offset = offset
        self.slow = slow
        self.task: asyncio.Task[None] | None = None
        self.seekers: dict[object, _Seeker] = {}
        self.lines = {stream: OpenLine() for stream in OUTPUT}
        self._groups: list[_Group] = []

    def add(self, pattern: Pattern, waiting: "asyncio.Future[FoundLine | None]") -> None:
        seeker = self.seekers.get(pattern.key)
        if seeker is None:
            seeker = self.seekers[pattern.key] = _Seeker(pattern)
            self._place(seeker)
        seeker.waiting.append(waiting)

    def _place(self, seeker: _Seeker) -> None:
        if self.slow or not self._groups or self._groups[-1].is_full:
            self._groups.append(_Group())
        self._groups[-1].add(seeker)

    def prune(self) -> None:
        """Leave out those for whom nobody waits."""
        for key, seeker in list(self.seekers.items()):
            seeker.waiting = [one for one in seeker.waiting if not one.done()]
            if not seeker.waiting:
                del self.seekers[key]
        self._groups = [
            group
            for group in self._groups
            if any(self.seekers.get(one.pattern.key) is one for one in group.seekers)
        ]

    def end_if_idle(self) -> None:
        """End it when nobody waits any more; while a batch is looked at that is seen afterwards."""
        if self.offset >= 0:
            self.prune()
            if not self.seekers and self.task is not None:
                self.task.cancel()

    @property
    def border(self) -> tuple[object, ...]:
        """Where it stands: two passes with one border will see the same lines."""
        out, err = self.lines[STDOUT], self.lines[STDERR]
        return self.offset, out.held, out.is_cut, err.held, err.is_cut

    def join(self, other: "_Pass", *, only_slow: bool = False) -> None:
        """Hand waiters to another pass at the same border."""
        for key, seeker in list(self.seekers.items()):
            if seeker.pattern.is_slow or not only_slow:
                for waiting in seeker.waiting:
                    other.add(seeker.pattern, waiting)
                seeker.waiting = []
                del self.seekers[key]

    def steps(self, batch: list[Chunk | Gap]) -> int:
        """Return how many steps a look through a batch may take; a line is looked at as a whole."""
        size = sum(len(item.data) for item in batch if isinstance(item, Chunk))
        size += sum(len(line.held) for line in self.lines.values())
        return size * max(16, sum(seeker.pattern.size for seeker in self.seekers.values()))

    def look(self, batch: list[Chunk | Gap]) -> Iterator[tuple[_Seeker, FoundLine] | None]:
        """Look through a batch: yields what is found, and None now and then between."""
        for item in batch:
            if not isinstance(item, Gap) and (line := self.lines.get(item.stream)):
                yield from self._look(item, line)

    def _look(
        self, chunk: Chunk, open_line: OpenLine
    ) -> Iterator[tuple[_Seeker, FoundLine] | None]:
        text = open_line.held + chunk.data
        seekers = []
        for group in list(self._groups):
            if group.might_match(text):
                seekers += [
                    s for s in group.seekers if s.waiting and chunk.stream in s.pattern.streams
                ]
            yield None
        lines: list[tuple[bytes, int, int]] = []
        if seekers:
            behind = chunk.offset - len(open_line.held)
            for line, start, ends in open_line.lines(text):  # a prompt has no newline yet
                behind += len(line) + ends
                lines.append((line, start, behind))
        open_line.keep(text)
        for seeker in seekers:
            if found := _first(seeker.pattern, lines):
                yield seeker, found
            yield None


def _first(pattern: Pattern, lines: list[tuple[bytes, int, int]]) -> FoundLine | None:
    """Return the first line that matches; a pattern that took long is slow from now on."""
    began = thread_time()
    found = None
    for line, start, end in lines:
        if match := pattern.matches(line, start):
            found = FoundLine(excerpt(line, match), end)
            break
    if thread_time() - began > SLOW_SECONDS + SLOW_SECONDS_A_LINE * len(lines):
        pattern.is_slow = True
    return found


class LineBoard:
    """All passes over all journals."""

    def __init__(self) -> None:
        self._passes: dict[Journal, list[_Pass]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads: dict[bool, ThreadPoolExecutor] = {}

    async def first(self, journal: Journal, pattern: Pattern, offset: int) -> FoundLine | None:
        """Wait for the first line from `offset` on; None when the output ends without one.

        Raises Unavailable when the server stops. What stands in a line without an end counts.
        """
        waiting = asyncio.get_running_loop().create_future()
        try:
            self._pass_at(journal, offset, slow=pattern.is_slow).add(pattern, waiting)
            found: FoundLine | None = await waiting
            return found
        finally:
            waiting.cancel()
            for one in self._passes.get(journal, ()):
                one.end_if_idle()

    def _pass_at(self, journal: Journal, offset: int, *, slow: bool) -> _Pass:
        for one in self._passes.get(journal, ()):
            if one.border == _Pass(offset).border and one.slow == slow:
                return one
        return self._begin(journal, _Pass(offset, slow=slow))

    def _begin(self, journal: Journal, made: _Pass) -> _Pass:
        self._passes.setdefault(journal, []).append(made)
        made.task = task = asyncio.ensure_future(self._run(journal, made))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return made

    def _set_aside(self, journal: Journal, one: _Pass) -> None:
        """Have slow patterns, and who waits for them, go on in a pass of their own."""
        if one.slow or not any(seeker.pattern.is_slow for seeker in one.seekers.values()):
            return
        aside = _Pass(one.offset, slow=True)
        aside.lines = {stream: copy(lines) for stream, lines in one.lines.items()}
        one.join(aside, only_slow=True)
        self._begin(journal, aside)

    async def _run(self, journal: Journal, one: _Pass) -> None:
        error: Exception | None = None
        try:
            await self._read(journal, one)
        except (Abandoned, asyncio.CancelledError):
            error = Unavailable("the server is stopping")
        except Exception as caught:  # noqa: BLE001 - it is raised where the line is awaited
            error = caught
        finally:
            passes = self._passes[journal]
            passes.remove(one)
            if not passes:
                del self._passes[journal]
            for seeker in one.seekers.values():
                seeker.tell(None) if error is None else seeker.fail(error)

    async def _read(self, journal: Journal, one: _Pass) -> None:
        with closing(Follow(journal, one.offset, consumer="wait")) as follow:
            while one.seekers:
                batch = await follow.next(SILENCE_SECONDS)
                if batch is None:
                    return
                # Who comes while this is looked at comes too late for it.
                one.offset = -1
                await self._look(one, batch)
                one.offset = follow.offset
                one.prune()
                self._set_aside(journal, one)
                for other in self._passes[journal]:
                    is_same = other.slow == one.slow and other.border == one.border
                    if other is not one and is_same:
                        one.join(other)
                        return
                await asyncio.sleep(0)  # catching up with a flood must leave others their turn

    async def _look(self, one: _Pass, batch: list[Chunk | Gap]) -> None:
        looking = one.look(batch)
        if not one.slow and one.steps(batch) <= AT_ONCE_STEPS:
            for found in looking:
                if found is not None:
                    found[0].tell(found[1])
            return
        if one.slow not in self._threads:
            self._threads[one.slow] = ThreadPoolExecutor(1, "slow lines" if one.slow else "lines")
        thread = self._threads[one.slow]
        loop = asyncio.get_running_loop()
        more = True
        while more:
            more, found_now = await loop.run_in_executor(thread, _piece, looking)
            for count, (seeker, line) in enumerate(found_now):
                seeker.tell(line)
                if count % 16 == 15:
                    await asyncio.sleep(0)

    async def close(self) -> None:
        """End all waits."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)


def _piece(looking: Iterator[tuple[_Seeker, FoundLine] | None]) -> tuple[bool, list[Any]]:
    """Look for a while; returns whether there is more, and what was found."""
    found = []
    until = monotonic() + PIECE_SECONDS
    for one in looking:
        if one is not None:
            found.append(one)
        if monotonic() > until:
            return True, found
    return False, found


def _block_pattern(question: Question) -> str | None:
    """Write a pattern for blocks of lines.

    With `^` and `$` at every newline a pattern that matches a line matches its block too, unless
    it names the ends of the text or switches flags off.
    """
    import re2

    flags = "mi" if question.ignore_case else "m"
    if question.literal:
        return f"(?{flags}:{re2.escape(question.grep)})"
    if _WHOLE_TEXT.search(question.grep):
        return None
    return f"(?{flags}:{question.grep})"
