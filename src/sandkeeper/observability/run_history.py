"""What each running process has used in the last quarter of an hour: where its charts begin.

A row every five seconds from one look at all (`observability.figures`), for 64 of them: 10 KB each.
A look that takes long is taken less often, so that all this costs a hundredth of a processor at
most; where nothing runs it costs nothing. Kept of one that is over until another one needs its
place.
"""

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes

if TYPE_CHECKING:
    from sandkeeper.observability.figures import Figures, Meter

__all__ = ["Past", "RunHistory"]

RUNS = 64
ROWS = 180
SHARE = 0.01
"""Of a processor, for looks."""
NAMES = ("cpuPercent", "memoryBytes", "processes", "threads", "stdoutBytes", "stderrBytes")
WIDTH = 1 + len(NAMES)


class Past:
    """Rows by the ids of runs, each with its time first; bounded, whatever is added."""

    def __init__(self) -> None:
        self._rows: dict[str, array[float]] = {}

    def add(self, found: Mapping[str, Sequence[float]]) -> None:
        """Add a row for each run that is not over.

        Where there are too many, new ones take the places of those that are over, and the rest of
        them has none.
        """
        spare = RUNS - len(self._rows) - len(found.keys() - self._rows.keys())
        for over in [one for one in self._rows if one not in found][: max(0, -spare)]:
            del self._rows[over]
        for run, row in found.items():
            if run in self._rows or len(self._rows) < RUNS:
                rows = self._rows.setdefault(run, array("d"))
                del rows[: max(0, len(rows) - (ROWS - 1) * WIDTH)]
                rows.extend(row)

    def page(self, run: str, since: float = 0.0) -> dict[str, Any]:
        """Return the rows of one after a time as a list of each figure; empty without any."""
        rows = self._rows.get(run, array("d"))
        places = [place for place in range(0, len(rows), WIDTH) if rows[place] > since]
        return {
            "times": [rows[place] for place in places],
            "figures": {
                name: [rows[place + column] for place in places]
                for column, name in enumerate(NAMES, 1)
            },
        }


class RunHistory:
    """Keeps it; `meter` is made when it is first needed. Event loop's thread only."""

    def __init__(self, processes: Processes, meter: "Callable[[], Meter]") -> None:
        self._processes = processes
        self._meter = meter
        self._past = Past()
        self._not_before = 0.0

    async def take(self) -> None:
        """Add a row to each of those that run."""
        running = [one for one in self._processes.registered() if not one.is_over]
        began = time.monotonic()
        if not running or began < self._not_before:
            return
        look = await self._meter().look(())
        self._not_before = began + (time.monotonic() - began) / SHARE
        self._past.add(
            {
                one.meta.id: (look.time, *_row(look.runs[one.meta.id], one))
                for one in running
                if one.meta.id in look.runs
            }
        )

    def page(self, process: Process, since: float = 0.0) -> dict[str, Any]:
        """Return the rows of one after a time (seconds since the epoch) as a list of each figure.

        They are empty where it is not one of those that are kept.
        """
        return self._past.page(process.meta.id, since)


def _row(found: "Figures", process: Process) -> tuple[float, ...]:
    used = found.cpu_percent, found.memory_bytes, found.processes, found.threads
    return (*used, *process.journal.totals[:2])
