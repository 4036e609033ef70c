"""The interpreter's cyclic garbage collector, kept from making requests wait.

A full collection looks at every object there is while nothing else runs: 14 ms for what is
imported, and as much again for a thousand finished processes. So what has survived one is put
aside (`gc.freeze`), and the next looks only at what came since. Frozen objects still go when
their last reference does; only a cycle that dies after it was frozen stays, and for those there
is a thorough collection, once the heap has doubled and nobody is asking.
"""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sandkeeper.linux.allocator import give_back

__all__ = ["Heap", "hold_collections"]

TICK_SECONDS = 1.0
PATIENCE_TICKS = 60
QUIET_TICKS = 600
"""After so long what was put aside is looked at in any quiet second, however little it is."""
ROOM = 50_000
PAGE = os.sysconf("SC_PAGESIZE")
GROWN_BYTES = 64 << 20
TRIM_TICKS = 10
"""So often at most memory is given back that was used for a while, and so much is worth it."""
FULL = 2
"""The oldest generation."""


def hold_collections() -> None:
    """Collect nothing while modules are imported: what they make is here to stay."""
    gc.disable()


class Heap:
    """Owns the collector's settings; `asked` returns a count that grows with each request."""

    def __init__(self, asked: Callable[[], int]) -> None:
        self._asked = asked
        # What was put aside before us was looked at by whoever did so: the tests' nursery.
        self._settled = self._frozen = gc.get_freeze_count()
        self._full = self._counted = 0 if self._settled else 1
        self._ticks = 0 if self._settled else QUIET_TICKS
        self._resident = 0
        self._waited = 0
        self.thorough = 0

    @asynccontextmanager
    async def tended(self) -> AsyncIterator[None]:
        """Put aside what exists, collect again, and look after the rest while inside."""
        gc.freeze()  # looked at in the first quiet second: a start need not wait for it
        gc.callbacks.append(self._collected)
        gc.enable()
        task = asyncio.ensure_future(self._tend())
        try:
            yield
        finally:
            task.cancel()
            gc.callbacks.remove(self._collected)

    @property
    def overdue(self) -> bool:
        """Whether so much was put aside since the last thorough collection that one is due."""
        return self._frozen > 2 * self._settled + ROOM

    def collect(self) -> None:
        """Collect everything, also what was put aside; nothing else runs meanwhile."""
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._settled = self._frozen = gc.get_freeze_count()
        self._full = self._counted = 0
        self.thorough += 1

    async def trim(self) -> None:
        """Give freed memory back when there is much more of it than after the last time."""
        self._waited += 1
        size = resident()
        if not self._resident:
            self._resident = size
        if self._waited < TRIM_TICKS or size < self._resident + GROWN_BYTES:
            return
        await asyncio.to_thread(give_back)
        self._resident, self._waited = resident(), 0

    def _collected(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "stop" and info["generation"] == FULL:
            gc.freeze()
            self._full += 1

    async def _tend(self) -> None:
        overdue, ticks = 0, self._ticks
        before = self._asked()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            ticks += 1
            await self.trim()
            asked = self._asked()
            quiet, before = asked == before, asked
            if self._counted != self._full:
                self._counted = self._full
                self._frozen = gc.get_freeze_count()  # which counts them, one by one
            overdue = overdue + 1 if self.overdue else 0
            due = overdue or (self._full and ticks > QUIET_TICKS)
            if due and (quiet or overdue > PATIENCE_TICKS):
                self.collect()
                overdue = ticks = 0


def resident() -> int:
    """Return the bytes of this process that are in memory (proc_pid_statm(5))."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE
