"""What changed below a directory since a cursor.

A recorder watches the directory, knows the names in it (watch.names), and keeps for each path that
was touched whether it had been there. A question first waits until everything the kernel has
noticed so far is recorded: what happened before the call is in the answer. It costs what the number
of changes costs, not the tree's size; only the first call for a directory reads the tree.
"""

import asyncio
import os
import secrets
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sandkeeper.linux.identity import Identity
from sandkeeper.numerals import natural
from sandkeeper.watch.audience import (
    CREATE,
    OVERFLOW,
    REMOVE,
    RENAME,
    RESCANNED,
    UNWATCHED,
    Entry,
)
from sandkeeper.watch.names import NameStore, NameTree, joined
from sandkeeper.watch.watcher import Hubs, Scope, Watcher

__all__ = ["ChangeLog", "Changes", "Difference", "TouchedPaths"]

MAX_PATHS = 100_000
MAX_RECORDERS = 8
IDLE_SECONDS = 1800.0
HISTORY = 64


@dataclass(slots=True)
class Difference:
    """Paths below the directory, each in one list, sorted; `cursor` is where the next call begins.

    `created` are those that are there and were not at the cursor, `deleted` those that were and are
    not, `changed` those that were and are, but are not, or may not be, what they were. `reset`
    means that changes before this cursor are not known: whoever asks must look for himself.
    """

    cursor: str
    reset: bool
    created: list[bytes] = field(default_factory=list)
    changed: list[bytes] = field(default_factory=list)
    deleted: list[bytes] = field(default_factory=list)


class _Past:
    """What is known of one path.

    Of each time between two cursors in which it was touched: the time's number and whether the path
    was there at its beginning. Of those in a row that say the same, the last one stands for all.
    """

    __slots__ = ("exists", "times")

    def __init__(self) -> None:
        self.times: list[tuple[int, bool]] = []
        self.exists = False

    def existed(self, number: int) -> bool:
        """Say whether it was there at a cursor, behind which it has been touched."""
        return self.times[bisect_left(self.times, number, key=_number)][1]


class ChangeLog:
    """Paths and what became of them, at most `limit` of them: the longest unchanged goes first.

    A cursor is the number of the time that begins with it; all is known that was touched in the
    time `floor` or later.
    """

    def __init__(self, limit: int = MAX_PATHS) -> None:
        self._limit = limit
        self._paths: OrderedDict[bytes, _Past] = OrderedDict()
        self._touched = False
        self._number = 0
        self.floor = 0

    def record(self, path: bytes, *, existed: bool, exists: bool) -> None:
        """Tell that a path was touched: whether it was there before, and whether it is now."""
        past = self._paths.pop(path, None) or _Past()
        self._paths[path] = past
        self._touched = True
        past.exists = exists
        times = past.times
        if times and times[-1][0] == self._number:
            return
        if times and times[-1][1] == existed:
            times.pop()
        times.append((self._number, existed))
        if len(times) > HISTORY:
            self.floor = max(self.floor, times.pop(0)[0] + 1)
        if len(self._paths) > self._limit:
            _, oldest = self._paths.popitem(last=False)
            self.floor = max(self.floor, oldest.times[-1][0] + 1)

    def cursor(self) -> int:
        """Return a number for now: what is touched later is what `since` tells of it."""
        if self._touched or self.floor > self._number:
            self._number += 1
            self._touched = False
        return self._number

    def forget(self) -> None:
        """Drop everything: no cursor given out so far is good any more."""
        self._paths.clear()
        self.floor = self._number + 1

    def since(self, number: int) -> Difference:
        """Sum up what happened after a cursor; what came and went in between is left out."""
        answer = Difference("", reset=not self.floor <= number <= self._number)
        if answer.reset:
            return answer
        for path, past in reversed(self._paths.items()):
            if past.times[-1][0] < number:
                break
            existed = past.existed(number)
            if existed and past.exists:
                answer.changed.append(path)
            elif past.exists:
                answer.created.append(path)
            elif existed:
                answer.deleted.append(path)
        for paths in (answer.created, answer.changed, answer.deleted):
            paths.sort()
        return answer


def _number(time: tuple[int, bool]) -> int:
    return time[0]


class TouchedPaths:
    """Follows what a watched tree tells, and keeps which paths were touched.

    The law: applied to a copy made at a cursor, what `since` answers makes it equal the tree.

    The tree may tell of a directory in a place where it is not yet, or no more: it reads the
    present, and its notices are of the past. Where no directory is known to be, nothing is taken;
    one that comes there in its turn is listed then.
    """

    def __init__(self, root: bytes, store: NameStore) -> None:
        self.log = ChangeLog()
        self._names = NameTree(store)
        self._base = len(root.rstrip(b"/")) + 1
        self._lost = False
        self.complete = True
        """Whether all directories could be watched."""

    def tell(self, how: str, directory: bytes, name: bytes) -> None:
        """Record one change; what an overflow lost cannot be told, so it is forgotten with all."""
        if how in {OVERFLOW, RESCANNED, UNWATCHED}:
            self._lose(how)
            return
        below = directory[self._base :]
        if len(directory) < self._base - 1 or not name:  # the root itself
            return
        if not self._names.has(below):
            return
        if how == CREATE:
            self._replace(below, name)
        elif how in {REMOVE, RENAME}:
            self._remove(below, name, empty=how == REMOVE)
        elif self._names.holds(below, name) is not False:
            self._touch(joined(below, name), existed=True, exists=True)

    def listed(self, directory: bytes, entries: Sequence[Entry], *, told: bool) -> None:
        """Compare what is in a directory with what was known to be."""
        below = directory[self._base :]
        names = [name for name, _ in entries]
        if told:
            if not self._names.may_have(below):
                return
            known = self._names.names(below) or ()
            for name in set(known).difference(names):
                self._remove(below, name, empty=False)
            for name in set(names).difference(known):
                self._touch(joined(below, name), existed=False, exists=True)
        self._names.list(below, names)

    def supplanted(self, directory: bytes, name: bytes) -> None:
        """Record that a name leads to something else, with all that was below it."""
        below = directory[self._base :]
        if self._names.has(below):
            self._replace(below, name, unless_known=True)

    def close(self) -> None:
        """Forget all names."""
        self._names.clear()

    def _replace(self, directory: bytes, name: bytes, *, unless_known: bool = False) -> None:
        """Record what has a name now; `unless_known`: whether it was there where nobody knows."""
        top, held = joined(directory, name), self._names.holds(directory, name)
        self._touch(top, existed=unless_known if held is None else held, exists=True)
        for path in self._names.remove(directory, name):
            if path != top:
                self._gone(path)
        self._names.add(directory, name)

    def _remove(self, directory: bytes, name: bytes, *, empty: bool) -> None:
        for path in self._names.remove(directory, name):
            if path is not None or not empty:
                self._gone(path)

    def _gone(self, path: bytes | None) -> None:
        """Record what is no more; of a directory whose names are not known that is not all."""
        if path is None:
            self.log.forget()
        else:
            self._touch(path, existed=True, exists=False)

    def _touch(self, path: bytes, *, existed: bool, exists: bool) -> None:
        if not self._lost:
            self.log.record(path, existed=existed, exists=exists)

    def _lose(self, how: str) -> None:
        self.log.forget()
        self._lost = how == OVERFLOW
        self.complete = self.complete and how != UNWATCHED
        if self._lost:
            self._names.clear()


class _Recorder(TouchedPaths):
    """A watcher, and the record of what it tells."""

    def __init__(
        self, scope: Scope, identity: Identity | None, hubs: Hubs, store: NameStore
    ) -> None:
        super().__init__(os.fsencode(scope.root), store)
        self.token = secrets.token_hex(8)
        self.used = 0.0
        self.watcher = Watcher(scope, self, hubs.of(identity), identity)

    def flush(self) -> None:
        """Nothing to do: whoever asks, asks behind all that has been told."""

    def end(self) -> None:
        """The next question finds the watcher ended; what was known serves nobody any more."""
        self.close()

    async def since(self, number: int) -> Difference | None:
        """Answer, with all that happened before the call; None when the watch has ended."""
        answers: list[Difference] = []

        def ask() -> None:
            answer = self.log.since(number if self.complete else -1)
            answer.cursor = f"{self.token}.{self.log.cursor()}"
            answers.append(answer)

        return answers[0] if await self.watcher.settled(ask) else None


class Changes:
    """Keeps a recorder for each directory that is asked about, the last MAX_RECORDERS of them."""

    def __init__(self, identity: Callable[[], Identity | None], hubs: Hubs) -> None:
        self._identity = identity
        self._hubs = hubs
        self._store = NameStore()
        self._recorders: OrderedDict[Scope, _Recorder] = OrderedDict()
        self._lock = asyncio.Lock()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def recorders(self) -> int:
        """How many directories are recorded."""
        return len(self._recorders)

    async def since(self, scope: Scope, cursor: str) -> Difference:
        """Return what changed since `cursor`; an unknown one (or none) is answered by a reset.

        Raises what `Watcher.start` does.
        """
        recorder = await self._recorder(scope)
        token, _, number = cursor.partition(".")
        known = natural(number) if token == recorder.token else None
        answer = await recorder.since(-1 if known is None else known)
        if answer is not None:
            return answer
        self._recorders.pop(scope, None)
        return await self.since(scope, cursor)

    async def _recorder(self, scope: Scope) -> _Recorder:
        async with self._lock:  # two first calls for one directory share one recorder
            recorder = self._recorders.get(scope)
            if recorder is None or recorder.watcher.ended:
                recorder = _Recorder(scope, self._identity(), self._hubs, self._store)
                await recorder.watcher.start()
            self._recorders[scope] = recorder
            self._recorders.move_to_end(scope)
            recorder.used = asyncio.get_running_loop().time()
            while len(self._recorders) > MAX_RECORDERS:
                self._retire(next(iter(self._recorders)))
            self._plan_sweep()
            return recorder

    def _plan_sweep(self) -> None:
        if self._sweeper is None and self._recorders:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(IDLE_SECONDS / 10, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        oldest_kept = asyncio.get_running_loop().time() - IDLE_SECONDS
        for scope, recorder in list(self._recorders.items()):
            if recorder.used < oldest_kept:
                self._retire(scope)
        self._plan_sweep()

    def _retire(self, scope: Scope) -> None:
        task = asyncio.ensure_future(self._recorders.pop(scope).watcher.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End all."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for scope in list(self._recorders):
            self._retire(scope)
        await asyncio.gather(*self._closing)
