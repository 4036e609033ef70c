"""What a program exports by OTLP, whichever it is: its log, spans of its requests, its figures."""

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from sandkeeper.linux.children.children import Children
from sandkeeper.log.lines import Log
from sandkeeper.observability.otlp.shipping import SERVICE, Shipping
from sandkeeper.observability.otlp.spans import Spans
from sandkeeper.settings import Environment, OtlpSettings

if TYPE_CHECKING:
    from sandkeeper.observability.exposition import Exposition

__all__ = ["FLUSH_SECONDS", "Load", "Signals"]

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
FLUSH_SECONDS = 3.0

Load = Callable[[], Callable[[], "Exposition"]]
"""Called on a thread, for it may import; what it returns reads the figures on the event loop."""


class Signals:
    """`begin` and `end` on the event loop; `service` is the name that a collector sees."""

    def __init__(
        self,
        settings: OtlpSettings,
        children: Children,
        environment: Environment,
        log: Log,
        service: str = SERVICE,
    ) -> None:
        self._every = settings.metrics_seconds
        self.shipping = Shipping(settings.signals, children, environment, log, service)
        self._metrics = self.shipping.lanes.get("metrics")
        self._load: Load | None = None
        self._reading: asyncio.Task[None] | None = None

    def spans(self, groups: Collection[str]) -> Spans | None:
        """Return what is told of requests that are over, see `Spans`; None: no traces."""
        lane = self.shipping.lanes.get("traces")
        return None if lane is None else Spans(lane, self.shipping.wake, groups)

    def statistics(self) -> dict[str, dict[str, int]]:
        """Return what becomes of each signal; see `Lane.statistics`."""
        return self.shipping.statistics()

    def begin(self, load: Load, asked: Callable[[], int]) -> None:
        """Begin to export the figures of `load`; `asked` grows with each request."""
        self._load = load
        self.shipping.asked = asked
        self.shipping.start()
        if self._metrics is not None:
            self._reading = asyncio.ensure_future(self._read_on())

    async def end(self, seconds: float = FLUSH_SECONDS) -> None:
        """Export what there is, for at most so long."""
        if self._reading is not None:
            self._reading.cancel()
            await self._read()
        await self.shipping.close(seconds)

    async def _read_on(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self._read()

    async def _read(self) -> None:
        """Have the figures of `/metrics` exported as they are now."""
        assert self._load is not None
        assert self._metrics is not None
        read = await asyncio.to_thread(self._load)
        text, _ = await asyncio.to_thread(read().render, OPENMETRICS)
        self._metrics.replace(text)
        self.shipping.wake()
