"""What a server exports by OTLP, all together: its log, output, spans and figures."""

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from sandkeeper.journal.exported import EXPORTED_OTLP
from sandkeeper.linux.children.children import Children
from sandkeeper.log.access import Request
from sandkeeper.log.formats import Shipped
from sandkeeper.log.lines import Log
from sandkeeper.observability.otlp.shipping import Shipping
from sandkeeper.observability.otlp.spans import Spans
from sandkeeper.observability.renderer import Renderer
from sandkeeper.observability.telemetry import Exporter
from sandkeeper.settings import Environment, Settings

if TYPE_CHECKING:
    from sandkeeper.observability.exposition import Exposition
    from sandkeeper.observability.metrics import Vitals
    from sandkeeper.processes.registry import Processes

__all__ = ["Export"]

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
FLUSH_SECONDS = 3.0
UPGRADE_SECONDS = 0.5
"""The same where clients wait for the server that comes next."""


class Export:
    """Made before the processes are; `start` and `stop` on the event loop."""

    def __init__(
        self,
        settings: Settings,
        children: Children,
        environment: Environment,
        log: Log,
        renderer: Renderer,
    ) -> None:
        self._every = settings.otlp.metrics_seconds
        self.shipping = Shipping(settings.otlp.signals, children, environment, log)
        self.exporter: Exporter | None = None
        lanes = self.shipping.lanes
        if "logs" in lanes and settings.log.process_exported:
            self.exporter = Exporter(self.shipping.wake, renderer, Shipped(), EXPORTED_OTLP)
            lanes["logs"].pull = self.exporter.pull
        self._metrics = lanes.get("metrics")
        self._vitals: Vitals | None = None
        self._reading: asyncio.Task[None] | None = None

    def spans_for(
        self, groups: Collection[str], processes: "Processes"
    ) -> Callable[[Request], None] | None:
        """Return what is told of requests, and have processes told of as well; None: no traces."""
        lane = self.shipping.lanes.get("traces")
        if lane is None:
            return None
        spans = Spans(lane, self.shipping.wake, groups)
        processes.when_over.append(spans.process)
        return spans.request

    def lag(self) -> dict[str, int]:
        """Return per process id how many bytes were not exported yet."""
        return {} if self.exporter is None else self.exporter.lag()

    def statistics(self) -> dict[str, dict[str, int]]:
        """Return what becomes of each signal; see `Lane.statistics`."""
        return self.shipping.statistics()

    def start(self, vitals: "Vitals") -> None:
        """Begin to export; `vitals` are what the figures are read from."""
        self._vitals = vitals
        self.shipping.asked = lambda: vitals.requests.activity
        self.shipping.start()
        if self._metrics is not None:
            self._reading = asyncio.ensure_future(self._read_on())

    async def stop(self, is_upgraded: Callable[[], bool]) -> None:
        """Export what there is, for a bounded time."""
        if self._reading is not None:
            self._reading.cancel()
            await self._read()
        await self.shipping.close(UPGRADE_SECONDS if is_upgraded() else FLUSH_SECONDS)

    async def _read_on(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self._read()

    async def _read(self) -> None:
        """Have the figures of `/metrics` exported as they are now."""
        assert self._vitals is not None
        assert self._metrics is not None
        exposition = await asyncio.to_thread(_exposition)
        reading = exposition.of(self._vitals)
        text, _ = await asyncio.to_thread(reading.render, OPENMETRICS)
        self._metrics.replace(text)
        self.shipping.wake()


def _exposition() -> type["Exposition"]:
    from sandkeeper.observability.exposition import Exposition

    return Exposition
