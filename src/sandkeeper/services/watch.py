"""Live watches: a watcher's changes, queued for one client."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from sandkeeper.core.cursor import Abandoned
from sandkeeper.core.identity import Identity
from sandkeeper.services.watching import Scope, Watcher

__all__ = ["Change", "Watch", "Watches"]

QUEUED = 8192
TAKEN = 1024


class Change(NamedTuple):
    """One change: what (core.watchtree), in which directory (absolute), and the base name."""

    how: str
    directory: bytes
    name: bytes


class Watch:
    """The changes of one scope, for one reader. It holds at most QUEUED of them."""

    def __init__(self, scope: Scope, identity: Identity | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Change] = deque()
        # Each is written by one side only, the loop and the thread: a swap would lose a wake-up
        # that the other side asks for in between.
        self._wanted: asyncio.Future[None] | None = None
        self._answered: asyncio.Future[None] | None = None
        self._was_full = False
        self._ended = False
        self._abandoned = False
        self._watcher = Watcher(scope, self, identity)

    async def start(self) -> None:
        """Begin; raises what `Watcher.start` does."""
        await self._watcher.start()

    async def close(self) -> None:
        """End it, whatever it does."""
        await self._watcher.close()

    def abandon(self) -> None:
        """End it because the server stops."""
        self._abandoned = True
        self._watcher.stop()

    async def take(self, timeout: float) -> list[Change] | None:
        """Wait for changes: an empty list after `timeout` seconds, None after the last.

        Raises Abandoned instead of None when there would have been more.
        """
        if not self._queue and not self._ended:
            await self._more(timeout)
        taken = [self._queue.popleft() for _ in range(min(TAKEN, len(self._queue)))]
        if self._was_full and not self.full:
            self._was_full = False
            self._watcher.wake()
        if self._ended and not taken:
            if self._abandoned:
                raise Abandoned
            return None
        return taken

    async def _more(self, timeout: float) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    # A call may come late, for a change that has been taken already.
                    while not self._queue and not self._ended:
                        self._wanted = wanted = self._loop.create_future()
                        # Looked at again: the thread may have told in between.
                        if not self._queue and not self._ended:
                            await wanted
        finally:
            self._wanted = None

    @property
    def full(self) -> bool:
        """Whether the thread has to wait for the reader."""
        if len(self._queue) < QUEUED:
            return False
        self._was_full = True
        return len(self._queue) >= QUEUED  # looked at again: the reader may have made room

    def tell(self, how: str, directory: bytes, name: bytes) -> None:
        """Take one change; a repetition of the one before says nothing new."""
        change = Change(how, directory, name)
        queue = self._queue
        try:
            if queue[-1] == change:
                return
        except IndexError:
            pass
        queue.append(change)
        self._notify()

    def end(self) -> None:
        """Take the end."""
        self._ended = True
        self._notify()

    def _notify(self) -> None:
        wanted = self._wanted
        if wanted is not None and wanted is not self._answered:
            self._answered = wanted
            self._loop.call_soon_threadsafe(_settle, wanted)


class Watches:
    """Opens watches, and ends them all when the server stops."""

    def __init__(self, identity: Callable[[], Identity | None]) -> None:
        self._identity = identity
        self._open: set[Watch] = set()

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._open)

    async def watch(self, scope: Scope) -> Watch:
        """Open one, which `release` closes; raises what `Watcher.start` does."""
        watch = Watch(scope, self._identity())
        await watch.start()
        self._open.add(watch)
        return watch

    async def release(self, watch: Watch) -> None:
        """Close one."""
        self._open.discard(watch)
        await watch.close()

    def abandon(self) -> None:
        """Send all readers away: the server stops."""
        for watch in self._open:
            watch.abandon()

    async def close(self) -> None:
        """Close all."""
        for watch in list(self._open):
            await self.release(watch)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
