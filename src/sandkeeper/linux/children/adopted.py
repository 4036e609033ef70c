"""Processes of an earlier server: still ours to supervise, no longer our children.

Their end is noticed on a pidfd like any other. Their exit status is the kernel's record of it:
`PIDFD_GET_INFO` with `PIDFD_INFO_EXIT` (Linux 6.15), available once their parent has reaped them
and as long as somebody holds a pidfd from before; until then, while they are zombies, field 52 of
/proc/pid/stat (proc_pid_stat(5)). Where neither can say, the status is unknown and stays so.
"""

import asyncio
import fcntl
import os
import signal
import struct
from contextlib import suppress
from functools import cache

from msgspec.structs import replace

from sandkeeper.linux.children.child import ExitStatus
from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.procstat import start_time, zombie_status

__all__ = ["Adopted", "boot_id", "exit_of_pidfd", "pid_of_pidfd", "start_time"]

_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, 64 bytes)
_PIDFD_INFO_EXIT = 1 << 3
_REAP_SECONDS = 2.0


@cache
def boot_id() -> str:
    """Return the id of this boot (random(4)); empty where /proc does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def pid_of_pidfd(pidfd: int) -> int:
    """Return the pid behind a pidfd (proc_pid_fdinfo(5)); 0 once it was reaped."""
    with suppress(OSError, ValueError), open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        for line in file:
            if line.startswith(b"Pid:"):
                return max(0, int(line.split()[1]))
    return 0


def exit_of_pidfd(pidfd: int) -> int | None:
    """Return the wait status the kernel recorded for a reaped process, or None."""
    info = bytearray(struct.pack("<Q", _PIDFD_INFO_EXIT).ljust(64, b"\0"))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    (mask,) = struct.unpack_from("<Q", info)
    (status,) = struct.unpack_from("<i", info, 60)
    return int(status) if mask & _PIDFD_INFO_EXIT else None


class Adopted:
    """A process that an earlier server started; `pidfd` becomes ours."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = OwnedFd(pidfd)

    def __repr__(self) -> str:
        return f"<Adopted {self.pid}>"

    @property
    def reaped(self) -> bool:
        """Whether its end has been dealt with."""
        return self.pidfd.closed

    def signal_group(self, number: int) -> None:
        """Signal its group; raises ProcessLookupError when it is over.

        The group id is safe as long as the leader exists, which the pidfd proves first.
        """
        if self.pidfd.closed:
            raise ProcessLookupError(3, "no such process")
        signal.pidfd_send_signal(self.pidfd.number, 0)
        try:
            if self.pid <= 0:  # never known, and killpg(2) takes 0 for our own group
                raise ProcessLookupError
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self.pidfd.number, number)

    def _reap(self) -> ExitStatus | None:
        """Take the status if it is our child; None if it is not, or nobody knows its pid."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            # The pidfd proves whose child it is: the number may be another one's by now.
            seen = os.waitid(os.P_PIDFD, self.pidfd.number, flags)
        except ChildProcessError:
            return None
        if seen is None:
            return None
        _, status, usage = os.wait4(seen.si_pid, 0)
        # The peak begins with what the server had that started it, which nobody knows any more.
        return replace(ExitStatus.of_wait(status, usage), peak_rss_bytes=None)

    async def collect(self) -> ExitStatus:
        """Return how it ended, after its pidfd became readable; closes the pidfd.

        Its parent (init) reaps it in its own time; we look for two seconds. After an upgrade we are
        its parent ourselves: the server before us, in whose place we are, has started it.
        """
        reaped = self._reap()
        if reaped is not None:
            self.pidfd.close()
            return reaped
        status: int | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_REAP_SECONDS):
                while status is None:
                    status = exit_of_pidfd(self.pidfd.number)
                    if status is None:
                        status = zombie_status(self.pid)
                    if status is None:
                        if start_time(self.pid) == 0 and exit_of_pidfd(self.pidfd.number) is None:
                            break  # reaped, and this kernel keeps no record
                        await asyncio.sleep(0.005)
        self.pidfd.close()
        return ExitStatus() if status is None else ExitStatus.of_wait(status)
