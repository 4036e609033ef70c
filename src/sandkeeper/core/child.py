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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from sandkeeper.core.fds import OwnedFd
from sandkeeper.core.identity import Identity

__all__ = ["Child", "Children", "ExitStatus", "Spawn", "protect_from_oom", "readable"]

CHILD_OOM_SCORE = 500
SERVER_OOM_SCORE = -500


@dataclass(frozen=True, slots=True)
class Spawn:
    """What to start. Descriptors are the caller's to close; `-3` is /dev/null (subprocess.DEVNULL).

    `nofile` is the soft limit of open files the child gets (the server raises its own).
    `prepare` runs in the child before exec; it must only make system calls.
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


class Child:
    """A child of this process and leader of its own process group."""

    def __init__(self, pid: int, pidfd: int, owner: "Children") -> None:
        self.pid = pid
        self.pidfd = OwnedFd(pidfd)
        self._owner = owner
        self._shared_rss = _peak_of_self()
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
        if made.peak_rss_bytes is not None and made.peak_rss_bytes <= self._shared_rss:
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
        self._oom = _OomScore()

    def spawn(self, spec: Spawn) -> Child:
        """Start a child in its own process group (or session).

        The interpreter stands still from vfork(2) to the child's exec, in whichever thread this
        is called (`_posixsubprocess` keeps the lock): 0.2 ms, and a thread would gain nothing.
        What could hang in between, a working directory on a dead file system, must be looked at
        before, in a thread. Raises OSError as execve(2), chdir(2) and setuid(2) do, ValueError
        on a NUL byte.
        """
        with self._lock, self._oom.held_at(spec.oom_score):
            started = _Popen(
                list(spec.argv),
                env=spec.env,
                cwd=spec.cwd,
                stdin=spec.stdin,
                stdout=spec.stdout,
                stderr=spec.stderr,
                pass_fds=spec.pass_fds,
                preexec_fn=spec.prepare,
                **({"start_new_session": True} if spec.new_session else {"process_group": 0}),
                **_identity_options(spec.identity),
            )
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
    ) -> "Tool":
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
        return Tool(child, await _reader(out_read), await _reader(err_read))

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
    ) -> "ToolResult":
        """Run a helper program to its end; raises TimeoutError after killing it.

        At most `limit` bytes of each stream are kept; the rest is read and dropped.
        """
        tool = await self.start_tool(argv, env=env, cwd=cwd, identity=identity, stdin=stdin)
        try:
            async with asyncio.timeout(timeout):
                out, err = await asyncio.gather(
                    _bounded(tool.stdout, limit), _bounded(tool.stderr, limit)
                )
                return ToolResult(await tool.wait(), out, err)
        finally:
            await tool.close()


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The end of a helper program and what it wrote."""

    status: ExitStatus
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.status.code == 0


@dataclass(slots=True)
class Tool:
    """A running helper program; `close` ends it, whatever it does."""

    child: Child
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    status: ExitStatus | None = field(default=None)

    async def wait(self) -> ExitStatus:
        """Wait for its end."""
        if self.status is None:
            await readable(self.child.pidfd.number)
            self.status = self.status or self.child.reap()
        return self.status

    async def close(self) -> None:
        """Kill the group if it still runs, and reap the program."""
        if self.status is None:
            with suppress(ProcessLookupError):
                self.child.signal_group(signal.SIGKILL)
            await asyncio.shield(self.wait())
        for stream in (self.stdout, self.stderr):
            transport = stream._transport  # type: ignore[attr-defined]
            transport.close()


async def readable(fd: int) -> None:
    """Wait until `fd` is readable; nothing is left behind on cancellation."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _reader(fd: int) -> asyncio.StreamReader:
    stream = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", buffering=0)
    )
    return stream


async def _bounded(stream: asyncio.StreamReader, limit: int) -> bytes:
    kept: list[bytes] = []
    size = 0
    while chunk := await stream.read(65536):
        if size < limit:
            kept.append(chunk[: limit - size])
        size += len(chunk)
    return b"".join(kept)


class _OomScore:
    """Our own OOM score, held at the child's value while a child is born.

    Children inherit the score, so the whole tree has it from its first instruction. Written after
    the start instead, grandchildren forked early would keep the server's; see
    proc_pid_oom_score_adj(5).
    """

    def __init__(self) -> None:
        self._fd = -1
        with suppress(OSError):
            self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    @contextmanager
    def held_at(self, score: int | None) -> Iterator[None]:
        if score is None or self._fd < 0:
            yield
            return
        before = os.pread(self._fd, 16, 0).strip()
        with suppress(OSError):
            os.pwrite(self._fd, b"%d" % score, 0)
        try:
            yield
        finally:
            with suppress(OSError):
                os.pwrite(self._fd, before, 0)


def protect_from_oom() -> None:
    """Make this process the last the kernel kills for memory, where it may (CAP_SYS_RESOURCE)."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(SERVER_OOM_SCORE))


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
