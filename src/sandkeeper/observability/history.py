"""The figures of the last quarter of an hour: what charts show before anybody looked.

One row of numbers every five seconds, 180 of them (30 KB). What belongs to the machine is read in
a worker thread, what the services know on the event loop's.
"""

import asyncio
import socket
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from math import isnan, nan
from typing import Any

from sandkeeper.linux.fds import lacks_descriptors
from sandkeeper.linux.worker import lacks_threads
from sandkeeper.log.lines import Log
from sandkeeper.observability.heap import resident
from sandkeeper.observability.machine_use import MachineUse, Use
from sandkeeper.observability.metrics import CONSUMERS, Vitals
from sandkeeper.observability.run_history import RunHistory
from sandkeeper.processes.lifecycle import TERMINAL

__all__ = ["History"]

EVERY_SECONDS = 5.0
FIRST_SECONDS = 1.0
ROWS = 180
TCP_LISTEN = 1 << 10


class History:
    """Keeps them, and those of `runs`; `gauges` are counts that other services give.

    Event loop's thread only.
    """

    def __init__(
        self, vitals: Vitals, gauges: Mapping[str, Callable[[], int]], runs: RunHistory, log: Log
    ) -> None:
        self.runs = runs
        self._log = log
        self._is_short = False
        self._vitals = vitals
        self._gauges = gauges
        self._machine = MachineUse()
        self._rows: deque[array[float]] = deque(maxlen=ROWS)
        self._carried = 0
        self._names = (
            *("cpuPercent", "memoryUsedBytes", "memoryTotalBytes", "diskUsedBytes"),
            *("diskTotalBytes", "ports", "serverBytes", "loopDelaySeconds", "processes"),
            *("outputBytes", "requestsInFlight", "websockets"),
            *gauges,
            *(f"lag.{name}" for name in CONSUMERS),
        )

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Add a row every five seconds while inside."""
        task = asyncio.ensure_future(self._keep())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def page(self, since: float = 0.0) -> dict[str, Any]:
        """Return the rows after a time (seconds since the epoch) as a list for each figure.

        What could not be read is None. `outputBytes` are those that processes wrote since the row
        before, `loopDelaySeconds` the longest delay since then.
        """
        rows = [row for row in self._rows if row[0] > since]
        figures = {
            name: [None if isnan(row[place]) else row[place] for row in rows]
            for place, name in enumerate(self._names, 1)
        }
        times = [row[0] for row in rows]
        return {"everySeconds": EVERY_SECONDS, "times": times, "figures": figures}

    async def _keep(self) -> None:
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            try:
                self._rows.append(await self._row())
                await self.runs.take()
            except Exception as error:  # a row is left out, and the next is tried
                if not (lacks_threads(error) or lacks_descriptors(error)):
                    raise
                self._tell_gap(error)
            else:
                self._is_short = False
            await asyncio.sleep(EVERY_SECONDS)

    def _tell_gap(self, error: Exception) -> None:
        if not self._is_short:  # once, until there is room again
            self._is_short = True
            self._log.warning(f"charts have no rows for a while: {error}")

    async def _row(self) -> "array[float]":
        use, ports, size = await asyncio.to_thread(self._look)
        vitals = self._vitals
        states, lags = vitals.states(), dict.fromkeys(CONSUMERS, 0)
        for item in vitals.lags():
            lags[item.consumer] = max(lags.get(item.consumer, 0), item.lag)
        carried = sum(vitals.pump.carried)
        written, self._carried = carried - self._carried, carried
        running = sum(count for state, count in states.items() if state not in TERMINAL)
        machine = (nan,) * 5
        if use is not None:
            machine = (
                *(use.cpu_percent, use.memory_used, use.memory_total),
                *(use.disk_used, use.disk_total),
            )
        figures = (
            *machine,
            *(ports, size, vitals.delay.take_longest(), running, written),
            *(vitals.requests.in_flight, vitals.requests.websockets),
            *(count() for count in self._gauges.values()),
            *(lags[name] for name in CONSUMERS),
        )
        return array("d", (use.time if use else nan, *figures))

    def _look(self) -> tuple[Use | None, float, int]:
        try:
            use: Use | None = self._machine.look()
        except OSError:
            use = None
        return use, _listening(), resident()


def _listening() -> float:
    """Return how many TCP ports somebody listens on; NaN where the kernel does not tell."""
    from sandkeeper.network.sockdiag import dump  # after the start, which needs none of it

    try:
        return len(
            {
                row.local_port
                for family in (socket.AF_INET, socket.AF_INET6)
                for row in dump(family, socket.IPPROTO_TCP, TCP_LISTEN)
            }
        )
    except OSError:
        return nan
