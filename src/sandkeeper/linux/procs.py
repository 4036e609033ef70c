"""The kernel's table of processes, read from /proc in one pass.

Only what a tree needs is taken: parent, group, session, state, start time and name. Numbers are
compared as numbers: 12 is not a part of 123.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sandkeeper.linux.procstat import read_stat

__all__ = ["Process", "group_members", "read_process", "read_processes", "tree_of"]


@dataclass(frozen=True, slots=True)
class Process:
    """One process; `started` is in clock ticks since boot and tells reused pids apart."""

    pid: int
    parent: int
    group: int
    session: int
    state: str
    started: int
    name: str

    @property
    def alive(self) -> bool:
        """Whether it is more than a status that waits to be taken."""
        return self.state not in "ZXx"


def read_process(pid: int) -> Process | None:
    """Read one process; None when there is none of that number."""
    found = read_stat(pid)
    if found is None:
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


def tree_of(pid: int, processes: Mapping[int, Process] | None = None) -> list[int]:
    """Return `pid`, its descendants and the members of its group and session, ancestors first.

    A daemon that forked twice has lost its line of parents, but keeps its group or session unless
    it left both; the group outlives its leader, so `pid` itself need not exist any more. Of pids
    up to 1 nothing is expanded: everything descends from init.
    """
    if pid <= 1:
        return [pid] if pid == 1 else []
    table = read_processes() if processes is None else processes
    children: dict[int, list[int]] = defaultdict(list)
    for process in table.values():
        children[process.parent].append(process.pid)
    members = [one.pid for one in table.values() if pid in (one.group, one.session)]
    return _closure([pid, *members] if pid in table else members, children)


def _closure(roots: Iterable[int], children: Mapping[int, list[int]]) -> list[int]:
    seen: dict[int, None] = dict.fromkeys(roots)
    queue = list(seen)
    for pid in queue:
        for child in children.get(pid, ()):
            if child not in seen:
                seen[child] = None
                queue.append(child)
    return queue


def group_members(group: int) -> list[int]:
    """Return the living processes of a process group or of the session of that number."""
    return [
        process.pid
        for process in read_processes().values()
        if process.alive and group in (process.group, process.session)
    ]
