"""What /proc/pid/stat tells of one process: when it started, and how a zombie ended."""

import os
from contextlib import suppress

__all__ = ["start_time", "zombie_status"]


def _stat(pid: int) -> list[bytes] | None:
    # Not `open`: this runs at every start of a process, and buffers cost six more system calls.
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 4096).rpartition(b")")[2].split()
        finally:
            os.close(fd)
    except OSError:
        return None


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 when it does not exist.

    With the boot id this proves a pid: a reused one has another start time.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def zombie_status(pid: int) -> int | None:
    """Return the wait status of a process that nobody has reaped yet, or None."""
    fields = _stat(pid)
    if fields is None or fields[0] not in {b"Z", b"X"}:
        return None
    with suppress(OSError):
        # The kernel shows 0 for the status to those who may not trace the process.
        if os.geteuid() in {0, os.stat(f"/proc/{pid}").st_uid}:
            return int(fields[49])
    return None
