"""Children of this process: one way to start them, one way to notice and to reap their end.

Rules everything here keeps:

- Nobody else waits. `subprocess.Popen` starts children, but its own waiting is switched off; a
  status is taken exactly once, by `Child.reap`.
- While a child is unreaped its pid and its process group id cannot be given to anyone else, so
  signals to them are safe; after `reap` there is nothing left to signal.
- Noticing an end (a readable pidfd, pidfd_open(2), Linux 5.3) and reaping it are two steps. A
  zombie that is traced (ptrace(2)) can be reaped only after its tracer has let it go, which may be
  never; so no wait here blocks, and such a zombie is reaped later.
- A child of another user is made by the spawner (`linux.children.spawner`): until its exec the
  workload could stop it, so nobody waits for that without a deadline.
- The reaper of orphans (PID 1 only) never takes a child that is just being born: our own are
  started under one lock, the spawner's are counted while they are on their way.
"""

import asyncio
import errno
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from sandkeeper.linux.children.child import Child
from sandkeeper.linux.children.spawn import Spawn, start_own
from sandkeeper.linux.children.spawner import START_SECONDS, Report, Spawner, SpawnerGone
from sandkeeper.linux.children.tool import Tool, ToolResult, bounded, readable, reader
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.oomscore import OomScore
from sandkeeper.linux.paths.entering import opened_folder
from sandkeeper.linux.procstat import Births

__all__ = ["Children"]


LATE_SECONDS = 1.0


class Children:
    """Starts children and knows which pids are ours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owned: set[int] = set()
        self._spawner = Spawner(self.spawn)
        self._stuck: Child | None = None
        self._numbers = count()
        self._births: set[int] = set()
        self._suspects: dict[int, int] = {}
        self._ending: set[asyncio.Task[object]] = set()
        self._look_again = False
        self._late: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._oom = OomScore()
        self._own_peak = 0
        self.births = Births()

    def spawn(self, spec: Spawn) -> Child:
        """Start a child of our own user in its own process group (or session).

        The interpreter stands still from vfork(2) to the child's exec, in whichever thread this
        is called (CPython keeps the lock): 0.2 ms, and a thread would gain nothing.
        What could hang in between, a working directory on a dead file system, must be looked at
        before, in a thread. Raises OSError as execve(2) and chdir(2) do, ValueError on a NUL byte.
        """
        if spec.is_foreign:
            raise ValueError("another user's programs are started by `start`")
        with self._lock, self._oom.held_at(spec.oom_score):
            pid = start_own(spec)
            self._owned.add(pid)
            if spec.nofile is not None:
                _limit_files(pid, spec.nofile)
            try:
                return Child(pid, os.pidfd_open(pid), self)
            except OSError:  # no descriptor left: without a handle nobody could end it
                os.killpg(pid, signal.SIGKILL)
                self.reap_later(pid)
                raise

    async def start(self, spec: Spawn) -> Child:
        """Start a child in its own process group (or session), as whichever user.

        Raises OSError as execve(2), chdir(2) and setuid(2) do, also for a child that was stopped
        before it was its program and has been killed for that; ValueError on a NUL byte. Without a
        `cwd` another user's program has the server's, or `/` where that is closed to it.
        """
        if not spec.is_foreign:
            return self.spawn(spec)
        try:
            return await self._order(spec)
        except SpawnerGone:  # killed, by the kernel for want of memory perhaps
            return await self._order(spec)

    async def _order(self, spec: Spawn) -> Child:
        """Have the spawner start a child; raises SpawnerGone when it ended before it could."""
        self.open_spawner()
        spawner, number = self._spawner.child, next(self._numbers)
        self._births.add(number)
        try:
            with opened_folder(spec.cwd, spec.identity) as folder:
                report = await self._spawner.order(spec, folder)
        except BaseException as error:
            self._births.discard(number)
            if isinstance(error, SpawnerGone):
                self._replace_spawner(spawner)
            raise
        birth = asyncio.ensure_future(self._birth(report, number, spawner))
        try:
            return await asyncio.shield(birth)
        except asyncio.CancelledError:  # nobody will know the child
            birth.add_done_callback(self._disown)
            raise

    def open_spawner(self) -> None:
        """Have the spawner run; raises OSError. It is not needed where all programs are ours."""
        if not self._spawner.alive:
            # In our session another user would share our controlling terminal, if we were started
            # from one, and could type into the shell behind it (TIOCSTI, ioctl_tty(2)), continue us
            # when we were stopped (kill(2)) and enter our process groups (setpgid(2)).
            self._spawner.open(Spawn((), {}, oom_score=None, new_session=True))

    async def close(self) -> None:
        """End the spawner, and wait for children that were killed before they began."""
        await self._spawner.end()
        if self._ending:
            await asyncio.wait(self._ending)
        if self._timer is not None:
            self._timer.cancel()

    async def _birth(self, report: Report, number: int, spawner: Child | None) -> Child:
        child: Child | None = None
        try:
            async with asyncio.timeout(START_SECONDS):
                pid = await report.pid()
                self._owned.add(pid)
                child = self._taken(pid)
                await report.exec()
            return child
        except TimeoutError:
            if child is None and (pid := report.told()):  # it is our loop that was late
                self._owned.add(pid)
                child = self._taken(pid)
            if child is None:  # nobody was made: it is the spawner that is stopped
                self._stuck = spawner
                self._replace_spawner(spawner)
                raise OSError(errno.ECANCELED, "the spawner does not answer") from None
            self._bury(child)
            why = f"it was stopped before it began and killed after {START_SECONDS:g} s"
            raise OSError(errno.ECANCELED, why) from None
        except SpawnerGone:
            if spawner is self._stuck:
                raise OSError(errno.ECHILD, "the spawner has ended") from None
            self._replace_spawner(spawner)
            raise
        except BaseException:
            self._bury(child)
            raise
        finally:
            report.close()
            self._births.discard(number)
            if self._look_again:
                self._look_again = False
                self._later(asyncio.to_thread(self.reap_orphans))

    def _replace_spawner(self, stuck: Child | None) -> None:
        """Kill it, with the orders it has not taken; the next start has another."""
        if self._spawner.child is stuck:
            self._spawner.close()
            self._bury(stuck)

    def _taken(self, pid: int) -> Child:
        try:
            return Child(pid, os.pidfd_open(pid), self)
        except OSError:  # as in `spawn`
            os.kill(pid, signal.SIGKILL)
            self.reap_later(pid)
            raise

    def _disown(self, birth: "asyncio.Future[Child]") -> None:
        if not birth.cancelled() and birth.exception() is None:
            self._bury(birth.result())

    def _bury(self, child: Child | None) -> None:
        """Kill and reap a child that nobody wants."""
        if child is None:
            return

        async def bury() -> None:
            await readable(child.pidfd.number)
            child.reap()

        with suppress(ProcessLookupError):
            child.signal_group(signal.SIGKILL)
        self._later(bury())

    def _later(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.ensure_future(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def adopt(self, pid: int) -> None:
        """Keep the reaper of orphans away from a process of an earlier server."""
        self._owned.add(pid)

    def reap_later(self, pid: int) -> None:
        """Reap a child that cannot be reaped now: one just killed, or one that is traced."""
        self._late.add(pid)
        self._reap_late()

    def _reap_late(self) -> None:
        for pid in self._late.copy():
            with suppress(ChildProcessError):
                if not os.waitpid(pid, os.WNOHANG)[0]:
                    continue
            self._late.discard(pid)
            self.forget(pid)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._late:
            with suppress(RuntimeError):  # no loop in this thread: the next call tries again
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(LATE_SECONDS, self._reap_late)

    def forget(self, pid: int) -> None:
        """Drop a reaped pid."""
        self._owned.discard(pid)

    def may_have_shared(self, peak: int) -> bool:
        """Say whether a child's peak in bytes could be what it shared with us before its exec.

        Our own peak only grows, so it is looked up again only for a child that was above it.
        """
        if peak > self._own_peak:
            self._own_peak = _peak_of_self()
        return peak <= self._own_peak

    def reap_orphans(self) -> int:
        """Reap exited children that nobody here started; returns how many. For PID 1 only.

        One that may still be on its way from the spawner is left for a later look.
        """
        reaped = 0
        with self._lock:
            found = _children_of_self()
            now = next(self._numbers)
            self._suspects = {pid: self._suspects.get(pid, now) for pid in found}
            # In this order: a birth that is over has made its child known before.
            oldest = min(self._births.copy(), default=now + 1)
            for pid in found:
                if pid in self._owned:
                    continue
                if self._suspects[pid] > oldest:
                    self._look_again = True
                    continue
                with suppress(ChildProcessError):
                    flags = os.WEXITED | os.WNOHANG
                    reaped += os.waitid(os.P_PID, pid, flags) is not None
        return reaped

    async def start_tool(
        self,
        argv: Sequence[str],
        *,
        env: dict[str, str],
        cwd: str | None = None,
        identity: Identity | None = None,
        stdin: int = subprocess.DEVNULL,
        new_session: bool = False,
    ) -> Tool:
        """Start a helper program with its output on pipes; raises OSError as `start` does.

        With a session of its own (`new_session`) it has no terminal to ask anything.
        """
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        try:
            streams = (stdin, out_write, err_write)
            spec = Spawn(argv, env, cwd, *streams, identity=identity, new_session=new_session)
            if spec.is_foreign and identity is not None:
                for fd in (out_write, err_write):  # so that it may open its own /dev/stderr
                    os.fchown(fd, identity.uid, identity.gid)
            child = await self.start(spec)
        except BaseException:
            os.close(out_read)
            os.close(err_read)
            raise
        finally:
            os.close(out_write)
            os.close(err_write)
        return Tool(child, await reader(out_read), await reader(err_read))

    async def run_tool(
        self,
        argv: Sequence[str],
        *,
        env: dict[str, str],
        cwd: str | None = None,
        identity: Identity | None = None,
        stdin: int = subprocess.DEVNULL,
        timeout: float = 30.0,
        limit: int = 1 << 20,
    ) -> ToolResult:
        """Run a helper program to its end; raises TimeoutError after killing it.

        At most `limit` bytes of each stream are kept; the rest is read and dropped.
        """
        tool = await self.start_tool(argv, env=env, cwd=cwd, identity=identity, stdin=stdin)
        try:
            async with asyncio.timeout(timeout):
                out, err = await asyncio.gather(
                    bounded(tool.stdout, limit), bounded(tool.stderr, limit)
                )
                return ToolResult(await tool.wait(), out, err)
        finally:
            await tool.close()


def _limit_files(pid: int, soft: int) -> None:
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(soft, hard), hard))
    except (OSError, ValueError):
        return


def _peak_of_self() -> int:
    """Return the peak of our own memory in bytes (VmHWM, proc_pid_status(5)).

    Not getrusage(2)'s: that begins with what whoever started us had used.
    """
    with suppress(OSError, ValueError), open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _children_of_self() -> list[int]:
    """Return the pids of all children (proc_pid_task(5), needs CONFIG_PROC_CHILDREN)."""
    pids: list[int] = []
    with suppress(OSError):
        for task in os.listdir("/proc/self/task"):
            with (
                suppress(OSError),
                open(f"/proc/self/task/{task}/children", encoding="ascii") as file,
            ):
                pids += map(int, file.read().split())
    return pids
