"""The kernel's table of processes, read from /proc in one pass.

Only what a tree needs is taken: parent, group, session, state, start time and name, and what it
uses. Numbers are compared as numbers: 12 is not a part of 123.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from sandkeeper.linux.procstat import read_stat

__all__ = ["Process", "Trees", "group_members", "read_process", "read_processes", "tree_of"]

PAGE = os.sysconf("SC_PAGESIZE")
TICK = 1 / os.sysconf("SC_CLK_TCK")


class Process(msgspec.Struct, frozen=True):
    """One process; `started` is in clock ticks since boot and tells reused pids apart.

    `cpu_seconds` counts the children it has waited for, `memory_bytes` pages that others share.
    """

    pid: int
    parent: int
    group: int
    session: int
    state: str
    started: int
    name: str
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    threads: int = 1

    @property
    def alive(self) -> bool:
        """Whether it is more than a status that waits to be taken."""
        return self.state not in "ZXx"


def read_process(pid: int) -> Process | None:
    """Read one process; None when there is none of that number."""
    found = read_stat(pid)
    if found is None or len(found[1]) < 22:
        return None
    name, fields = found
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        state=fields[0].decode("latin-1"),
        started=int(fields[19]),
        name=name.decode("utf-8", "replace"),
        cpu_seconds=sum(map(int, fields[11:15])) * TICK,
        memory_bytes=int(fields[21]) * PAGE,
        threads=int(fields[17]),
    )


def read_processes() -> dict[int, Process]:
    """Read all processes that can be seen; blocks for some microseconds for each."""
    found: dict[int, Process] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            process = read_process(int(entry))
            if process is not None:
                found[process.pid] = process
    return found


class Trees:
    """Trees of one look at the table, for whoever asks for many of them."""

    def __init__(self, processes: Mapping[int, Process]) -> None:
        self._processes = processes
        self._children: dict[int, list[int]] = defaultdict(list)
        self._members: dict[int, list[int]] = defaultdict(list)
        for one in processes.values():
            self._children[one.parent].append(one.pid)
            for place in {one.group, one.session}:
                self._members[place].append(one.pid)

    def of(self, pid: int) -> list[int]:
        """Return `pid`, its descendants and the members of its group and session, ancestors first.

        A daemon that forked twice has lost its line of parents, but keeps its group or session
        unless it left both; the group outlives its leader, so `pid` itself need not exist any more.
        Of pids up to 1 nothing is expanded: everything descends from init.
        """
        if pid <= 1:
            return [pid] if pid == 1 else []
        members = self._members.get(pid, [])
        return self._closure([pid, *members] if pid in self._processes else members)

    def _closure(self, roots: Iterable[int]) -> list[int]:
        seen: dict[int, None] = dict.fromkeys(roots)
        queue = list(seen)
        for pid in queue:
            for child in self._children.get(pid, ()):
                if child not in seen:
                    seen[child] = None
                    queue.append(child)
        return queue


def tree_of(pid: int, processes: Mapping[int, Process] | None = None) -> list[int]:
    """Return the tree of one process, as `Trees.of` does."""
    return Trees(read_processes() if processes is None else processes).of(pid)


def group_members(group: int) -> list[int]:
    """Return the living processes of a process group or of the session of that number."""
    return [
        process.pid
        for process in read_processes().values()
        if process.alive and group in (process.group, process.session)
    ]
