"""A thread that watches: it takes the kernel's notices and tells changes to a listener.

Each watch has a thread of its own, because reading a tree may block, because the thread acts for
the workload's user, and because a listener that is full stops nobody else.

What is bounded, and what happens at the bound: a listener that takes nothing more blocks the
thread in `tell`; the thread goes on emptying the kernel's queue into its backlog, up to
BACKLOG_BYTES; then the kernel's own queue fills up (fs.inotify.max_queued_events), and what it
drops it says so: the tree is read again once the listener takes again (core.watchtree).
"""

import asyncio
import errno
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

from sandkeeper.core import useros as os
from sandkeeper.core.fds import OwnedFd
from sandkeeper.core.identity import Identity
from sandkeeper.core.inotify import Inotify, notices
from sandkeeper.core.watchtree import WatchTree
from sandkeeper.errors import BadInput, Internal, SandkeeperError, Unprocessable

__all__ = ["Listener", "Scope", "Watcher"]

BACKLOG_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Scope:
    """What to watch: an absolute directory, alone or with all below; texts of paths to ignore."""

    root: str
    recursive: bool
    ignored: tuple[str, ...] = ()


class Listener(Protocol):
    """Takes changes, in the watcher's thread."""

    @property
    def full(self) -> bool:
        """Whether it takes nothing more now; after that it must call `Watcher.wake`."""

    def tell(self, how: str, directory: bytes, name: bytes) -> None:
        """Take one change (core.watchtree says which there are)."""

    def end(self) -> None:
        """Take that nothing follows."""


class _Stopped(Exception):
    pass


class Watcher:
    """Start it with `start`, end it with `close`; it ends by itself when the root goes."""

    def __init__(self, scope: Scope, listener: Listener, identity: Identity | None) -> None:
        self.scope = scope
        self._listener = listener
        self._identity = identity
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._over = asyncio.Event()
        self._stopping = False
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._questions: deque[Callable[[], None]] = deque()
        self._bell = OwnedFd(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self._inotify: Inotify | None = None
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
        self._thread.start()
        try:
            await asyncio.shield(self._ready)
        except BaseException:
            await self.close()
            raise

    def stop(self) -> None:
        """Have it end soon."""
        self._stopping = True
        self.wake()

    async def close(self) -> None:
        """Stop, and wait until the thread has given everything back."""
        self.stop()
        await asyncio.shield(self._over.wait())

    def wake(self) -> None:
        """Say that the listener has room again."""
        if not self._bell.closed:
            os.eventfd_write(self._bell.number, 1)

    async def settled(self, question: Callable[[], None]) -> bool:
        """Run `question` in the thread once all that happened before now has been told.

        False when the watch ended instead.
        """
        answered = self._loop.create_future()

        def ask() -> None:
            question()
            self._loop.call_soon_threadsafe(_settle, answered)

        self._questions.append(ask)
        self.wake()
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({answered, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
        return answered.done()

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            with self._identity.acting() if self._identity else nullcontext():
                self._watch()
        except _Stopped:
            pass
        except Exception as caught:  # noqa: BLE001 - it is raised where the watch is awaited
            error = caught
        finally:
            if self._inotify is not None:
                self._inotify.close()
            self._listener.end()
            self._loop.call_soon_threadsafe(self._finish, error)

    def _finish(self, error: BaseException | None) -> None:
        self._thread.join()
        self._bell.close()
        self._over.set()
        if not self._ready.done():
            self._ready.set_exception(error or _Stopped())
            self._ready.exception()

    def _watch(self) -> None:
        tree = self._armed()
        self._loop.call_soon_threadsafe(_settle, self._ready)
        while True:
            asked = len(self._questions)
            emptied = self._pull()
            # Only what was there: under a steady stream the backlog may never be empty.
            for _ in range(len(self._backlog)):
                self._handle(tree, self._backlog.popleft())
            if tree.ended:
                return
            if emptied:
                for _ in range(asked):
                    self._questions.popleft()()
            if not self._questions and not self._backlog:
                self._wait()

    def _handle(self, tree: WatchTree, data: bytes) -> None:
        self._backlog_bytes -= len(data)
        for notice in notices(data):
            if tree.ended:
                return
            tree.handle(notice)
        self._between()

    def _armed(self) -> WatchTree:
        scope = self.scope
        try:
            if not os.path.isdir(scope.root):
                os.stat(scope.root)
                raise BadInput("path is not a directory")
            self._inotify = Inotify()
            tree = WatchTree(
                self._inotify,
                os.fsencode(scope.root),
                recursive=scope.recursive,
                ignored=map(os.fsencode, scope.ignored),
                emit=self._tell,
                between=self._between,
            )
            tree.arm()
        except (OSError, ValueError) as error:
            raise _setup_error(error) from None
        return tree

    def _tell(self, how: str, directory: bytes, name: bytes) -> None:
        while self._listener.full:
            self._wait()
            self._between()
        self._listener.tell(how, directory, name)

    def _between(self) -> None:
        """Keep the kernel's queue short during long work, and see whether to end it."""
        if self._stopping:
            raise _Stopped
        self._pull()

    def _pull(self) -> bool:
        """Empty the kernel's queue; False when there was no room for all of it."""
        assert self._inotify is not None
        while self._backlog_bytes < BACKLOG_BYTES:
            data = self._inotify.read()
            if not data:
                return True
            self._backlog.append(data)
            self._backlog_bytes += len(data)
        return False

    def _wait(self) -> None:
        """Sleep until there are notices (if there is room for them) or the bell is rung."""
        assert self._inotify is not None
        poll = select.poll()
        poll.register(self._bell.number, select.POLLIN)
        if self._backlog_bytes < BACKLOG_BYTES:
            poll.register(self._inotify.fd, select.POLLIN)
        poll.poll()
        try:
            os.eventfd_read(self._bell.number)
        except BlockingIOError:
            return
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
        return BadInput("path is not a directory")
    text = f"{error.filename}: {(error.strerror or str(error)).lower()}"
    if error.errno in _LIMITS:
        return Internal(f"cannot watch {text} (the limit is {_LIMITS[error.errno]})")
    return Unprocessable(f"cannot watch {text}")
