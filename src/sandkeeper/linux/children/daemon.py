"""Helpers that outlive the server: started by us, or by the server before us and adopted."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sandkeeper.linux.children.child import Child
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.children.tool import readable
from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.procstat import start_time

__all__ = ["Daemon"]

LOG_BYTES = 1 << 20
TAIL_BYTES = 600


class Daemon:
    """A running helper with its log file; it outlives the server, as what it serves does.

    Its output goes to a file and not to a pipe: with the server gone, a write to a pipe would kill
    it.
    """

    def __init__(self, pid: int, born: int, pidfd: OwnedFd, child: Child | None, log: Path) -> None:
        self.pid = pid
        self.born = born
        self._pidfd = pidfd
        self._child = child
        self._log = log
        self._ended = False

    @classmethod
    async def start(
        cls,
        children: Children,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        pass_fds: Sequence[int] = (),
    ) -> "Daemon":
        """Start a program, which gets copies of the descriptors `pass_fds`; raises OSError."""
        return await asyncio.to_thread(cls._start, children, argv, env, log, pass_fds)

    @classmethod
    def _start(
        cls,
        children: Children,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        pass_fds: Sequence[int],
    ) -> "Daemon":
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        output = os.open(log, flags, 0o600)
        try:
            child = children.spawn(
                Spawn(
                    argv,
                    dict(env),
                    "/",
                    stdout=output,
                    stderr=output,
                    oom_score=None,
                    pass_fds=pass_fds,
                )
            )
        finally:
            os.close(output)
        return cls(child.pid, start_time(child.pid), child.pidfd, child, log)

    @classmethod
    def adopt(cls, pid: int, born: int, log: Path) -> "Daemon | None":
        """Return the program of an earlier server if it still is the one that was started."""
        try:
            pidfd = OwnedFd(os.pidfd_open(pid))
        except OSError:
            return None
        if pid <= 1 or not born or start_time(pid) != born:
            pidfd.close()
            return None
        return cls(pid, born, pidfd, None, log)

    async def wait(self) -> None:
        """Wait for its end, and take its status if it is our child."""
        if self._ended:
            return
        await readable(self._pidfd.number)
        if not self._ended:
            self._ended = True
            if self._child is not None:
                self._child.reap()
            else:
                self._pidfd.close()

    async def ends_within(self, seconds: float) -> bool:
        """Say whether it ends in time."""
        try:
            async with asyncio.timeout(seconds):
                await self.wait()
        except TimeoutError:
            return False
        return True

    async def kill(self) -> None:
        """End it at once; the kernel then fails all calls that wait for it."""
        if self._ended:
            return
        with suppress(ProcessLookupError):
            if self._child is not None:
                self._child.signal_group(signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self._pidfd.number, signal.SIGKILL)
        await self.ends_within(5.0)

    def release(self) -> None:
        """Let it go on without us."""
        if not self._ended and self._child is None:
            self._ended = True
            self._pidfd.close()

    def tail(self) -> str:
        """Return the end of what it wrote."""
        try:
            with open(self._log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                return file.read(TAIL_BYTES).decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def trim_log(self) -> None:
        """Empty its log once it is large; it appends, so it goes on at the start."""
        with suppress(OSError):
            if os.stat(self._log).st_size > LOG_BYTES:
                os.truncate(self._log, 0)
