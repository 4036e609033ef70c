"""Whether the sandbox takes calls that change something, and why not. Event loop's thread only."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import msgspec

from sandkeeper.errors import Internal, Unavailable
from sandkeeper.linux.children.adopted import boot_id
from sandkeeper.linux.mounts import mounts
from sandkeeper.linux.paths.below import is_within
from sandkeeper.linux.paths.statefiles import (
    Damaged,
    UntrustedFile,
    decoded,
    is_moment,
    make_private_folder,
    read_own,
    write_atomically,
)
from sandkeeper.processes.spec import SavedProcess

__all__ = ["Freeze", "Stay", "Writing"]


T = TypeVar("T")


class _Record(msgspec.Struct):
    """What a restart of the server must know; `done` once the archive is stored."""

    boot: str
    since: float
    reason: str
    done: bool
    read_only: bool
    by_us: bool
    stopped: list[str]
    processes: list[SavedProcess]


class Freeze:
    """active, quiescing, quiesced or restoring; in all but the first `check` refuses."""

    def __init__(self, root: str, state_dir: Path) -> None:
        self.root = root
        self._state_dir = state_dir
        self._path = state_dir / "archive/freeze.json"
        self.state = "active"
        self.since = 0.0
        self.reason = ""
        self.read_only = False
        self._by_us = False
        self.stopped: list[str] = []
        self.processes: list[SavedProcess] = []
        self._writers: set[Writer] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> bool:
        """Whether everything is allowed."""
        return self.state == "active"

    def check(self) -> None:
        """Raise Unavailable unless the sandbox is active."""
        if self.state != "active":
            raise Unavailable(f"the sandbox is {self.state} ({self.reason}): nothing may change")

    def writing(self, stay: "Stay | None" = None) -> "Writing":
        """Count as somebody who changes something; raises Unavailable, inside too (`expel`).

        Who comes in the place of a `stay` was let in with it.
        """
        return Writing(self, stay)

    def stay(self) -> "Stay":
        """Have somebody counted on who leaves one task and goes on in another."""
        return Stay(self)

    def counted(self, work: "asyncio.Future[T]") -> "asyncio.Future[T]":
        """Count work of a thread as somebody who changes something, until it is done.

        What is returned raises Unavailable where it came too late (`expel`).
        """
        return _Work(self, work).told

    def enter_writer(self, writer: "Writer") -> None:
        """Wait for this one as well."""
        self._writers.add(writer)
        self._idle.clear()

    def leave_writer(self, writer: "Writer") -> None:
        """Wait for it no more."""
        self._writers.discard(writer)
        if not self._writers:
            self._idle.set()

    async def settled(self, seconds: float) -> bool:
        """Wait until those who were let in are done; says whether they are."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        return not self._writers

    def expel(self) -> None:
        """Have those who are still in give up: what they wrote now no archive would hold."""
        for writer in list(self._writers):
            writer.expel()

    def too_late(self) -> Unavailable:
        """Return what whoever was expelled is answered."""
        return Unavailable(f"the sandbox is frozen ({self.reason}): it came too late")

    def enter(self, state: str, reason: str) -> None:
        """Refuse from now on."""
        if self.state == "active":
            self.since = time.time()
        self.state, self.reason = state, reason

    async def hold(self, reason: str) -> None:
        """Make the root read-only where that is possible; `reason` says why where it is not."""
        self.reason = reason
        # Written first: whoever comes after a crash must know that the root may be read-only.
        self._by_us = True
        await self.save(done=False)
        if obstacle := await asyncio.to_thread(self._hold):
            self._by_us = False
            self.reason = f"{reason}; the root is not read-only: {obstacle}"
        else:
            self.read_only = True

    def _hold(self) -> str:
        """Return why it cannot be held, if so."""
        from sandkeeper.archive.readonly import NotPossible, is_read_only, set_read_only

        if is_read_only(self.root):
            self._by_us = False
            return ""
        state = str(self._state_dir.absolute())
        inside = [m.path for m in mounts() if is_within(state, m.path)]
        if not inside or max(inside, key=len) == self.root:
            return "the server's own state lies on it (SANDKEEPER_STATE_DIR)"
        try:
            set_read_only(self.root, True)
        except NotPossible as error:
            return str(error)
        return ""

    async def lift(self) -> None:
        """Be active again; raises Internal, and lifts nothing, when the root stays read-only."""
        if self._by_us and (obstacle := await asyncio.to_thread(self._release)):
            raise Internal(f"the root is not writable: {obstacle}")
        self.forget()
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    def _release(self) -> str:
        from sandkeeper.archive.readonly import NotPossible, is_read_only, set_read_only

        if not is_read_only(self.root):
            return ""
        try:
            set_read_only(self.root, False)
        except NotPossible as error:
            return str(error)
        return "its file system is read-only" if is_read_only(self.root) else ""

    def forget(self) -> None:
        """Be active, whatever was."""
        self.state, self.since, self.reason = "active", 0.0, ""
        self.read_only = self._by_us = False
        self.stopped, self.processes = [], []

    async def keep(self, stopped: list[SavedProcess]) -> None:
        """Have the next start know what an export has stopped for nothing; raises Internal."""
        self.since, self.reason, self.processes = time.time(), EXPORT, stopped
        await self.save(done=False)

    async def save(self, *, done: bool) -> None:
        """Remember it over a restart of the server; raises Internal."""
        record = _Record(
            boot_id(),
            self.since,
            self.reason,
            done,
            self.read_only,
            self._by_us,
            self.stopped,
            self.processes,
        )
        try:
            await asyncio.to_thread(self._write, msgspec.json.encode(record))
        except (OSError, UntrustedFile) as error:
            raise Internal(f"cannot keep the state of the archive: {error}") from None

    def _write(self, data: bytes) -> None:
        make_private_folder(self._path.parent)
        write_atomically(self._path, data)

    async def recall(self) -> tuple[str, list[SavedProcess]]:
        """Take up what an earlier server left; returns what there is to say about it.

        After a stored export the sandbox stays frozen; one that was interrupted counts as failed,
        and the processes that ran before it are returned. Either ends with a new start of the
        machine. Raises Internal when the root stays read-only.
        """
        try:
            data = await asyncio.to_thread(read_own, self._path)
            record = decoded(data, _Record) if data is not None else None
            if record is not None and not is_moment(record.since):
                raise Damaged("a time of it cannot be true")
        except (OSError, UntrustedFile, Damaged) as error:
            return f"the state of the archive is ignored: {error}", []
        if record is None:
            return "", []
        if record.boot != boot_id():
            await asyncio.to_thread(self._path.unlink, missing_ok=True)
            return "the machine was started again: the freeze for the archive is over", []
        self.state, self.since, self.reason = "quiesced", record.since, record.reason
        self.read_only, self._by_us = record.read_only, record.by_us
        self.stopped, self.processes = record.stopped, record.processes
        if record.done:
            return "the sandbox is still frozen: POST /archive/resume lifts that", []
        await self.lift()
        if record.reason.startswith(EXPORT):
            return INTERRUPTED, record.processes
        return "a restore had failed half-way", []


class Writing:
    """A task that changes something, while inside.

    It is what asyncio.timeout() is without the rest: every write of a small file passes here.
    """

    __slots__ = ("_cancelling", "_expelled", "_freeze", "_stay", "_task")

    def __init__(self, freeze: Freeze, stay: "Stay | None") -> None:
        self._freeze = freeze
        self._stay = stay
        self._expelled = False

    def __enter__(self) -> None:
        if self._stay is None:
            self._freeze.check()
        else:
            self._stay.check()
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._freeze.enter_writer(self)
        if self._stay is not None:
            self._freeze.leave_writer(self._stay)  # behind that: nobody is to see neither

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _where: TracebackType | None,
    ) -> None:
        self._freeze.leave_writer(self)
        if not self._expelled:
            return
        ours = self._task.uncancel() <= self._cancelling
        if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._freeze.too_late() from None

    def expel(self) -> None:
        """Have it end where it waits."""
        if not self._expelled:
            self._expelled = True
            self._task.cancel()


class Stay:
    """Somebody who was let in, between two tasks."""

    def __init__(self, freeze: Freeze) -> None:
        self._freeze = freeze
        self._expelled = False
        freeze.enter_writer(self)

    def check(self) -> None:
        """Raise Unavailable if it took too long."""
        if self._expelled:
            raise self._freeze.too_late()

    def expel(self) -> None:
        """Have it go no further."""
        self._expelled = True
        self._freeze.leave_writer(self)


class _Work(Generic[T]):
    """Work of a thread that changes something; `told` is what comes of it."""

    def __init__(self, freeze: Freeze, work: "asyncio.Future[T]") -> None:
        self._freeze = freeze
        self.told: asyncio.Future[T] = work.get_loop().create_future()
        freeze.enter_writer(self)
        work.add_done_callback(self._done)

    def _done(self, work: "asyncio.Future[T]") -> None:
        self._freeze.leave_writer(self)
        if work.cancelled():
            self.told.cancel()
        elif (error := work.exception()) is None:
            if not self.told.done():
                self.told.set_result(work.result())
        elif not self.told.done():
            self.told.set_exception(error)

    def expel(self) -> None:
        """Have nobody wait for it any more."""
        self._freeze.leave_writer(self)
        if not self.told.done():
            self.told.set_exception(self._freeze.too_late())


Writer = Writing | Stay | _Work[Any]

EXPORT = "archive export"
INTERRUPTED = "the server was restarted during the export"
