"""What /proc/<pid>/stat tells of one process (proc_pid_stat(5)): fields, start, a zombie's end."""

import os
import time
from contextlib import suppress

__all__ = ["Births", "parse_stat", "read_stat", "start_time", "zombie_status"]


def parse_stat(line: bytes) -> tuple[bytes, list[bytes]] | None:
    """Read a line as `read_stat` does."""
    # The name stands in parentheses and may hold any byte, so the last one closes it.
    head, _, tail = line.rpartition(b")")
    fields = tail.split()
    return (head.partition(b"(")[2], fields) if len(fields) >= 20 else None


def read_stat(pid: int) -> tuple[bytes, list[bytes]] | None:
    """Return the name and the fields after it, the state (the third of the manual) first.

    None when there is no such process.
    """
    # Not `open`: this runs at every start of a process, and buffers cost six more system calls.
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return parse_stat(os.read(fd, 4096))
        finally:
            os.close(fd)
    except OSError:
        return None


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 when it does not exist.

    With the boot id this proves a pid: a reused one has another start time.
    """
    found = read_stat(pid)
    return int(found[1][19]) if found else 0


class Births:
    """When children were born, by the clock where that says the same as /proc.

    A process's start time is CLOCK_BOOTTIME at its fork, in whole ticks (proc_pid_stat(5)): between
    two looks at the clock within one tick nothing has to be read. It is read where the kernel, or a
    container's own /proc, was seen to say something else, and as long as nothing was compared.
    """

    COMPARED = 3

    def __init__(self) -> None:
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._left = self.COMPARED

    def now(self) -> int:
        """Return what a process would have that was born now."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * self._ticks // 1_000_000_000

    def start_time(self, pid: int, before: int) -> int:
        """Return the `start_time` of a process that was born since `now` was `before`."""
        is_known = self.now() == before
        if is_known and not self._left:
            return before
        told = start_time(pid)
        if is_known and told and self._left > 0:
            self._left = self._left - 1 if told == before else -1
        return told


def zombie_status(pid: int) -> int | None:
    """Return the wait status of a process that nobody has reaped yet, or None."""
    found = read_stat(pid)
    if found is None or found[1][0] not in {b"Z", b"X"}:
        return None
    with suppress(OSError):
        # The kernel shows 0 for the status to those who may not trace the process.
        if os.geteuid() in {0, os.stat(f"/proc/{pid}").st_uid}:
            return int(found[1][49])
    return None
