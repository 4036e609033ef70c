"""Wire structs of what running processes use."""

import msgspec
from msgspec import UNSET, UnsetType

from sandkeeper.observability.figures import Figures
from sandkeeper.processes.process import Process

__all__ = ["AllFigures", "OneFigures", "RunFigures", "figures_of"]


class RunFigures(msgspec.Struct, rename="camel"):
    """What one process uses with all it has started; sizes in bytes.

    `cpuPercent` is of one processor: 200 are two that are busy. `memoryLimitBytes` is null without
    a limit. `ports` are there where they were asked for.
    """

    id: str
    pid: str
    name: str
    cpu_seconds: float
    cpu_percent: float
    memory_bytes: int
    memory_limit_bytes: int | None
    processes: int
    threads: int
    stdout_bytes: int
    stderr_bytes: int
    ports: list[int] | UnsetType = UNSET


class AllFigures(msgspec.Struct, rename="camel"):
    """The answer of `GET /process-stats`; `time` is RFC 3339."""

    time: str
    cpu_count: int
    processes: list[RunFigures]


class OneFigures(RunFigures, kw_only=True):
    """The answer of `GET /process/{identifier}/stats`."""

    time: str
    cpu_count: int


def figures_of(process: Process, found: Figures | None, ports: list[int] | UnsetType) -> RunFigures:
    """Make the record of one; without figures those of a process that is over."""
    meta, journal = process.meta, process.journal
    used = found or Figures(cpu_seconds=meta.cpu_seconds or 0.0)
    return RunFigures(
        id=meta.id,
        pid=meta.pid,
        name=meta.name,
        cpu_seconds=used.cpu_seconds,
        cpu_percent=used.cpu_percent,
        memory_bytes=used.memory_bytes,
        memory_limit_bytes=meta.limits.memory_bytes if meta.limits is not None else None,
        processes=used.processes,
        threads=used.threads,
        stdout_bytes=journal.totals[0],
        stderr_bytes=journal.totals[1],
        ports=ports,
    )
