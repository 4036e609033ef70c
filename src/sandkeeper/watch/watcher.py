"""A thread that watches: it follows the kernel's notices and tells changes to a listener.

Each watched scope has a thread of its own, because reading a tree may block and because it acts
for the workload's user. The notices come from one reader for all (watch.notices), and of all
such threads one computes at a time, whatever there is to do: a storm of changes costs requests the
same whether one watches or a hundred.
"""

import asyncio
import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from sandkeeper.errors import (
    Internal,
    NoDirectory,
    SandkeeperError,
    Unavailable,
    Unprocessable,
)
from sandkeeper.linux.identity import Identity, acting_for
from sandkeeper.linux.inotify import Notice
from sandkeeper.linux.paths import useros as os
from sandkeeper.linux.worker import started
from sandkeeper.race import race
from sandkeeper.watch.audience import Audience
from sandkeeper.watch.notices import NoticeHub, Tap
from sandkeeper.watch.tree import WatchTree

__all__ = ["ChangeListener", "Hubs", "Scope", "Watcher"]

HANDLED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Scope:
    """What to watch: an absolute directory, alone or with all below; texts of paths to ignore."""

    root: str
    recursive: bool
    ignored: tuple[str, ...] = ()

    def hides(self, path: bytes) -> bool:
        """Say whether a path is ignored."""
        return any(os.fsencode(text) in path for text in self.ignored)


class ChangeListener(Audience, Protocol):
    """Takes changes, in the watcher's thread; it must not wait for anybody."""

    def flush(self) -> None:
        """Take that nothing follows at once."""

    def end(self) -> None:
        """Take that nothing follows."""


class Hubs:
    """A hub for each user; event loop's thread only."""

    def __init__(self) -> None:
        self._hubs: dict[Identity | None, NoticeHub] = {}

    def of(self, identity: Identity | None) -> NoticeHub:
        """Return the user's."""
        return self._hubs.setdefault(identity, NoticeHub())


class _Stopped(Exception):
    pass


class Watcher:
    """Start it with `start`, end it with `close`; it ends by itself when the root goes."""

    def __init__(
        self, scope: Scope, listener: ChangeListener, hub: NoticeHub, identity: Identity | None
    ) -> None:
        self.scope = scope
        self.root: tuple[int, int] = (0, 0)
        """Device and inode of the directory, once it is watched."""
        self._listener = listener
        self._hub = hub
        self._identity = identity
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._over = asyncio.Event()
        self._stopping = False
        self._tap: Tap | None = None
        self._thread = threading.Thread(target=self._main, name="watch", daemon=True)

    @property
    def ended(self) -> bool:
        """Whether nothing more is told."""
        return self._over.is_set()

    async def start(self) -> None:
        """Watch; on return every later change will be told.

        Raises BadInput when the root is no directory, Unprocessable when it cannot be read,
        Internal at a limit of the machine.
        """
        try:
            started(self._thread)
        except Unavailable:
            self._over.set()
            raise
        try:
            await self.ready()
        except BaseException:
            await self.close()
            raise

    async def ready(self) -> None:
        """Wait until it watches; raises what `start` does."""
        await asyncio.shield(self._ready)

    def stop(self) -> None:
        """Have it end soon."""
        self._stopping = True
        if (tap := self._tap) is not None:
            tap.wake()

    async def close(self) -> None:
        """Stop, and wait until the thread has given everything back."""
        self.stop()
        await asyncio.shield(self._over.wait())

    async def settled(self, question: Callable[[], None]) -> bool:
        """Run `question` in the thread once all that happened before now has been told.

        False when the watch ended instead.
        """
        answered = self._loop.create_future()

        def ask() -> None:
            question()
            self._loop.call_soon_threadsafe(_settle, answered)

        if (tap := self._tap) is None:
            return False
        tap.ask(ask)
        told, _ = await race(answered, self._over.wait())
        return told is not None

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            with acting_for(self._identity), self._tapped() as tap:
                self._watch(tap)
        except _Stopped:
            pass
        except Exception as caught:  # noqa: BLE001 - it is raised where the watch is awaited
            error = caught
        finally:
            self._listener.end()
            self._loop.call_soon_threadsafe(self._finish, error)

    def _finish(self, error: BaseException | None) -> None:
        self._thread.join()
        self._over.set()
        if not self._ready.done():
            self._ready.set_exception(error or _Stopped())
            self._ready.exception()

    @contextmanager
    def _tapped(self) -> Iterator[Tap]:
        try:
            if not os.path.isdir(self.scope.root):
                os.stat(self.scope.root)
                raise NoDirectory()
            with self._hub.tapped() as tap:
                self._tap = tap
                try:
                    yield tap
                finally:
                    self._tap = None
        except (OSError, ValueError) as error:
            raise _setup_error(error) from None

    def _watch(self, tap: Tap) -> None:
        with self._hub.turn:
            tree = self._armed(tap)
        self.root = tree.identity
        self._loop.call_soon_threadsafe(_settle, self._ready)
        while not tree.ended:
            self._check()
            item = tap.take()
            if isinstance(item, list):
                self._handle(tree, tap, item)
            elif item is not None:
                item()

    def _handle(self, tree: WatchTree, tap: Tap, batch: list[Notice]) -> None:
        for start in range(0, len(batch), HANDLED_AT_ONCE):
            some = batch[start : start + HANDLED_AT_ONCE]
            with self._hub.turn:
                for notice in some:
                    if tree.ended:
                        break
                    tree.handle(notice)
                tree.settle()
            self._listener.flush()
            self._check()
            tap.done(len(some))

    def _armed(self, tap: Tap) -> WatchTree:
        tree = WatchTree(
            tap,
            os.fsencode(self.scope.root),
            recursive=self.scope.recursive,
            ignored=map(os.fsencode, self.scope.ignored),
            audience=self._listener,
            between=self._check,
            aside=self._hub.turn.aside,
        )
        tree.arm()
        return tree

    def _check(self) -> None:
        if self._stopping:
            raise _Stopped


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_LIMITS = {
    errno.EMFILE: "fs.inotify.max_user_instances",
    errno.ENOSPC: "fs.inotify.max_user_watches",
    errno.ENOMEM: "memory",
}


def _setup_error(error: OSError | ValueError) -> SandkeeperError:
    if isinstance(error, ValueError) or error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return NoDirectory()
    text = f"{error.filename}: {(error.strerror or str(error)).lower()}"
    if error.errno in _LIMITS:
        return Internal(f"cannot watch {text} (the limit is {_LIMITS[error.errno]})")
    return Unprocessable(f"cannot watch {text}")
