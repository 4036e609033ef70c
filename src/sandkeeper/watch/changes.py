"""What changed below a directory since a cursor.

A recorder watches the directory and keeps, for each path that changed, what became of it. A
question first waits until everything the kernel has noticed so far is recorded: what happened
before the call is in the answer. It costs what the number of changes costs, not the tree's size;
only the first call for a directory reads the tree.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from sandkeeper.linux.identity import Identity
from sandkeeper.numerals import natural
from sandkeeper.watch.tree import (
    CHMOD,
    CREATE,
    OVERFLOW,
    REMOVE,
    RENAME,
    UNWATCHED,
    WRITE,
)
from sandkeeper.watch.watcher import Hubs, Scope, Watcher

__all__ = ["Answer", "ChangeLog", "Changes"]

MAX_PATHS = 100_000
MAX_RECORDERS = 8
IDLE_SECONDS = 1800.0
HISTORY = 8

_CREATED, _CHANGED, _DELETED = "created", "changed", "deleted"
_KINDS = {
    CREATE: _CREATED,
    WRITE: _CHANGED,
    CHMOD: _CHANGED,
    REMOVE: _DELETED,
    RENAME: _DELETED,
}


@dataclass(slots=True)
class Answer:
    """Paths below the directory, each in one list, sorted; `cursor` is where the next call begins.

    `reset` means that changes before this cursor are not known: whoever asks must look for himself.
    """

    cursor: str
    reset: bool
    created: list[bytes] = field(default_factory=list)
    changed: list[bytes] = field(default_factory=list)
    deleted: list[bytes] = field(default_factory=list)


class ChangeLog:
    """Paths and what became of them, at most `limit` of them: the longest unchanged goes first.

    A number counts all changes; what stands at a number or later is known down to `floor`.
    """

    def __init__(self, limit: int = MAX_PATHS) -> None:
        self._limit = limit
        self._paths: OrderedDict[bytes, list[tuple[int, str]]] = OrderedDict()
        self._vague: dict[bytes, int] = {}
        self.number = 0
        self.floor = 0

    def record(self, path: bytes, kind: str) -> None:
        """Add a change; of several of one kind in a row only the last is kept."""
        self.number += 1
        history = self._paths.pop(path, None) or []
        if history and history[-1][1] == kind:
            history.pop()
        elif len(history) >= HISTORY:
            self._vague[path] = history.pop(1)[0]
        history.append((self.number, kind))
        self._paths[path] = history
        if len(self._paths) > self._limit:
            gone, oldest = self._paths.popitem(last=False)
            self._vague.pop(gone, None)
            self.floor = oldest[-1][0]

    def forget(self) -> None:
        """Drop everything: no cursor given out so far is good any more."""
        self._paths.clear()
        self._vague.clear()
        self.number += 1
        self.floor = self.number

    def is_vague(self, path: bytes, number: int) -> bool:
        """Say whether changes between `number` and now were dropped: too many of one path.

        Whether it existed then is unknown, so it is told as changed or deleted, never left out.
        """
        return self._paths[path][0][0] <= number < self._vague.get(path, 0)

    def since(self, number: int) -> Answer:
        """Sum up what happened after `number`; what came and went in between is left out."""
        answer = Answer("", reset=not self.floor <= number <= self.number)
        if answer.reset:
            return answer
        for path, history in reversed(self._paths.items()):
            if history[-1][0] <= number:
                break
            kinds = [kind for at, kind in history if at > number]
            existed = kinds[0] != _CREATED or self.is_vague(path, number)
            exists = kinds[-1] != _DELETED
            if existed and exists:
                answer.changed.append(path)
            elif exists:
                answer.created.append(path)
            elif existed:
                answer.deleted.append(path)
        for paths in (answer.created, answer.changed, answer.deleted):
            paths.sort()
        return answer


class _Recorder:
    """A watcher whose changes go into a log."""

    def __init__(self, scope: Scope, identity: Identity | None, hubs: Hubs) -> None:
        self.token = secrets.token_hex(8)
        self.used = 0.0
        self._log = ChangeLog()
        self._base = len(scope.root.rstrip("/").encode("utf-8", "surrogateescape")) + 1
        self._deaf = False
        self._complete = True
        self._answer = Answer("", reset=True)
        self.watcher = Watcher(scope, self, hubs.of(identity), identity)

    def tell(self, how: str, directory: bytes, name: bytes) -> None:
        """Record one change; what an overflow lost cannot be told, so it is forgotten with all."""
        if how in _KINDS:
            path = (directory.rstrip(b"/") + b"/" + name)[self._base :]
            if path and not self._deaf:
                self._log.record(path, _KINDS[how])
            return
        self._log.forget()
        self._deaf = how == OVERFLOW
        self._complete = self._complete and how != UNWATCHED

    def flush(self) -> None:
        """Nothing to do: whoever asks, asks behind all that has been told."""

    def end(self) -> None:
        """Nothing to do: the next question finds the watcher ended."""

    async def since(self, number: int) -> Answer | None:
        """Answer, with all that happened before the call; None when the watch has ended."""
        answers: list[Answer] = []

        def ask() -> None:
            answer = self._log.since(number if self._complete else -1)
            answer.cursor = f"{self.token}.{self._log.number}"
            answers.append(answer)

        return answers[0] if await self.watcher.settled(ask) else None


class Changes:
    """Keeps a recorder for each directory that is asked about, the last MAX_RECORDERS of them."""

    def __init__(self, identity: Callable[[], Identity | None], hubs: Hubs) -> None:
        self._identity = identity
        self._hubs = hubs
        self._recorders: OrderedDict[Scope, _Recorder] = OrderedDict()
        self._lock = asyncio.Lock()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def recorders(self) -> int:
        """How many directories are recorded."""
        return len(self._recorders)

    async def since(self, scope: Scope, cursor: str) -> Answer:
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
                recorder = _Recorder(scope, self._identity(), self._hubs)
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
