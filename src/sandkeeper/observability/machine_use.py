"""What the machine has and how much of it is used: processors, memory, disk (proc(5)). Blocking."""

import os
import time

import msgspec

__all__ = ["MachineUse", "Use"]

KIB = 1024


class Use(msgspec.Struct, frozen=True):
    """One look, at `time` (seconds since the epoch); sizes in bytes, `cpu_percent` of all.

    `memory_used` is what programs have, `memory_cache` what the kernel keeps of files.
    """

    time: float
    cpu_count: int
    cpu_percent: float
    memory_total: int
    memory_used: int
    memory_cache: int
    disk_total: int
    disk_used: int


class MachineUse:
    """Looks; the share of the processors is that since the look before, at first since the boot."""

    def __init__(self) -> None:
        self._busy = 0
        self._all = 0
        self._percent = 0.0

    def look(self) -> Use:
        """Return the use of the machine now; raises OSError."""
        memory = _meminfo()
        total = memory.get("MemTotal", 0)
        cache = memory.get("Cached", 0) + memory.get("Buffers", 0) + memory.get("SReclaimable", 0)
        disk = os.statvfs("/")
        return Use(
            time=time.time(),
            cpu_count=len(os.sched_getaffinity(0)),
            cpu_percent=self._share(),
            memory_total=total,
            memory_used=max(0, total - memory.get("MemFree", 0) - cache),
            memory_cache=cache,
            disk_total=disk.f_blocks * disk.f_frsize,
            disk_used=(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
        )

    def _share(self) -> float:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
        whole = sum(ticks)
        busy = whole - ticks[3] - ticks[4]  # idle, and idle while a disk is waited for
        if whole > self._all:
            self._percent = 100.0 * (busy - self._busy) / (whole - self._all)
            self._busy, self._all = busy, whole
        return round(max(0.0, min(100.0, self._percent)), 2)


def _meminfo() -> dict[str, int]:
    found: dict[str, int] = {}
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            words = rest.split()
            if words and words[0].isdigit():
                found[name] = int(words[0]) * KIB
    return found
