"""Live watches: what is told of a scope is kept once, whoever reads it.

A reader is a number: the block that it takes next. One that does not read costs nothing but that;
when what it has not read is not kept any more, it is told OVERFLOW, then a CREATE for everything
that is there, a block at a time as it reads, then RESCANNED, and goes on with what was told since.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from sandkeeper.errors import Internal
from sandkeeper.files.work import Cancel, FileWork
from sandkeeper.journal.cursor import Abandoned
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths import useros as os
from sandkeeper.watch.audience import (
    CREATE,
    OVERFLOW,
    RESCANNED,
    Change,
    Entry,
    entries_of,
    is_ours,
)
from sandkeeper.watch.watcher import Hubs, Scope, Watcher

__all__ = ["Block", "Change", "Ring", "Watch", "Watches"]

BLOCK_CHANGES = 256
RING_BYTES, POOL_BYTES = 16 << 20, 64 << 20
CHANGE_BYTES = 200
FRESH_CHANGES = 65_536
SCOPES_MOST = 512


class Block(list[Change]):
    """Changes that go to a reader together; `encoded` is for the wire to keep its form of them."""

    __slots__ = ("encoded",)

    def __init__(self) -> None:
        super().__init__()
        self.encoded: bytes | None = None


class Pool:
    """What all rings may hold together; the one that holds the most pays."""

    def __init__(self) -> None:
        self._rings: set[Ring] = set()
        self.held = 0

    def add(self, ring: "Ring") -> None:
        """Count a ring in."""
        self._rings.add(ring)

    def remove(self, ring: "Ring") -> None:
        """Count a ring out, with all it holds."""
        self._rings.discard(ring)
        ring.cut()

    def shrink(self) -> None:
        """Make room."""
        while self.held > POOL_BYTES:
            max(self._rings, key=lambda ring: ring.held).drop()


class Ring:
    """The last changes of a scope, as a listener takes them from its thread to the loop's."""

    def __init__(self, pool: Pool) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._blocks: deque[Block] = deque()
        self._waiting: set[asyncio.Future[None]] = set()
        self._fresh: deque[list[Change] | None] = deque()
        self._given = 0
        self._got = 0
        self._told: list[Change] = []
        self._deaf = False
        self._asked = False
        self._taken = 0
        self.first = 0
        """The number of the oldest block that is kept."""
        self.held = 0
        self.ended = False
        pool.add(self)

    # In the watcher's thread

    def tell(self, how: str, directory: bytes, name: bytes) -> None:
        """Take one change; a repetition of the one before says nothing new."""
        if how == OVERFLOW:  # readers look for themselves: what is told until then they will see
            self._deaf = True
        elif how == RESCANNED:
            self._deaf = False
            self._told = []
            self._fresh.append(None)
            self.flush()
        elif not self._deaf:
            change = Change(how, directory, name)
            if not self._told or self._told[-1] != change:
                self._told.append(change)
            if len(self._told) >= BLOCK_CHANGES:
                self.flush()

    def listed(self, directory: bytes, entries: Sequence[Entry], *, told: bool) -> None:
        """Take what is in a directory that appeared: as created."""
        if told:
            for name, _ in entries:
                self.tell(CREATE, directory, name)

    def supplanted(self, directory: bytes, name: bytes) -> None:
        """Nothing to do: whoever reads is told by changes."""

    def flush(self) -> None:
        """Hand over what has been told."""
        if self._told:
            if self._given - self._got > FRESH_CHANGES:  # the loop is late: it would keep no more
                self._fresh.clear()
                self._fresh.append(None)
                self._given = self._got
            self._given += len(self._told)
            self._fresh.append(self._told)
            self._told = []
        if self._fresh and not self._asked:
            self._asked = True
            self._loop.call_soon_threadsafe(self._take_over)

    def end(self) -> None:
        """Take the end."""
        self.flush()
        self._loop.call_soon_threadsafe(self._end)

    # In the event loop's

    @property
    def end_number(self) -> int:
        """The number that the next block will have."""
        return self.first + len(self._blocks)

    def block(self, number: int) -> Block:
        """Return a block that is kept, for a reader; nothing is added to it any more."""
        self._taken = max(self._taken, number + 1)
        return self._blocks[number - self.first]

    def join(self) -> int:
        """Return the number of the next block, for a reader who has read or given up all others."""
        self._taken = self.end_number
        return self._taken

    def cut(self) -> None:
        """Drop everything; whoever has read it all has missed something as well."""
        self.first = self.end_number + 1
        self._blocks.clear()
        self._pool.held -= self.held
        self.held = 0
        self._wake()

    def drop(self) -> None:
        """Drop the oldest block."""
        size = sum(map(_size, self._blocks.popleft()))
        self.first += 1
        self.held -= size
        self._pool.held -= size

    async def more(self, number: int) -> None:
        """Wait until the block `number` is there, or no longer kept, or nothing more comes."""
        while number == self.end_number and not self.ended:
            waiting = self._loop.create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)

    def _take_over(self) -> None:
        self._asked = False  # first: what comes while this runs asks again
        with suppress(IndexError):
            while True:
                told = self._fresh.popleft()
                if told is None:
                    self.cut()
                else:
                    self._got += len(told)
                    self._extend(told)
        while self.held > RING_BYTES:
            self.drop()
        self._pool.shrink()
        self._wake()

    def _extend(self, told: list[Change]) -> None:
        for change in told:
            last = self._blocks[-1] if self._blocks and self._taken < self.end_number else None
            if last is not None and last[-1] == change:
                continue
            if last is None or len(last) >= BLOCK_CHANGES:
                last = Block()
                self._blocks.append(last)
            last.append(change)
            size = _size(change)
            self.held += size
            self._pool.held += size

    def _end(self) -> None:
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


class _Shared:
    """A watcher, its ring, and those who read it."""

    def __init__(self, scope: Scope, identity: Identity | None, hubs: Hubs, pool: Pool) -> None:
        self.scope = scope
        self.ring = Ring(pool)
        self.watcher = Watcher(scope, self.ring, hubs.of(identity), identity)
        self.readers = 0
        self.ready = asyncio.ensure_future(self.watcher.start())


class Watch:
    """The changes of one scope, for one reader."""

    def __init__(self, shared: _Shared, work: FileWork) -> None:
        self.shared = shared
        self._ring = shared.ring
        self._work = work
        self._next = shared.ring.join()
        self._present: _Present | None = None
        self._abandoned = False

    def abandon(self) -> None:
        """End it because the server stops."""
        self._abandoned = True
        self.shared.watcher.stop()

    async def take(self, timeout: float) -> Block | None:
        """Wait for changes: an empty block after `timeout` seconds, None after the last.

        Raises Abandoned instead of None when there would have been more.
        """
        if self._present is None and self._next == self._ring.end_number:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._ring.more(self._next)
        if self._present is not None:
            return await self._look()
        if self._next < self._ring.first and not self._ring.ended:
            self._next = self._ring.join()
            self._present = _Present(self.shared.scope)
            return self._root(OVERFLOW)
        self._next = max(self._next, self._ring.first)
        if self._next < self._ring.end_number:
            self._next += 1
            return self._ring.block(self._next - 1)
        if not self._ring.ended:
            return Block()
        if self._abandoned:
            raise Abandoned
        return None

    async def _look(self) -> Block:
        assert self._present is not None
        found = await self._work.walk(self._present.block)
        if found:
            return found
        self._present = None
        return self._root(RESCANNED)

    def _root(self, how: str) -> Block:
        parent, _, name = os.fsencode(self.shared.scope.root).rstrip(b"/").rpartition(b"/")
        block = Block()
        block.append(Change(how, parent or b"/", name))
        return block


class Watches:
    """Opens watches, and ends them all when the server stops."""

    def __init__(self, identity: Callable[[], Identity | None], work: FileWork) -> None:
        self.hubs = Hubs()
        self._identity = identity
        self._work = work
        self._pool = Pool()
        self._running: set[_Shared] = set()
        self._shared: dict[tuple[Scope, Identity | None], _Shared] = {}
        self._open: set[Watch] = set()

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._open)

    async def watch(self, scope: Scope) -> Watch:
        """Open one, which `release` closes.

        Raises what `Watcher.start` does, and Internal when SCOPES_MOST others are watched.
        """
        shared = await self._find(scope)
        shared.readers += 1
        try:
            await asyncio.shield(shared.ready)
        except BaseException:
            await asyncio.shield(self._leave(shared))
            raise
        watch = Watch(shared, self._work)
        self._open.add(watch)
        return watch

    async def _find(self, scope: Scope) -> _Shared:
        """Return the scope's watcher, a new one if there is none of what is there now."""
        key = (scope, self._identity())
        shared = self._shared.get(key)
        if shared is not None and shared.ready.done():
            same = await self._is_same(shared)
            now = self._shared.get(key)
            # What the name led to before keeps its readers and gets no others.
            shared = now if same or now is not shared else None
        if shared is None or shared.watcher.ended:
            if len(self._running) >= SCOPES_MOST:
                raise Internal(f"cannot watch more than {SCOPES_MOST} directories at once")
            shared = self._shared[key] = _Shared(*key, self.hubs, self._pool)
            self._running.add(shared)
        return shared

    async def _is_same(self, shared: _Shared) -> bool:
        """Say whether the caller may see, and finds under the name, the directory it watches."""
        try:
            info = await self._work.run(os.stat, shared.scope.root)
        except (OSError, ValueError):
            return False
        return (info.st_dev, info.st_ino) == shared.watcher.root

    async def release(self, watch: Watch) -> None:
        """Close one."""
        if watch in self._open:
            self._open.discard(watch)
            await self._leave(watch.shared)

    async def _leave(self, shared: _Shared) -> None:
        shared.readers -= 1
        if shared.readers:
            return
        self._shared = {key: one for key, one in self._shared.items() if one is not shared}
        shared.watcher.stop()
        await asyncio.gather(shared.ready, return_exceptions=True)
        await shared.watcher.close()
        self._running.discard(shared)
        self._pool.remove(shared.ring)

    def abandon(self) -> None:
        """Send all readers away: the server stops."""
        for watch in self._open:
            watch.abandon()

    async def close(self) -> None:
        """Close all."""
        for watch in list(self._open):
            await self.release(watch)


class _Present:
    """Everything below a scope's root, a block at a time."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._found = self._walk()

    def block(self, cancel: Cancel) -> Block:
        """Return the next, empty at the end."""
        block = Block()
        for change in self._found:
            block.append(change)
            if len(block) >= BLOCK_CHANGES:
                break
            cancel.check()
        return block

    def _walk(self) -> Iterator[Change]:
        pending = [os.fsencode(self._scope.root).rstrip(b"/")]
        while pending:
            directory = pending.pop()
            for name, is_directory in entries_of(directory or b"/"):
                path = directory + b"/" + name
                if is_ours(name) or self._scope.hides(path):
                    continue
                yield Change(CREATE, directory or b"/", name)
                if is_directory and self._scope.recursive:
                    pending.append(path)


def _size(change: Change) -> int:
    return CHANGE_BYTES + len(change.directory) + len(change.name)
