"""What the server counts about itself, at a cost that no request can feel.

Counting is integers in slots; nothing here imports a metrics library. What can be asked of the
services (states, sizes, lags) is not counted at all but gathered when somebody looks: `Vitals`.
"""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from sandkeeper.journal.budget import Budget
from sandkeeper.journal.pump import Pump
from sandkeeper.linux.clocks import STILL_SECONDS, WORK
from sandkeeper.linux.keeper.client import Keeper
from sandkeeper.log.sink import Sink
from sandkeeper.observability.telemetry import Exporter
from sandkeeper.processes.lifecycle import State

if TYPE_CHECKING:
    from sandkeeper.processes.registry import Processes

__all__ = ["BOUNDS", "CONSUMERS", "Histogram", "Lag", "LoopDelay", "Requests", "Vitals"]

BOUNDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the buckets in seconds; one more holds what is slower."""

CONSUMERS = ("telemetry", "otlp", "logs", "events", "exec", "wait")
"""Who reads journals."""

OTHER = "other"
SAMPLE_SECONDS = 0.5


class Histogram:
    """Counts of durations per bucket, their sum and the longest; seconds."""

    __slots__ = ("counts", "longest", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.longest = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds


class RouteGroup:
    """The requests to one area: their answers' status classes and times to the first byte."""

    __slots__ = ("seconds", "statuses")

    def __init__(self) -> None:
        self.seconds = Histogram()
        self.statuses = [0] * 6


class Requests:
    """Requests by route group; a group is the first segment of a known route.

    Paths of clients never become names, so there are as many series as routes.
    """

    def __init__(self) -> None:
        self.groups: dict[str, RouteGroup] = {OTHER: RouteGroup()}
        self.in_flight = 0
        self.activity = 0
        self.websockets = 0
        self.answers: Callable[[], dict[str, int]] = dict

    def name_groups(self, names: Iterable[str]) -> None:
        """Give these groups a series of their own."""
        for name in names:
            self.groups.setdefault(name, RouteGroup())

    def begun(self) -> None:
        """Count a request. `activity` grows with each that begins or ends."""
        self.in_flight += 1
        self.activity += 1

    def ended(self, path: str, status: int, seconds: float) -> None:
        """Count the answer to a request that was counted: it began `seconds` after that."""
        self.in_flight -= 1
        self.answered(path, status, seconds)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request and its answer, which has been given at once."""
        self.activity += 1
        group = self.groups.get(path[1:].partition("/")[0]) or self.groups[OTHER]
        group.statuses[min(status // 100, 5)] += 1
        group.seconds.observe(seconds)


class LoopDelay:
    """How late the event loop runs what is due: one timer, twice a second."""

    def __init__(self) -> None:
        self.seconds = Histogram()
        self._longest = 0.0

    def take_longest(self) -> float:
        """Return the longest delay since the last call, in seconds."""
        longest, self._longest = self._longest, 0.0
        return longest

    @asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """Take samples while inside."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def sample(due: float) -> None:
            nonlocal timer
            now = loop.time()
            late = max(0.0, now - due)
            timer = loop.call_at(now + SAMPLE_SECONDS, sample, now + SAMPLE_SECONDS)
            WORK.beat()
            if late < STILL_SECONDS:  # else nothing was due: the machine stood still
                self.seconds.observe(late)
                self._longest = max(self._longest, late)

        first = loop.time() + SAMPLE_SECONDS
        timer = loop.call_at(first, sample, first)
        WORK.beat()
        try:
            yield
        finally:
            timer.cancel()
            WORK.rest()


class OfSignals(Protocol):
    """What exports to a collector (`observability.otlp`)."""

    def statistics(self) -> dict[str, dict[str, int]]:
        """Return by signal: `queuedBytes`, `sent`, `dropped`, `failing`."""


class Exported(OfSignals, Protocol):
    """The same with the output of processes."""

    def lag(self) -> dict[str, int]:
        """Return per process id how many bytes were not exported yet."""


class Lag(msgspec.Struct, frozen=True):
    """How far one reader is behind the end of one journal: bytes, and for how long it has read."""

    consumer: str
    process: str
    name: str
    offset: int
    lag: int
    seconds: float


class Vitals(msgspec.Struct, frozen=True):
    """Everything that can be asked of the services; all methods on the event loop's thread."""

    processes: "Processes"
    pump: Pump
    sink: Sink
    budget: Budget
    keeper: Keeper
    exporter: Exporter | None
    otlp: Exported | None = None
    requests: Requests = msgspec.field(default_factory=Requests)
    delay: LoopDelay = msgspec.field(default_factory=LoopDelay)
    since: float = msgspec.field(default_factory=monotonic)

    def states(self) -> dict[str, int]:
        """Count processes by state; every state is there."""
        counted = Counter(process.state for process in self.processes.all())
        return {state.value: counted[state] for state in State}

    def lags(self) -> list[Lag]:
        """Return every reader of every journal, the furthest behind first.

        Telemetry and OTLP are listed only where they are behind: most processes are long exported.
        """
        found: list[Lag] = []
        now = monotonic()
        exports = {"telemetry": self.exporter, "otlp": self.otlp}
        exported = {name: one.lag() for name, one in exports.items() if one is not None}
        for process in self.processes.all():
            meta, tail = process.meta, process.journal.tail
            for consumer, lags in exported.items():
                if behind := lags.get(meta.id, 0):
                    found.append(Lag(consumer, meta.id, meta.name, tail - behind, behind, 0.0))
            for reader in process.journal.followers:
                lag = max(0, tail - reader.taken)
                age = now - reader.since
                found.append(Lag(reader.consumer, meta.id, meta.name, reader.taken, lag, age))
        found.sort(key=lambda item: -item.lag)
        return found

    def journals(self) -> dict[str, int]:
        """Return bytes written, kept and lost of all known journals, and the bounds (0: none)."""
        journals = [process.journal for process in self.processes.all()]
        return {
            "journals": len(journals),
            "keptBytes": sum(journal.kept for journal in journals),
            "lostBytes": sum(journal.lost for journal in journals),
            "runLimitBytes": self.budget.run_bytes,
            "totalLimitBytes": self.budget.total_bytes,
        }

    def loop_delay(self) -> dict[str, Any]:
        """Return how many samples were taken, their mean and the longest delay, in seconds."""
        counts, total = sum(self.delay.seconds.counts), self.delay.seconds.total
        mean = total / counts if counts else 0.0
        return {"samples": counts, "mean": mean, "longest": self.delay.seconds.longest}
