"""Uploads in parts: sessions that survive a restart, parallel parts, one commit at the end.

Or from the beginning on, in one request and, where that broke off, further ones.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from sandkeeper.errors import (
    Conflict,
    Internal,
    NotFound,
    SandkeeperError,
    Task,
    Unavailable,
    failure,
)
from sandkeeper.files.changing.replace import Draft
from sandkeeper.files.conditions import Conditions
from sandkeeper.files.feed import Feed
from sandkeeper.files.service import Fault, Files
from sandkeeper.files.uploads.content import ContentSink, digest, fill
from sandkeeper.files.uploads.store import PartSink, Session, Store, UploadedPart
from sandkeeper.files.work import Cancel
from sandkeeper.linux.clocks import bounded_age
from sandkeeper.linux.paths import useros as os
from sandkeeper.linux.paths.statefiles import SetAside
from sandkeeper.linux.paths.trusted import UntrustedFile
from sandkeeper.log.lines import Log

__all__ = ["ContentUpload", "PartUpload", "Uploads"]

T = TypeVar("T")

MAX_SESSIONS = 10_000
MAX_PART = 10_000


class _Live(msgspec.Struct):
    """A session with what guards it: `lock` is held by whatever changes it."""

    session: Session
    used: float
    lock: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    arriving: int = 0
    writer: "ContentUpload | None" = None


class Uploads:
    """All sessions. Their index is changed on the event loop only."""

    def __init__(
        self, files: Files, root: Path, fallback: Path, expiry: float, aside: SetAside
    ) -> None:
        self._files = files
        self._work = files.work
        self._store = Store(root, aside, self._work)
        self._fallback = fallback
        self._expiry = expiry
        self._live: dict[str, _Live] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, log: Log) -> None:
        """Read the sessions of an earlier run and begin to sweep abandoned ones.

        Raises Unavailable where neither folder can be used.
        """
        try:
            found = await self._work.own(self._store.open)
        except (OSError, UntrustedFile) as error:
            log.write("warning", f"{error}; uploads in parts go to {self._fallback}")
            self._store = Store(self._fallback, self._store.aside, self._work)
            try:
                found = await self._work.own(self._store.open)
            except (OSError, UntrustedFile) as none_left:
                raise Unavailable(f"uploads in parts have no folder: {none_left}") from None
        now = time.monotonic()
        self._live = {
            session.uploadId: _Live(session, now - bounded_age(changed, self._expiry))
            for session, changed in found
        }
        self._sweeper = asyncio.create_task(self._sweep_forever(log))

    async def stop(self) -> None:
        """Stop sweeping; sessions stay on the disk."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        self._store.close()

    def sessions(self) -> list[Session]:
        """Return a snapshot of all sessions, oldest first."""
        copies = [live.session.copy() for live in self._live.values()]
        return sorted(copies, key=lambda session: session.initiatedAt)

    def parts(self, upload_id: str) -> list[UploadedPart]:
        """Return a session's parts by number; raises NotFound."""
        parts = self._find(upload_id).session.parts.values()
        return sorted(parts, key=lambda part: part.partNumber)

    async def initiate(self, path: str, permissions: int) -> Session:
        """Begin a session for `path`, which is not touched; raises Internal, StorageFull."""
        if len(self._live) >= MAX_SESSIONS:
            raise Internal(f"there are {MAX_SESSIONS} already", task=Task.BEGIN_UPLOAD)
        try:
            session = await self._work.own(self._store.create, path, permissions)
        except Fault as error:
            raise failure(Internal, Task.BEGIN_UPLOAD, "open", path, error) from None
        self._live[session.uploadId] = _Live(session, time.monotonic())
        return session

    def part(self, upload_id: str, number: int) -> "PartUpload":
        """Begin to take a part; raises Internal for an unknown id or a number out of range."""
        live = self._live.get(upload_id)
        if live is None:
            raise _not_there(upload_id)
        if not 1 <= number <= MAX_PART:
            raise Internal("part number must be between 1 and 10000", task=Task.UPLOAD_PART)
        sink = PartSink(self._store, live.session, number)
        return PartUpload(self, live, Feed(self._work.own, sink))

    async def content(self, upload_id: str, offset: int) -> "ContentUpload":
        """Begin to take what follows the first `offset` bytes, in place of whoever does until now.

        Raises NotFound, and Conflict (`size` says how much is here) for another offset.
        """
        live = self._find(upload_id)
        async with live.lock:
            if live.writer is not None:
                await live.writer.stop()
            session = self._find(upload_id).session
            self._check_size(
                session, await self._work.own(self._store.content_size, session), offset
            )
            sink = ContentSink(self._store, session, offset)
            live.writer = ContentUpload(self, live, Feed(self._work.own, sink))
            return live.writer

    def _check_size(self, session: Session, here: int, wanted: int) -> None:
        if here != wanted:
            raise Conflict(f"upload {session.uploadId} has {here} bytes, not {wanted}", size=here)

    async def content_state(self, upload_id: str, *, digested: bool) -> tuple[int, bool, str]:
        """Return how many bytes are here, whether more are arriving and, if wanted, their SHA-256.

        Raises NotFound.
        """
        live = self._find(upload_id)
        session, arriving = live.session, live.writer is not None
        try:
            size = await self._work.own(self._store.content_size, session)
            found = ""
            if digested:
                found = await self._work.walk_own(digest, self._store, session, size)
            return size, arriving, found
        except OSError as error:
            raise failure(NotFound, None, "read", upload_id, error) from None

    async def complete(
        self, upload_id: str, wanted: list[tuple[int, str]] | int, conditions: Conditions
    ) -> tuple[str, os.stat_result]:
        """Assemble the (number, etag) parts, or take the content if it has `wanted` bytes.

        Returns the path and the file's state. The target is replaced as a whole and the session
        removed; after a failure it is kept. Raises NotFound, Internal, Conflict,
        PreconditionFailed, StorageFull.
        """
        live = self._find(upload_id)
        async with live.lock:
            session = self._find(upload_id).session  # another call may have completed it
            if isinstance(wanted, int):
                if live.writer is not None:
                    await live.writer.stop()
                here = await self._work.own(self._store.content_size, session)
                self._check_size(session, here, wanted)
            parts: list[UploadedPart] | None = []  # of a content that is none no file may be here
            if wanted:
                parts = None if isinstance(wanted, int) else _chosen(session, wanted)
            info = await self._work.walk_own(self._assemble, session, parts, conditions)
            self._live.pop(upload_id, None)
            with suppress(OSError):  # what stays is read as a session again, and expires
                await self._work.own(self._store.remove, session)
            return session.path, info

    def _assemble(
        self,
        session: Session,
        parts: list[UploadedPart] | None,
        conditions: Conditions,
        cancel: Cancel,
    ) -> os.stat_result:
        draft: Draft | None = None
        try:
            with self._work.acting():
                draft = self._files.draft(session.path, session.permissions)
            if parts is None:
                fill(draft, self._store, session, cancel.check)
            for part in parts or ():
                cancel.check()
                self._append(draft, session, part, cancel)
            with self._work.acting():
                return draft.commit(conditions.check if conditions else None)
        except Fault as error:
            raise failure(Internal, Task.COMPLETE_UPLOAD, "open", session.path, error) from None
        finally:
            if draft is not None:
                draft.discard()

    def _append(self, draft: Draft, session: Session, part: UploadedPart, cancel: Cancel) -> None:
        path = self._store.part_path(session, part)
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            before = draft.size
            with self._work.acting():  # room that only root may fill is not the caller's
                draft.copy_from(fd, cancel.check)
        finally:
            os.close(fd)
        if draft.size - before != part.size:
            raise _incomplete(f"part {part.partNumber} is damaged")

    async def abort(self, upload_id: str) -> None:
        """Drop a session; raises NotFound."""
        live = self._find(upload_id)
        async with live.lock:
            session = self._find(upload_id).session
            del self._live[upload_id]
            try:
                await self._work.own(self._store.remove, session)
            except OSError as error:
                raise failure(NotFound, None, "remove", upload_id, error) from None

    def is_live(self, live: _Live) -> bool:
        """Say whether a session still exists."""
        return self._live.get(live.session.uploadId) is live

    async def sweep(self) -> int:
        """Drop the sessions that rested too long; returns how many."""
        horizon = time.monotonic() - self._expiry
        old = [
            key
            for key, live in self._live.items()
            if live.used < horizon and not live.arriving and not live.lock.locked()
        ]
        for upload_id in old:
            with suppress(NotFound):
                await self.abort(upload_id)
        return len(old)

    async def _sweep_forever(self, log: Log) -> None:
        while True:
            dropped = await self.sweep()
            if dropped:
                log.write("info", f"{dropped} abandoned uploads were removed")
            await asyncio.sleep(max(0.05, min(600.0, self._expiry / 4)))

    def _find(self, upload_id: str) -> _Live:
        live = self._live.get(upload_id)
        if live is None:
            raise NotFound(f"upload not found: {upload_id}")
        live.used = time.monotonic()
        return live


class PartUpload:
    """One part on its way; `abort` in a finally clause."""

    def __init__(self, uploads: Uploads, live: _Live, feed: Feed[UploadedPart]) -> None:
        self._uploads = uploads
        self._live = live
        self._feed = feed
        live.arriving += 1

    async def write(self, data: bytes) -> None:
        """Take a piece; raises Internal, StorageFull."""
        await self._guarded(lambda: self._feed.write(data))

    async def finish(self) -> UploadedPart:
        """Make the part count; raises Internal, also when the session is gone meanwhile."""
        async with self._live.lock:
            if not self._uploads.is_live(self._live):
                raise _not_there(self._live.session.uploadId)
            self._live.used = time.monotonic()
            return await self._guarded(self._feed.finish)

    async def abort(self) -> None:
        """Drop what was not finished."""
        self._live.arriving -= 1
        await self._feed.abort()

    async def _guarded(self, action: Callable[[], Awaitable[T]]) -> T:
        try:
            return await action()
        except OSError as error:
            if not self._uploads.is_live(self._live):
                raise _not_there(self._live.session.uploadId) from None
            raise failure(Internal, Task.UPLOAD_PART, "write", "part", error) from None


class ContentUpload:
    """What one request brings of a content; `abort` in a finally clause."""

    def __init__(self, uploads: Uploads, live: _Live, feed: Feed[int]) -> None:
        self._uploads = uploads
        self._live = live
        self._feed = feed
        self._is_stopped = False
        live.arriving += 1

    async def write(self, data: bytes) -> None:
        """Take a piece; raises Conflict once another request goes on, Internal, StorageFull."""
        await self._guarded(lambda: self._feed.write(data))

    async def finish(self) -> int:
        """Write the rest; returns how many bytes are here. Raises as `write`."""
        return await self._guarded(self._feed.finish)

    async def stop(self) -> None:
        """Take no more; the session's lock is held."""
        self._is_stopped = True
        await self._feed.abort()

    async def abort(self) -> None:
        """Let go; what was written stays."""
        async with self._live.lock:
            self._live.arriving -= 1
            self._live.used = time.monotonic()
            await self.stop()
            if self._live.writer is self:
                self._live.writer = None

    async def _guarded(self, action: Callable[[], Awaitable[T]]) -> T:
        async with self._live.lock:
            if not self._uploads.is_live(self._live):
                raise NotFound(f"upload not found: {self._live.session.uploadId}")
            if self._is_stopped:
                raise Conflict("another request goes on with this upload")
            try:
                return await action()
            except OSError as error:
                raise failure(Internal, Task.UPLOAD, "write", "content", error) from None


def _not_there(upload_id: str) -> SandkeeperError:
    return Internal(f"upload not found: {upload_id}", task=Task.UPLOAD_PART)


def _incomplete(reason: str) -> SandkeeperError:
    return Internal(reason, task=Task.COMPLETE_UPLOAD)


def _chosen(session: Session, wanted: list[tuple[int, str]]) -> list[UploadedPart]:
    """Return the parts that are listed, in order; raises Internal for one that does not fit."""
    chosen: dict[int, UploadedPart] = {}
    for number, etag in wanted:
        part = session.parts.get(str(number))
        if part is None:
            raise _incomplete(f"part {number} not found")
        if part.etag != etag:
            raise _incomplete(f"etag mismatch for part {number}")
        if number in chosen:
            raise _incomplete(f"part {number} is listed twice")
        chosen[number] = part
    return [chosen[number] for number in sorted(chosen)]
