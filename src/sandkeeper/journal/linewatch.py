"""Waiting for lines of processes' output: one pass over a journal for all who wait.

A pass reads a journal once, from where its waiters begin, and looks for all their patterns. Who
begins elsewhere begins another pass, which joins the first when it has come as far. Looking is
done in one worker thread for all journals, a bounded piece at a time and in turn.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, ClassVar
from weakref import WeakValueDictionary, finalize

from sandkeeper.errors import BadInput, Unavailable
from sandkeeper.journal.cursor import Abandoned, Chunk, Follow, Gap
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.query import PATTERN_BYTES, Question, matcher
from sandkeeper.journal.segment import OUTPUT, STDERR, STDOUT, output_streams
from sandkeeper.journal.splitting import LineSplitter

__all__ = ["FoundLine", "LineBoard", "Pattern"]

LINE_BYTES = 64 << 10
SILENCE_SECONDS = 60.0
SMALL_BYTES = 256 << 10
MEMORY_MOST = 256 << 20
GROUP = 16
GROUP_BYTES = 1 << 20
PIECE_SECONDS = 0.01
AT_ONCE_BYTES = 16 << 10
_WHOLE_TEXT = re.compile(r"\\[AzQ]|\(\?[A-Za-z]*-")


@dataclass(frozen=True, slots=True)
class FoundLine:
    """A line that answers the question, and the offset behind it."""

    text: str
    end: int


class Pattern:
    """What lines must match and on which streams; `of` makes it, one for all who ask the same."""

    _known: ClassVar["WeakValueDictionary[object, Pattern]"] = WeakValueDictionary()
    _held = 0

    def __init__(self, question: Question) -> None:
        self.key = _key(question)
        self.matches, self.memory = _matcher(question)
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


def _matcher(question: Question) -> tuple[Callable[[bytes], bool], int]:
    """Return a matcher and what it may hold: little, unless the pattern alone is larger."""
    with suppress(BadInput):
        return matcher(question, SMALL_BYTES), SMALL_BYTES
    return matcher(question), PATTERN_BYTES


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
        self._might: Callable[[bytes], bool] | None = None

    def add(self, seeker: _Seeker) -> None:
        self.seekers.append(seeker)
        self._might = None

    def might_match(self, data: bytes) -> bool:
        if self._might is None:
            self._might = self._compiled()
        return self._might(data)

    def _compiled(self) -> Callable[[bytes], bool]:
        patterns = {seeker.pattern.block_pattern for seeker in self.seekers}
        if None not in patterns:
            joined = "|".join(f"(?:{pattern})" for pattern in patterns)
            try:
                return matcher(Question(grep=joined, literal=False), GROUP_BYTES)
            except BadInput:  # all are good, but together too large
                pass
        return lambda _data: True


class _Pass:
    """One pass over a journal."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.task: asyncio.Task[None] | None = None
        self.seekers: dict[object, _Seeker] = {}
        self.lines = {stream: LineSplitter(LINE_BYTES) for stream in OUTPUT}
        self._groups: list[_Group] = []

    def add(self, pattern: Pattern, waiting: "asyncio.Future[FoundLine | None]") -> None:
        seeker = self.seekers.get(pattern.key)
        if seeker is None:
            seeker = self.seekers[pattern.key] = _Seeker(pattern)
            self._place(seeker)
        seeker.waiting.append(waiting)

    def _place(self, seeker: _Seeker) -> None:
        if not self._groups or len(self._groups[-1].seekers) >= GROUP:
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
    def border(self) -> tuple[int, bytes, bytes]:
        """Where it stands: two passes with one border will see the same lines."""
        return self.offset, self.lines[STDOUT].pending, self.lines[STDERR].pending

    def join(self, other: "_Pass") -> None:
        """Hand all waiters to another pass at the same border."""
        for seeker in self.seekers.values():
            for waiting in seeker.waiting:
                other.add(seeker.pattern, waiting)
        self.seekers = {}

    def look(self, batch: list[Chunk | Gap]) -> Iterator[tuple[_Seeker, FoundLine] | None]:
        """Look through a batch: yields what is found, and None now and then between."""
        for item in batch:
            if not isinstance(item, Gap) and (splitter := self.lines.get(item.stream)):
                yield from self._look(item, splitter)

    def _look(
        self, chunk: Chunk, splitter: LineSplitter
    ) -> Iterator[tuple[_Seeker, FoundLine] | None]:
        data = splitter.pending + chunk.data
        seekers = []
        for group in list(self._groups):
            if group.might_match(data):
                seekers += [
                    s for s in group.seekers if s.waiting and chunk.stream in s.pattern.streams
                ]
            yield None
        if not seekers:
            splitter.skip(data)
            return
        behind = chunk.offset - len(splitter.pending)
        for line, ends in splitter.feed(chunk.data):
            behind += len(line) + ends
            yield from _found(seekers, line, behind)
            yield None
        if splitter.pending:  # a prompt has no newline yet
            yield from _found(seekers, splitter.pending, chunk.end)


def _found(seekers: list[_Seeker], line: bytes, end: int) -> Iterator[tuple[_Seeker, FoundLine]]:
    for seeker in seekers[:]:
        if seeker.pattern.matches(line):
            seekers.remove(seeker)
            yield seeker, FoundLine(line.decode("utf-8", "replace"), end)


class LineBoard:
    """All passes over all journals."""

    def __init__(self) -> None:
        self._passes: dict[Journal, list[_Pass]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread: ThreadPoolExecutor | None = None

    async def first(self, journal: Journal, pattern: Pattern, offset: int) -> FoundLine | None:
        """Wait for the first line from `offset` on; None when the output ends without one.

        Raises Unavailable when the server stops. What stands in a line without an end counts.
        """
        waiting = asyncio.get_running_loop().create_future()
        try:
            self._pass_at(journal, offset).add(pattern, waiting)
            found: FoundLine | None = await waiting
            return found
        finally:
            waiting.cancel()
            for one in self._passes.get(journal, ()):
                one.end_if_idle()

    def _pass_at(self, journal: Journal, offset: int) -> _Pass:
        passes = self._passes.setdefault(journal, [])
        for one in passes:
            if one.border == (offset, b"", b""):
                return one
        made = _Pass(offset)
        passes.append(made)
        made.task = task = asyncio.ensure_future(self._run(journal, made))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return made

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
                for other in self._passes[journal]:
                    if other is not one and other.border == one.border:
                        one.join(other)
                        return
                await asyncio.sleep(0)  # catching up with a flood must leave others their turn

    async def _look(self, one: _Pass, batch: list[Chunk | Gap]) -> None:
        looking = one.look(batch)
        size = sum(len(item.data) for item in batch if isinstance(item, Chunk))
        if size * len(one.seekers) <= AT_ONCE_BYTES:
            for found in looking:
                if found is not None:
                    found[0].tell(found[1])
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "lines")
        loop = asyncio.get_running_loop()
        more = True
        while more:
            more, found_now = await loop.run_in_executor(self._thread, _piece, looking)
            for count, (seeker, line) in enumerate(found_now):
                seeker.tell(line)
                if count % 16 == 15:
                    await asyncio.sleep(0)

    async def close(self) -> None:
        """End all waits."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)


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
