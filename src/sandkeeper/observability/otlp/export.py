"""What a server exports by OTLP, all together: its log, output, spans and figures."""

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

from sandkeeper.journal.exported import EXPORTED_OTLP
from sandkeeper.linux.children.children import Children
from sandkeeper.log.access import Request
from sandkeeper.log.formats import Shipped
from sandkeeper.log.lines import Log
from sandkeeper.observability.otlp.signals import FLUSH_SECONDS, Signals
from sandkeeper.observability.renderer import Renderer
from sandkeeper.observability.telemetry import Exporter
from sandkeeper.settings import Environment, Settings

if TYPE_CHECKING:
    from sandkeeper.observability.exposition import Exposition
    from sandkeeper.observability.metrics import Vitals
    from sandkeeper.processes.registry import Processes

__all__ = ["Export"]

UPGRADE_SECONDS = 0.5
"""So long for what is left where clients wait for the server that comes next."""


class Export(Signals):
    """Made before the processes are; `start` and `stop` on the event loop."""

    def __init__(
        self,
        settings: Settings,
        children: Children,
        environment: Environment,
        log: Log,
        renderer: Renderer,
    ) -> None:
        super().__init__(settings.otlp, children, environment, log)
        self.exporter: Exporter | None = None
        lanes = self.shipping.lanes
        if "logs" in lanes and settings.log.process_exported:
            self.exporter = Exporter(self.shipping.wake, renderer, Shipped(), EXPORTED_OTLP)
            lanes["logs"].pull = self.exporter.pull

    def spans_for(
        self, groups: Collection[str], processes: "Processes"
    ) -> Callable[[Request], None] | None:
        """Return what is told of requests, and have processes told of as well; None: no traces."""
        spans = self.spans(groups)
        if spans is None:
            return None
        processes.when_over.append(spans.process)
        return spans.request

    def lag(self) -> dict[str, int]:
        """Return per process id how many bytes were not exported yet."""
        return {} if self.exporter is None else self.exporter.lag()

    def start(self, vitals: "Vitals") -> None:
        """Begin to export; `vitals` are what the figures are read from."""
        self.begin(partial(_load, vitals), lambda: vitals.requests.activity)

    async def stop(self, is_upgraded: Callable[[], bool]) -> None:
        """Export what there is, for a bounded time."""
        await self.end(UPGRADE_SECONDS if is_upgraded() else FLUSH_SECONDS)


def _load(vitals: "Vitals") -> "Callable[[], Exposition]":
    from sandkeeper.observability.exposition import Exposition

    return partial(Exposition.of, vitals)
