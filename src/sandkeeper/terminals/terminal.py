"""One terminal session: its shell, its journal, its screen and those who watch it.

What the terminal shows goes to the journal (`terminals.pump`); a watcher is an integer in it
(`terminals.spectator`), and so is the emulator (`terminals.mirror`).

The master end of the terminal is also held by the keeper. A pipe could be opened again by its
name, as processes' are; a terminal's master cannot be, and when its last descriptor is closed the
kernel hangs the session up. While the server is away nobody reads: the kernel's buffer fills and
the program waits in its write.
"""

import asyncio
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from sandkeeper.errors import Conflict
from sandkeeper.journal.cursor import Chunk, Reader
from sandkeeper.journal.journal import Journal
from sandkeeper.linux.children.adopted import Adopted
from sandkeeper.linux.children.child import Child, ExitStatus
from sandkeeper.linux.children.members import SessionMembers
from sandkeeper.linux.clocks import WORK, WorkTimer
from sandkeeper.linux.fds import OwnedFd, duplicates
from sandkeeper.log.access import Access, Caller
from sandkeeper.terminals.mirror import HISTORY_BYTES, Mirror
from sandkeeper.terminals.pty import Typing, echo_of, resize, size_of
from sandkeeper.terminals.pump import NO_LIMIT, Line, TerminalPump
from sandkeeper.terminals.store import TerminalFolder, TerminalMeta
from sandkeeper.terminals.typed import Typed, TypedLine, shown_text

if TYPE_CHECKING:
    from sandkeeper.terminals.emulator import Emulator

__all__ = ["Terminal", "Viewer"]

AHEAD_BYTES = 2 << 20
"""The writer may be so far ahead of the fastest watcher."""

SLOW_SECONDS = 0.05
QUIET_SECONDS = 0.1
ECHO_SECONDS, ECHO_LOOK_SECONDS = 2.0, 0.1
AUDITED_LINES = 200
LACK_SECONDS = 2.0
"""So long an end waits for a free descriptor or thread, to find who survives it."""


class Viewer:
    """Somebody who watches: `offset` is how far; `slow` ones hold nobody up; `sizes`: is told."""

    def __init__(self, *, read_only: bool, sizes: bool = False) -> None:
        self.offset = 0
        self.slow = False
        self.read_only = read_only
        self.sizes = sizes


class Terminal:
    """A session; event loop's thread only."""

    def __init__(
        self,
        meta: TerminalMeta,
        folder: TerminalFolder,
        journal: Journal,
        pump: TerminalPump,
        access: Access,
        ended: Callable[["Terminal"], Awaitable[None]],
        grace: float,
    ) -> None:
        self.meta = meta
        self.grace = grace
        self.folder = folder
        self.journal = journal
        self.viewers: set[Viewer] = set()
        self.over = asyncio.Event()
        self.last_used = WORK.now()
        self.size = (meta.cols, meta.rows)
        self._pump = pump
        self._access = access
        self._ended = ended
        self._child: Child | Adopted | None = None
        self._master: OwnedFd | None = None
        self._line: Line | None = None
        self._typing: Typing | None = None
        self._typed = Typed()
        self._lines: deque[tuple[TypedLine, Caller, float]] = deque(maxlen=AUDITED_LINES)
        self._auditing = False
        self._mirror = Mirror(journal, meta.cols, meta.rows)
        self._timers: dict[str, asyncio.TimerHandle | WorkTimer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False
        self._exited = False

    def __repr__(self) -> str:
        return f"<Terminal {self.meta.name!r} {self.meta.leader}>"

    @property
    def is_over(self) -> bool:
        """Whether the shell has ended; nobody is told before its status is known too (`over`)."""
        return self._exited

    @property
    def queued_input(self) -> int:
        """Bytes the program has not read yet."""
        return self._typing.queued if self._typing else 0

    # Life

    def begin(self, child: Child | Adopted, master: int) -> None:
        """Go live with a shell and the master of its terminal, which becomes ours."""
        self._child = child
        self._master = OwnedFd(master)
        self.size = size_of(master)
        self._typing = Typing(master)
        self._line = Line(master, self.journal)
        self._pump.watch(self._line)
        loop = asyncio.get_running_loop()
        loop.add_reader(child.pidfd.number, self._noticed_exit)
        if (seconds := self.meta.timeout) > 0:
            if not self.meta.due_uptime:  # of a server that noted only the wall clock's time
                left = min(seconds, self.meta.started_at + seconds - time.time())
                self.meta.due_uptime = WORK.now() + max(0.0, left)
            self._timers["timeout"] = WorkTimer(self.meta.due_uptime, self._time_is_up)

    def _time_is_up(self) -> None:
        if not self._exited:
            self.meta.timed_out = True
            self._spawn(self.signal(signal.SIGKILL))

    def was_over(self) -> None:
        """Take up a session that ended under an earlier server."""
        self.journal.exit_offset = self.journal.tail
        self.journal.sealed = True
        self._exited = True
        self.over.set()

    def leave(self) -> None:
        """Let go at the server's end; the shell goes on, held by the keeper."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._typing is not None:
            self._typing.close()
        if self._child is not None and not self._child.pidfd.closed:
            asyncio.get_running_loop().remove_reader(self._child.pidfd.number)

    def holdings(self) -> tuple[int, ...]:
        """Return copies of what the keeper must hold, the caller's; empty when it is over."""
        if self._exited or self._child is None or self._master is None or self._master.closed:
            return ()
        return duplicates((self._master.number, self._child.pidfd.number))

    def release(self) -> None:
        """Close the descriptors, after the pump has stopped."""
        if self._master is not None:
            self._master.close()
        if self._child is not None:
            self._child.pidfd.close()

    def _noticed_exit(self) -> None:
        assert self._child is not None
        self._exited = True
        asyncio.get_running_loop().remove_reader(self._child.pidfd.number)
        self._spawn(self._end(self._child))

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, child: Child | Adopted) -> None:
        loop = asyncio.get_running_loop()
        drained = loop.create_future()
        assert self._line is not None

        def done() -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has stopped
                loop.call_soon_threadsafe(_settle, drained)

        self._pump.finish(self._line, done)
        # Before the leader is reaped its session's number belongs to nobody else.
        members = await SessionMembers.found(child.pid, patience=LACK_SECONDS)
        await drained
        status = child.reap() if isinstance(child, Child) else await child.collect()
        if (timer := self._timers.pop("timeout", None)) is not None:
            timer.cancel()
        self._close_master()
        self._finish_meta(status)
        self._child = None
        self.over.set()
        self.journal.wake()
        try:
            members.signal(signal.SIGHUP)
            await self._ended(self)
            await members.end(signal.SIGKILL, after=self.grace)
        finally:
            members.close()

    def _close_master(self) -> None:
        if self._typing is not None:
            self._typing.close()
        if self._master is not None:
            self._master.close()
        self._line = None

    def _finish_meta(self, status: ExitStatus) -> None:
        self.meta.ended_at = time.time()
        self.meta.exit_code, self.meta.exit_signal = status.code, status.signal

    def close(self) -> None:
        """Hang up: SIGHUP to the whole session, SIGKILL to what is left after the grace."""
        if not self._ending and self._child is not None:
            self._ending = True
            self._spawn(self._hang_up(self._child.pid))

    async def _hang_up(self, leader: int) -> None:
        members = await SessionMembers.found(leader, leader_too=True)
        try:
            members.signal(signal.SIGHUP)
            members.signal(signal.SIGCONT)
            await members.end(signal.SIGKILL, after=self.grace)
        finally:
            members.close()

    def signal_soon(self, number: int) -> None:
        """Do as `signal`, without waiting for it."""
        self._spawn(self.signal(number))

    async def signal(self, number: int) -> None:
        """Signal every process of the session; nothing happens when it is over."""
        if self._child is None:
            return
        members = await SessionMembers.found(self._child.pid, leader_too=True)
        try:
            members.signal(number)
        finally:
            members.close()

    # Input

    def type(self, data: bytes, caller: Caller) -> None:
        """Type bytes; raises Conflict when the shell is over or nobody reads what is typed."""
        if self._typing is None or self._master is None or self._master.closed:
            raise Conflict("the shell has exited")
        self.last_used = WORK.now()
        if self._line is not None:
            self._pump.typed(self._line)
        echo, canonical = echo_of(self._master.number)
        lines = self._typed.feed(
            data.decode("utf-8", "replace"),
            echo=echo,
            canonical=canonical,
            offset=self.journal.tail,
        )
        if not self._typing.write(data):
            raise Conflict("the terminal's program does not read its input")
        until = time.monotonic() + ECHO_SECONDS
        self._lines += [(line, caller, until) for line in lines]
        if self._lines and not self._auditing:
            self._auditing = True
            self._spawn(self._audit_lines())

    async def _audit_lines(self) -> None:
        """Log the lines in the order in which they were typed, each once it has been shown."""
        while self._lines:
            line, caller, until = self._lines.popleft()
            if not line.unseen or await self._shown(line, until):
                extras = {"command": line.text, "session_id": self.meta.name}
                self._access.audit("terminal_command", caller, **extras)
        self._auditing = False

    async def _shown(self, line: TypedLine, until: float) -> bool:
        """Say whether the terminal shows a line; a busy machine may take its time."""
        while True:
            over = self.journal.sealed or time.monotonic() > until
            with suppress(OSError), Reader(self.journal) as reader:
                chunks = reader.read(line.offset, 64 << 10, nowait=True)
                data = b"".join(item.data for item in chunks if isinstance(item, Chunk))
                if line.text in shown_text(data.decode("utf-8", "replace")):
                    return True
            if over:
                return False
            await asyncio.sleep(ECHO_LOOK_SECONDS)

    def resize(self, cols: int, rows: int) -> None:
        """Set the size for everybody; sizes outside 1 to 65535 are ignored."""
        if not (0 < cols < 65536 and 0 < rows < 65536) or (cols, rows) == self.size:
            return
        if self._line is None or self._master is None or self._master.closed:
            return
        self.size = (cols, rows)
        self._pump.resized(self._line, cols, rows)
        resize(self._master.number, cols, rows)

    # Watchers

    def attach(self, viewer: Viewer) -> None:
        """Count a watcher; it joins the flow control when it has an offset (`moved`)."""
        self.viewers.add(viewer)
        viewer.slow = True

    def detach(self, viewer: Viewer) -> None:
        """Forget a watcher."""
        self.viewers.discard(viewer)
        self.last_used = WORK.now()
        self.moved()

    def moved(self) -> None:
        """Let the pump read as far ahead of the fastest watcher as it may."""
        line = self._line
        if line is None:
            return
        fastest = max((one.offset for one in self.viewers if not one.slow), default=None)
        line.limit = NO_LIMIT if fastest is None else fastest + AHEAD_BYTES
        if line.held and line.limit - self.journal.tail > AHEAD_BYTES // 2:
            line.held = False
            self._pump.resume(line)

    def news(self) -> None:
        """Take notice of growth; called for the pump, once for many bytes."""
        self.last_used = WORK.now()
        self.journal.wake()
        line = self._line
        if line is not None and line.held:
            self.moved()
            if line.held and "held" not in self._timers:
                self._later("held", SLOW_SECONDS, self._look_at_slow, self._fastest())
        if self.viewers or self._mirror.begun:
            self._when_quiet()

    def _fastest(self) -> int:
        return max((one.offset for one in self.viewers if not one.slow), default=0)

    def _look_at_slow(self, before: int) -> None:
        del self._timers["held"]
        line = self._line
        if line is None or not line.held:
            return
        if self._fastest() - before < AHEAD_BYTES // 8:
            for viewer in self.viewers:
                viewer.slow = True
        else:
            self._later("held", SLOW_SECONDS, self._look_at_slow, self._fastest())
        self.moved()

    def _later(self, name: str, seconds: float, call: Callable[..., None], *args: object) -> None:
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, call, *args)

    def _when_quiet(self) -> None:
        if "quiet" not in self._timers and self._mirror.fed < self.journal.tail:
            self._later("quiet", QUIET_SECONDS, self._catch_up_quietly, self.journal.tail)

    def _catch_up_quietly(self, tail: int) -> None:
        del self._timers["quiet"]
        if tail == self.journal.tail:
            self._spawn(self._catch_up())
        else:
            self._when_quiet()

    async def _catch_up(self) -> None:
        await self.screen()

    # The screen

    @property
    def drawn_size(self) -> tuple[int, int]:
        """Columns and rows for which `replay` has drawn."""
        return self._mirror.size or self.size

    async def screen(self, history: int = HISTORY_BYTES) -> "Emulator":
        """Return the emulator, up to date; see `Mirror.screen`."""
        return await self._mirror.screen(history, self.size)

    async def replay(self, history: int = HISTORY_BYTES) -> tuple[str, int]:
        """Return what draws the screen, and the offset where a watcher of it goes on."""
        return await self._mirror.replay(history, self.size)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
