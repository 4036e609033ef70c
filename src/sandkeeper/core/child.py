"""Children of this process: one way to start them, one way to notice and to reap their end.

Rules everything here keeps:

- Nobody else waits. `subprocess.Popen` starts children, but its own waiting is switched off; a
  status is taken exactly once, by `Child.reap`.
- While a child is unreaped its pid and its process group id cannot be given to anyone else, so
  signals to them are safe; after `reap` there is nothing left to signal.
- Noticing an end (a readable pidfd, pidfd_open(2), Linux 5.3) and reaping it are two steps.
- Every start happens under one lock, so that the reaper of orphans (PID 1 only) never takes a
  child that is just being born.
"""

import asyncio
import errno
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from sandkeeper.core.entering import entrance
from sandkeeper.core.fds import OwnedFd
from sandkeeper.core.identity import Identity
from sandkeeper.core.oomscore import OomScore
from sandkeeper.core.tool import Tool, ToolResult, bounded, reader

__all__ = ["Child", "Children", "ExitStatus", "Spawn"]

CHILD_OOM_SCORE = 500


@dataclass(frozen=True, slots=True)
class Spawn:
    """What to start. Descriptors are the caller's to close; `-3` is /dev/null (subprocess.DEVNULL).

    `nofile` is the soft limit of open files the child gets (the server raises its own).
    `prepare` runs in the child before exec; it must only make system calls. `cwd` is entered as
    `identity` could: a folder below one that is closed to it stays closed.
    """

    argv: Sequence[str]
    env: dict[str, str]
    cwd: str | None = None
    stdin: int = subprocess.DEVNULL
    stdout: int = subprocess.DEVNULL
    stderr: int = subprocess.DEVNULL
    identity: Identity | None = None
    oom_score: int | None = CHILD_OOM_SCORE
    nofile: int | None = None
    new_session: bool = False
    pass_fds: Sequence[int] = ()
    prepare: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: `code` of an exit, else `signal`; both None when nobody can know.

    `cpu_seconds` and `peak_rss_bytes` cover the process and the descendants it waited for
    (getrusage(2)); None where only the kernel's exit record was at hand. The peak is also None when
    it is below our own: the kernel counts what a child shared with us until its exec.
    """

    code: int | None = None
    signal: int | None = None
    core_dumped: bool = False
    cpu_seconds: float | None = None
    peak_rss_bytes: int | None = None

    @classmethod
    def of_wait(cls, status: int, usage: resource.struct_rusage | None = None) -> "ExitStatus":
        """Translate a wait status (wait(2))."""
        cpu = usage.ru_utime + usage.ru_stime if usage else None
        rss = usage.ru_maxrss * 1024 if usage else None
        if os.WIFSIGNALED(status):
            return cls(None, os.WTERMSIG(status), os.WCOREDUMP(status), cpu, rss)
        return cls(os.WEXITSTATUS(status), None, False, cpu, rss)


class _Popen(subprocess.Popen[bytes]):
    """A Popen that only starts: its destructor would put the child on a list that others reap."""

    def __del__(self, *_args: Any, **_kwargs: Any) -> None:
        pass


def _start(spec: Spawn) -> _Popen:
    try:
        return _Popen(
            list(spec.argv),
            env=spec.env,
            cwd=spec.cwd,
            stdin=spec.stdin,
            stdout=spec.stdout,
            stderr=spec.stderr,
            pass_fds=spec.pass_fds,
            preexec_fn=spec.prepare,
            **({"start_new_session": True} if _apart(spec) else {"process_group": 0}),
            **_identity_options(spec.identity),
        )
    except subprocess.SubprocessError:  # `prepare` failed; why stays with the child
        raise OSError(errno.EPERM, "it could not be prepared") from None


def _apart(spec: Spawn) -> bool:
    """Say whether a session of its own is due.

    In ours another user would share our controlling terminal if we were started from one, and
    could type into the shell behind it (TIOCSTI, ioctl_tty(2)).
    """
    another = spec.identity is not None and not spec.identity.is_ours
    return spec.new_session or (another and _has_terminal())


@lru_cache(maxsize=1)
def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class Child:
    """A child of this process and leader of its own process group."""

    def __init__(self, pid: int, pidfd: int, owner: "Children") -> None:
        self.pid = pid
        self.pidfd = OwnedFd(pidfd)
        self._owner = owner
        self._reaped = False

    def __repr__(self) -> str:
        return f"<Child {self.pid}{' reaped' if self._reaped else ''}>"

    @property
    def reaped(self) -> bool:
        """Whether the status has been taken."""
        return self._reaped

    def has_exited(self) -> bool:
        """Say whether it is over, without taking its status."""
        if self._reaped:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PIDFD, self.pidfd.number, flags) is not None

    def reap(self) -> ExitStatus:
        """Take the status of an exited child and close its pidfd; call once."""
        _, status, usage = os.wait4(self.pid, 0)
        self._reaped = True
        self._owner.forget(self.pid)
        self.pidfd.close()
        made = ExitStatus.of_wait(status, usage)
        if made.peak_rss_bytes is not None and self._owner.may_have_shared(made.peak_rss_bytes):
            return replace(made, peak_rss_bytes=None)
        return made

    def signal_group(self, number: int) -> None:
        """Signal the whole group; raises ProcessLookupError when the child has been reaped.

        A group can be unsignalable (all members changed their group); then the child alone is.
        """
        if self._reaped:
            raise ProcessLookupError(errno.ESRCH, "no such process")
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self.pidfd.number, number)


class Children:
    """Starts children and knows which pids are ours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owned: set[int] = set()
        self._oom = OomScore()
        self._own_peak = 0

    def spawn(self, spec: Spawn) -> Child:
        """Start a child in its own process group (or session).

        The interpreter stands still from vfork(2) to the child's exec, in whichever thread this
        is called (`_posixsubprocess` keeps the lock): 0.2 ms, and a thread would gain nothing.
        What could hang in between, a working directory on a dead file system, must be looked at
        before, in a thread. Raises OSError as execve(2), chdir(2) and setuid(2) do, ValueError
        on a NUL byte.
        """
        with (
            self._lock,
            entrance(spec.cwd, spec.identity) as cwd,
            self._oom.held_at(spec.oom_score),
        ):
            started = _start(spec if cwd is spec.cwd else replace(spec, cwd=cwd))
            self._owned.add(started.pid)
            if spec.nofile is not None:
                _limit_files(started.pid, spec.nofile)
            try:
                return Child(started.pid, os.pidfd_open(started.pid), self)
            except OSError:  # no descriptor left: without a handle nobody could end or reap it
                os.killpg(started.pid, signal.SIGKILL)
                os.waitpid(started.pid, 0)
                self._owned.discard(started.pid)
                raise

    def adopt(self, pid: int) -> None:
        """Keep the reaper of orphans away from a process of an earlier server."""
        self._owned.add(pid)

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
        """Reap exited children that nobody here started; returns how many. For PID 1 only."""
        reaped = 0
        with self._lock:
            for pid in _children_of_self():
                if pid in self._owned:
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
    ) -> Tool:
        """Start a helper program with its output on pipes; raises OSError as `spawn` does."""
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        try:
            spec = Spawn(argv, env, cwd, stdin, out_write, err_write, identity=identity)
            child = self.spawn(spec)
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


def _identity_options(identity: Identity | None) -> dict[str, Any]:
    if identity is None or identity.is_ours:  # an unprivileged server may not even set its own
        return {}
    return {"user": identity.uid, "group": identity.gid, "extra_groups": list(identity.groups)}


def _limit_files(pid: int, soft: int) -> None:
    with suppress(OSError, ValueError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(soft, hard), hard))


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
