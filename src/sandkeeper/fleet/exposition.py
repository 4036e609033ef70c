"""A replica's figures as Prometheus reads them. Imported when somebody asks for them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from sandkeeper.observability.exposition import (
    PREFIX,
    Exposition,
    buckets,
    log_families,
    otlp_families,
    request_families,
)

if TYPE_CHECKING:
    from sandkeeper.fleet.services import FleetServices

__all__ = ["exposition"]

FLEET = PREFIX + "fleet_"


def exposition(services: "FleetServices") -> Exposition:
    """Read all figures; `render` them on any thread."""
    return Exposition(
        [
            *_fleet(services),
            *_watches(services),
            *log_families(services.sink),
            *otlp_families(services.otlp),
            *request_families(services.requests),
        ]
    )


def _fleet(services: "FleetServices") -> Iterator[Metric]:
    sandboxes = GaugeMetricFamily(
        FLEET + "sandboxes",
        "Sandboxes of the whole fleet, as this replica knows it",
        labels=["state"],
    )
    for state, count in services.claims.states().items():
        sandboxes.add_metric([state], count)
    yield sandboxes
    figures = services.fleet.figures
    creations = CounterMetricFamily(
        FLEET + "creations", "Creations that this replica was asked for", labels=["outcome"]
    )
    for outcome in ("made", "failed", "refused"):
        creations.add_metric([outcome], getattr(figures, outcome))
    yield creations
    yield HistogramMetricFamily(
        FLEET + "creation_seconds",
        "From an order to a sandbox that is ready",
        buckets=buckets(figures.creations),
        sum_value=figures.creations.total,
    )
    routed = CounterMetricFamily(FLEET + "routed", "Requests for sandboxes", labels=["outcome"])
    routed.add_metric(["passed"], figures.routed)
    routed.add_metric(["refused"], figures.unroutable)
    yield routed
    yield GaugeMetricFamily(FLEET + "keys", "API keys that are known", len(services.keys))


def _watches(services: "FleetServices") -> Iterator[Metric]:
    lists = CounterMetricFamily(FLEET + "lists", "Times all of a kind was listed", labels=["of"])
    watches = CounterMetricFamily(FLEET + "watches", "Watches begun", labels=["of"])
    follows = GaugeMetricFamily(
        FLEET + "follows", "Whether a kind is followed, from event to event", labels=["of"]
    )
    for one in services.watched:
        follows.add_metric([one.name], one.follows)
        lists.add_metric([one.name], one.lists)
        watches.add_metric([one.name], one.watches)
    yield from (lists, watches, follows)
