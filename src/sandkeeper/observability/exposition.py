"""The server's figures as Prometheus reads them. Imported when somebody asks for them.

The registry is our own; its one collector copies what `observability.metrics` gathered on the event
loop's thread, so that rendering may take place on another.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from time import monotonic

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sandkeeper import __version__
from sandkeeper.journal.segment import OUTPUT
from sandkeeper.log.sink import Sink
from sandkeeper.observability.metrics import (
    BOUNDS,
    CONSUMERS,
    Histogram,
    OfSignals,
    Requests,
    Vitals,
)

__all__ = [
    "PREFIX",
    "Exposition",
    "buckets",
    "log_families",
    "otlp_families",
    "request_families",
]

PREFIX = "sandkeeper_"
CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")


class Exposition(Collector):
    """One reading of all figures; make it on the event loop's thread, `render` it on any."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    @classmethod
    def of(cls, vitals: Vitals) -> "Exposition":
        """Read the figures of a server inside a sandbox."""
        return cls(
            [
                *_server(vitals),
                *_processes(vitals),
                *_journals(vitals),
                *_lags(vitals),
                *log_families(vitals.sink),
                *otlp_families(vitals.otlp),
                *request_families(vitals.requests),
            ]
        )

    def collect(self) -> Iterator[Metric]:
        """Give the families to the registry."""
        return iter(self._families)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the text and its media type: OpenMetrics where `accept` prefers it."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        encode, media_type = choose_encoder(accept)
        return encode(registry), media_type


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value)


def buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return upper bounds and how many durations were not longer."""
    running, made = 0, []
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), histogram.counts, strict=True):
        running += count
        made.append((bound, float(running)))
    return made


def _server(vitals: Vitals) -> Iterator[Metric]:
    info = GaugeMetricFamily(PREFIX + "info", "The version, always 1", labels=["version"])
    info.add_metric([__version__], 1)
    yield info
    up = monotonic() - vitals.since
    yield _gauge("uptime_seconds", "Time since the server was built", up)
    delay = vitals.delay.seconds
    yield HistogramMetricFamily(
        PREFIX + "loop_delay_seconds",
        "How late the event loop ran what was due",
        buckets=buckets(delay),
        sum_value=delay.total,
    )


def _processes(vitals: Vitals) -> Iterator[Metric]:
    states = GaugeMetricFamily(PREFIX + "processes", "Known processes by state", labels=["state"])
    for state, count in vitals.states().items():
        states.add_metric([state], count)
    yield states
    carried = CounterMetricFamily(
        PREFIX + "output_bytes", "Bytes carried from processes to journals", labels=["stream"]
    )
    for stream in OUTPUT:
        carried.add_metric([stream.wire], vitals.pump.carried[stream])
    yield carried
    queues = GaugeMetricFamily(PREFIX + "pump_queue", "What the pump has before it", labels=["of"])
    for name, value in vitals.pump.statistics().items():
        queues.add_metric([name], value)
    yield queues
    keeper = vitals.keeper.statistics()
    yield _gauge("keeper_connected", "Whether pipes outlive this server", keeper["connected"])


def _journals(vitals: Vitals) -> Iterator[Metric]:
    journals = vitals.journals()
    yield _gauge("journal_bytes", "Output kept on disk", journals["keptBytes"])
    yield _gauge(
        "journal_lost_bytes",
        "Output of known processes that is not kept any more",
        journals["lostBytes"],
    )
    yield _gauge(
        "journal_limit_bytes", "Bound of all journals, 0 for none", journals["totalLimitBytes"]
    )


def _lags(vitals: Vitals) -> Iterator[Metric]:
    behind: defaultdict[str, list[int]] = defaultdict(list, {name: [] for name in CONSUMERS})
    for item in vitals.lags():
        behind[item.consumer].append(item.lag)
    total, most, readers = (
        GaugeMetricFamily(PREFIX + name, text, labels=["consumer"])
        for name, text in (
            ("consumer_lag_bytes", "Bytes that readers of journals have still before them"),
            ("consumer_lag_max_bytes", "The same of the one furthest behind"),
            ("consumers", "Readers of journals (of telemetry, those that are behind)"),
        )
    )
    for name, lags in behind.items():
        total.add_metric([name], sum(lags))
        most.add_metric([name], max(lags, default=0))
        readers.add_metric([name], len(lags))
    yield from (total, most, readers)


def log_families(log: Sink) -> Iterator[Metric]:
    """Give what the log counts."""
    sink = log.statistics()
    yield _gauge("log_queue_bytes", "Log lines that wait for their reader", sink["queuedBytes"])
    yield _counter("log_dropped_lines", "Log lines the queue could not hold", sink["droppedLines"])
    yield _counter("log_written_bytes", "Bytes written to the log", sink["writtenBytes"])


def otlp_families(otlp: OfSignals | None) -> Iterator[Metric]:
    """Give what becomes of each signal; nothing where no collector is named."""
    if otlp is None:
        return
    queued = GaugeMetricFamily(
        PREFIX + "otlp_queue_bytes", "What waits for a collector's answer", labels=["signal"]
    )
    failing = GaugeMetricFamily(
        PREFIX + "otlp_failing", "Whether a collector does not take a signal", labels=["signal"]
    )
    sent = CounterMetricFamily(
        PREFIX + "otlp_sent", "Log records, spans and readings it took", labels=["signal"]
    )
    dropped = CounterMetricFamily(
        PREFIX + "otlp_dropped", "The same, lost: no room, or refused for good", labels=["signal"]
    )
    for signal, found in otlp.statistics().items():
        queued.add_metric([signal], found["queuedBytes"])
        failing.add_metric([signal], found["failing"])
        sent.add_metric([signal], found["sent"])
        dropped.add_metric([signal], found["dropped"])
    yield from (queued, failing, sent, dropped)


def request_families(requests: Requests) -> Iterator[Metric]:
    """Give what was counted of requests."""
    yield _gauge("requests_in_flight", "Requests that are being answered", requests.in_flight)
    yield _gauge("websockets", "Open WebSockets", requests.websockets)
    answers = CounterMetricFamily(
        PREFIX + "requests", "Answers by status class", labels=["group", "status"]
    )
    seconds = HistogramMetricFamily(
        PREFIX + "request_seconds", "Time until an answer began", labels=["group"]
    )
    for name, group in requests.groups.items():
        if not any(group.statuses):
            continue
        for status, count in zip(CLASSES, group.statuses, strict=True):
            if count:
                answers.add_metric([name or "root", status], count)
        histogram = group.seconds
        seconds.add_metric([name or "root"], buckets(histogram), histogram.total)
    yield from (answers, seconds)
