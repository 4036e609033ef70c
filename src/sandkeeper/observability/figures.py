"""What running processes use: processor time and memory of each tree, and the ports it listens on.

One look reads /proc once for all, in a thread, and serves everybody who asks within half a second;
so what it costs does not grow with those who watch.

The kernel counts a process's time until somebody has waited for it, and then with that one's. What
a daemon has used whom init has waited for is gone from its tree: it is kept here, so that sums
never fall. A run with limits is counted by its control group, which forgets nothing.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandkeeper.linux.cgroups import Confinement
from sandkeeper.linux.procs import Process as Entry
from sandkeeper.linux.procs import Trees, read_processes
from sandkeeper.network.ports import Ports
from sandkeeper.once import Recent
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes

__all__ = ["Figures", "Look", "Meter"]

LOOK_SECONDS = 0.5
NEW_SECONDS = 0.05
"""Whoever asks for a process that was not there at the last look has another after so long."""
PORTS_SECONDS = 1.0
WINDOW_SECONDS = 15.0
"""Over a longer time than that a share of the processor says nothing of now."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run uses with all that belongs to it; `cpu_percent` is of one processor."""

    cpu_seconds: float = 0.0
    cpu_percent: float = 0.0
    memory_bytes: int = 0
    processes: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """Figures by the ids of runs that were not over at `time` (seconds since the epoch)."""

    time: float
    cpu_count: int
    runs: Mapping[str, Figures]


@dataclass(frozen=True, slots=True)
class _Run:
    """What a thread must know of a run."""

    id: str
    leader: int
    former_seconds: float
    started_at: float
    groups: Confinement


@dataclass(slots=True)
class _Past:
    """What was told of a run at `at` (a steady clock), and what its members took with them."""

    at: float
    seconds: float
    carried: float = 0.0


class Meter:
    """Looks at all processes of the registry; event loop's thread only."""

    def __init__(self, processes: Processes, ports: Ports) -> None:
        self._processes = processes
        self._ports = ports
        self._past: dict[str, _Past] = {}
        self._cpu_count = len(os.sched_getaffinity(0))
        self._looks = Recent(self._look)
        self._listening = Recent(self._look_for_ports)

    async def look(self, wanted: Sequence[Process]) -> Look:
        """Return a look at most half a second old; younger where one of `wanted` is newer."""
        found = await self._looks.get(LOOK_SECONDS)
        if any(not one.is_over and one.meta.id not in found.runs for one in wanted):
            found = await self._looks.get(NEW_SECONDS)
        return found

    async def ports(self) -> Mapping[str, list[int]]:
        """Return the ports that each run listens on; raises OSError where nobody can tell."""
        return await self._listening.get(PORTS_SECONDS)

    def _running(self) -> list[Process]:
        return [one for one in self._processes.registered() if not one.is_over]

    async def _look(self) -> Look:
        runs = [_run(one) for one in self._running()]
        found = await asyncio.to_thread(_measured, runs)
        now = time.monotonic()
        told = {run.id: self._told(run, found[run.id], now) for run in runs}
        self._past = {run.id: self._past[run.id] for run in runs}
        return Look(time.time(), self._cpu_count, told)

    def _told(self, run: _Run, found: Figures, now: float) -> Figures:
        past = self._past.get(run.id)
        if past is None or now - past.at > WINDOW_SECONDS:
            carried = past.carried if past is not None else 0.0
            past = self._past[run.id] = _Past(now, found.cpu_seconds + carried, carried)
            used, span = found.cpu_seconds - run.former_seconds, time.time() - run.started_at
        else:
            lost = past.seconds - found.cpu_seconds - past.carried
            past.carried += max(0.0, lost)
            used, span = found.cpu_seconds + past.carried - past.seconds, now - past.at
            if span >= LOOK_SECONDS:
                past.at, past.seconds = now, found.cpu_seconds + past.carried
        percent = 100 * used / span if span > 0 else 0.0
        return Figures(
            cpu_seconds=round(found.cpu_seconds + past.carried, 3),
            cpu_percent=round(max(0.0, min(percent, 100.0 * self._cpu_count)), 1),
            memory_bytes=found.memory_bytes,
            processes=found.processes,
            threads=found.threads,
        )

    async def _look_for_ports(self) -> Mapping[str, list[int]]:
        leaders = {one.meta.id: one.leader for one in self._running() if one.leader}
        found = await self._ports.of_trees(leaders.values())
        trees = {run: found.get(leader) for run, leader in leaders.items()}
        return {run: sorted(tree.listening) if tree else [] for run, tree in trees.items()}


def _run(process: Process) -> _Run:
    meta = process.meta
    folders = {name: Path(folder) for name, folder in meta.groups.items()}
    groups = Confinement(folders, {})
    return _Run(meta.id, process.leader, meta.cpu_seconds or 0.0, meta.started_at, groups)


def _measured(runs: Sequence[_Run]) -> dict[str, Figures]:
    """Look once for all; blocks."""
    table = read_processes()
    trees = Trees(table)
    return {run.id: _of_run(run, table, trees) for run in runs}


def _of_run(run: _Run, table: Mapping[int, Entry], trees: Trees) -> Figures:
    pids = {*(trees.of(run.leader) if run.leader else ()), *run.groups.members()}
    members = [table[pid] for pid in pids if pid in table]
    alive = [one for one in members if one.alive]
    seconds, memory = run.groups.cpu_seconds(), run.groups.memory_bytes()
    if seconds is None:
        seconds = run.former_seconds + sum(one.cpu_seconds for one in members)
    if memory is None:
        memory = sum(one.memory_bytes for one in alive)
    return Figures(
        cpu_seconds=seconds,
        memory_bytes=memory,
        processes=len(alive),
        threads=sum(one.threads for one in alive),
    )
