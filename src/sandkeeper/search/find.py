"""Finding files by pattern or by fuzzy query: walks in a few worker threads of their own.

A walk is cancelled by its caller's going: the threads look at a flag between directories, so a
client that leaves costs at most one directory more.
"""

import asyncio
import heapq
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from sandkeeper.errors import BadInput, Obstacle, Task, Unprocessable, reason_of
from sandkeeper.files.crew import Crew
from sandkeeper.files.globs import Matcher, any_of, everything
from sandkeeper.files.walk import Run, runs
from sandkeeper.files.work import kind_of
from sandkeeper.linux.identity import Identity
from sandkeeper.pieces import in_order
from sandkeeper.search.fuzzy import MAX_QUERY, FuzzyPattern

__all__ = ["EXCLUDED", "FileSearch", "Names", "RankedPath", "TreeFilter", "Workers"]

T = TypeVar("T")

EXCLUDED = frozenset(
    [
        "node_modules",
        "vendor",
        ".git",
        "dist",
        "build",
        "target",
        "__pycache__",
        ".venv",
        ".next",
        "coverage",
    ]
)
Names = tuple[bytes, list[bytes]]
"""What stands before the names to make them paths below the root, and names in one directory."""

BATCH = 16_384
MATCHED_AT_ONCE = 1024
WORKERS = 4
MAX_FUZZY = 50_000


class TreeFilter(msgspec.Struct, frozen=True):
    """Which part of a tree a search looks at.

    `patterns` are globs on base names (files.globs) of which a file must match one, if there are
    any; `excluded` are names of directories; neither that nor `hidden` applies to the root.
    Raises BadInput for patterns that are too long.
    """

    root: str
    patterns: tuple[str, ...] = ()
    excluded: frozenset[str] = EXCLUDED
    hidden: bool = False

    def __post_init__(self) -> None:
        any_of(self.patterns)

    def entries(self, stopped: Callable[[], bool]) -> Iterator[tuple[bytes, bytes, bool]]:
        """Yield paths, names and whether they are directories; raises OSError as `runs` does."""
        for prefix, names, is_directory in self.runs(stopped):
            for name in names:
                yield prefix + name, name, is_directory

    def runs(self, stopped: Callable[[], bool]) -> Iterator[Run]:
        """Walk the tree, many names at once; raises OSError when the root cannot be read."""
        excluded = frozenset(map(os.fsencode, self.excluded))
        return runs(
            os.fsencode(self.root),
            enter=lambda path: path.rpartition(b"/")[2] not in excluded,
            hidden=self.hidden,
            check=stopped,
        )


class RankedPath(NamedTuple):
    """A ranked path below the root, readable as UTF-8, and whether it is a directory."""

    path: str
    is_directory: bool
    score: int


class Workers:
    """A few threads that act for the workload's user; what is running stops with its caller."""

    def __init__(self, count: int = WORKERS) -> None:
        self._crew = Crew("search", count, count - 1)
        self._running: set[threading.Event] = set()

    @contextmanager
    def stoppable(self) -> Iterator[Callable[[], bool]]:
        """Give work a flag to look at; it is set on leaving, and when the workers close."""
        flag = threading.Event()
        self._running.add(flag)
        try:
            yield flag.is_set
        finally:
            flag.set()
            self._running.discard(flag)

    async def run(self, identity: Identity | None, work: Callable[[], T]) -> T:
        """Run `work` in a thread under `identity`."""

        def act() -> T:
            with identity.acting() if identity else nullcontext():
                return work()

        return await self._crew.run(kind_of(work), act)

    def close(self) -> None:
        """Stop what runs, within one directory of each; waits for no thread."""
        for flag in list(self._running):
            flag.set()
        self._crew.close()


class FileSearch:
    """Finds by pattern and by fuzzy query."""

    def __init__(self, workers: Workers, identity: Callable[[], Identity | None]) -> None:
        self._workers = workers
        self._identity = identity

    async def find(
        self, tree: TreeFilter, *, directories: bool, limit: int
    ) -> AsyncGenerator[list[Names], None]:
        """Yield batches of paths below the root in walk order, `limit` in all (0: every one).

        Directories include the root as `.`, and patterns do not apply to them. Raises
        Unprocessable when the root cannot be read.
        """
        with self._workers.stoppable() as stopped:
            matches = _Matches(tree, directories, limit, stopped)
            ahead = asyncio.ensure_future(self._walking(matches.batch))
            try:
                while (batch := await ahead) is not None:
                    # The next is looked for while this one goes to the client.
                    ahead = asyncio.ensure_future(self._walking(matches.batch))
                    yield batch
            finally:
                ahead.cancel()

    async def fuzzy(
        self, tree: TreeFilter, query: str, limit: int, *, otherwise: str = ""
    ) -> list[RankedPath]:
        """Return the best matches of `query` among the paths below the root, best first.

        Of equal scores the shorter path comes first, then the one met first. A `limit` of 0
        returns all, at most MAX_FUZZY. A root that cannot be read has no matches, or those of the
        root `otherwise`. Raises BadInput on a query of more than MAX_QUERY characters.
        """
        if len(query) > MAX_QUERY:
            raise BadInput(f"query is longer than {MAX_QUERY} characters")
        with self._workers.stoppable() as stopped:
            work = _Ranking(query, limit or MAX_FUZZY)
            try:
                await self._walking(lambda: work.consume(tree, stopped))
            except Unprocessable:
                if not otherwise:
                    return []
                return await self.fuzzy(replace(tree, root=otherwise), query, limit)
            return work.best_first()

    async def _walking(self, work: Callable[[], T]) -> T:
        try:
            return await self._workers.run(self._identity(), work)
        except OSError as error:
            where = os.fsdecode(error.filename or "")
            reason = Obstacle("open", where, error.errno or 0, reason_of(error))
            raise Unprocessable(reason, task=Task.WALK_DIRECTORY) from None
        except ValueError:  # a NUL byte in the path
            raise Unprocessable("open: invalid argument", task=Task.WALK_DIRECTORY) from None


class _Matches:
    """The matches of one search, a batch at a time."""

    def __init__(
        self, tree: TreeFilter, directories: bool, limit: int, stopped: Callable[[], bool]
    ) -> None:
        self._found = _directories(tree, stopped) if directories else _files(tree, stopped)
        self._limit = limit
        self._given = 0
        self._rest: Names | None = None

    def batch(self) -> list[Names] | None:
        """Return the next, None behind the last; raises OSError when the root cannot be read."""
        wanted = min(BATCH, self._limit - self._given) if self._limit else BATCH
        batch: list[Names] = []
        count = 0
        while count < wanted and (some := self._rest or next(self._found, None)) is not None:
            prefix, names = some
            room = wanted - count
            self._rest = (prefix, names[room:]) if len(names) > room else None
            names = names[:room] if self._rest else names
            if names:
                batch.append((prefix, names))
                count += len(names)
        self._given += count
        return batch or None


def _directories(tree: TreeFilter, stopped: Callable[[], bool]) -> Iterator[Names]:
    found = tree.runs(stopped)
    first = next(found, None)  # reads the root before it is named
    yield b"", [b"."]
    for prefix, names, is_directory in chain([first] if first else [], found):
        if is_directory:
            yield prefix, names


def _files(tree: TreeFilter, stopped: Callable[[], bool]) -> Iterator[Names]:
    match = None if everything(tree.patterns) else any_of(tree.patterns)
    for prefix, names, is_directory in tree.runs(stopped):
        if is_directory:
            continue
        if match is None:
            yield prefix, names
            continue
        for start in range(0, len(names), MATCHED_AT_ONCE):  # a folder may hold a million
            if stopped():
                return
            yield prefix, [one for one in names[start : start + MATCHED_AT_ONCE] if match(one)]


class _Ranking:
    """Keeps the best of all candidates in a heap, worst first."""

    def __init__(self, query: str, limit: int) -> None:
        self._pattern = FuzzyPattern(query)
        self._limit = limit
        self._heap: list[tuple[int, int, int, str, bool]] = []

    def consume(self, tree: TreeFilter, stopped: Callable[[], bool]) -> None:
        """Score every candidate of the tree."""
        match = any_of(tree.patterns)
        for order, (path, name, is_dir) in enumerate(tree.entries(stopped)):
            if _passes(match, name, is_dir):
                self._consider(_text(path), is_dir, order)
                if order & 1023 == 0 and stopped():
                    return

    def _consider(self, text: str, is_dir: bool, order: int) -> None:
        pattern, heap = self._pattern, self._heap
        folded = pattern.fold(text)
        firsts = pattern.firsts(folded)
        if firsts is None:
            return
        full = len(heap) >= self._limit
        if full and (pattern.best_for(folded), -len(text)) < heap[0][:2]:
            return
        score = pattern.score_at(text, folded, firsts)
        ranked = (score, -len(text), -order, text, is_dir)
        if full:
            heapq.heappushpop(heap, ranked)
        else:
            heapq.heappush(heap, ranked)

    def best_first(self) -> list[RankedPath]:
        """Return what was kept."""
        ordered = in_order(self._heap)
        return [RankedPath(text, is_dir, score) for score, _, _, text, is_dir in reversed(ordered)]


def _passes(match: Matcher | None, name: bytes, is_dir: bool) -> bool:
    """Say whether patterns, which are about files, let an entry through."""
    return match is None or (not is_dir and match(name))


def _text(path: bytes) -> str:
    return path.decode("utf-8", "replace")
