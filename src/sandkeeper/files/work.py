"""Blocking work on files: in threads of its own, as the workload's user, cancellable.

Every operation of the operating system on a caller's files goes through `FileWork`. Short ones and
long ones have separate threads, so that a walk through a million files delays no small read; none
of either kind of operation can take them all (files.crew).
"""

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from sandkeeper.errors import BadInput, Forbidden, NotFound, SandkeeperError, StorageFull, reason_of
from sandkeeper.files.crew import Crew
from sandkeeper.linux.identity import Identity

__all__ = ["Cancel", "Cancelled", "FileWork", "by_errno", "kind_of"]

T = TypeVar("T")
R = TypeVar("R")

SHORT_PLACES, SHORT_EACH = 16, 12
LONG_PLACES, LONG_EACH = 8, 5


class Cancelled(Exception):
    """The caller is gone; the work stopped where it was."""


class Cancel:
    """Set by the awaiting side, asked by the working side."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Have the work stop at its next check."""
        self._event.set()

    def check(self) -> None:
        """Raise Cancelled when nobody waits any more."""
        if self._event.is_set():
            raise Cancelled


class FileWork:
    """Runs functions in worker threads, each as the user that its caller acts as."""

    def __init__(self, identity: Callable[[], Identity | None]) -> None:
        self._identity = identity
        self._short = Crew("files", SHORT_PLACES, SHORT_EACH)
        self._long = Crew("walks", LONG_PLACES, LONG_EACH)

    def run(self, function: Callable[..., T], *arguments: object) -> "asyncio.Future[T]":
        """Run a short operation; it goes on to its end even when the caller is cancelled."""
        act = partial(copy_context().run, self._act, function, arguments)
        return self._short.run(kind_of(function), act)

    def run_then(
        self, then: Callable[[T], R], function: Callable[..., T], *arguments: object
    ) -> "asyncio.Future[R]":
        """Do as `run`; awaited is what `then` makes of it, in the same thread as the server."""
        act = partial(copy_context().run, self._act, function, arguments)
        return self._short.run(kind_of(function), lambda: then(act()))

    def own(self, function: Callable[..., T], *arguments: object) -> "asyncio.Future[T]":
        """Run a short operation as the server itself; for what only it may touch."""
        act = partial(copy_context().run, function, *arguments)
        return self._short.run(kind_of(function), act)

    @property
    def acts(self) -> bool:
        """Whether files are touched as another user than the server's."""
        return self._identity() is not None

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Act as the workload's user for a while, within a function that `own` runs."""
        identity = self._identity()
        if identity is None:
            yield
        else:
            with identity.acting():
                yield

    def give(self, fd: int) -> None:
        """Have a file that we made belong to the workload's user: what it holds is the user's.

        A file of root's with content of the workload's choosing could be taken for root's word.
        """
        identity = self._identity()
        if identity is not None and not identity.is_ours:
            os.fchown(fd, identity.uid, identity.gid)

    async def walk(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a long operation; `function` gets a Cancel as its last argument.

        When the caller is cancelled the work is told and awaited, so that nothing of it is left.
        """
        return await self._watched(kind_of(function), partial(self._act, function), arguments)

    async def walk_own(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a long operation as the server itself; otherwise as `walk`."""
        return await self._watched(kind_of(function), lambda given: function(*given), arguments)

    async def _watched(
        self, kind: str, function: Callable[[tuple[object, ...]], T], arguments: tuple[object, ...]
    ) -> T:
        cancel = Cancel()
        act = partial(copy_context().run, function, (*arguments, cancel))
        work = asyncio.ensure_future(self._long.run(kind, act))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            cancel.set()
            await asyncio.wait([work])
            if not work.cancelled():
                work.exception()  # retrieved: it is Cancelled, or nobody is left to be told
            raise

    def close(self) -> None:
        """Let running operations finish; nothing new is taken."""
        self._short.close()
        self._long.close()

    def _act(self, function: Callable[..., T], arguments: tuple[object, ...]) -> T:
        if self._identity() is None:
            return function(*arguments)
        with self.acting():
            return function(*arguments)


def kind_of(function: Callable[..., object]) -> str:
    """Return which kind of operation a function is: its own name, or that of its class."""
    while isinstance(function, partial):
        function = function.func
    name: str = getattr(function, "__qualname__", type(function).__name__)
    return name


def by_errno(path: str, error: OSError | ValueError) -> SandkeeperError:
    """Make the error that an operating system's means to whoever has named `path`."""
    number = error.errno if isinstance(error, OSError) else errno.EINVAL
    if number in {errno.ENOENT, errno.ENOTDIR}:
        return NotFound(f"path '{path}' does not exist")
    words = reason_of(error)
    if number in {errno.EACCES, errno.EPERM}:
        return Forbidden(f"path '{path}': {words}")
    if number in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(f"path '{path}': {words}")
    return BadInput(f"path '{path}': {words}")
