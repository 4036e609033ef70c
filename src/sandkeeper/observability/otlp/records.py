"""What the server's lines are in OpenTelemetry's words: log records, spans, metrics.

A log line is the server's own JSON (docs/observability.md): time, level and message are the
record's, `trace_id` and `span_id` its context, all other fields its attributes. A span is a line of
`observability.otlp.spans`. Metrics are the text that `/metrics` answers with.
"""

import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState
from prometheus_client.openmetrics import parser

from sandkeeper import __version__

__all__ = ["logs_of", "metrics_of", "resource", "spans_of"]

SEVERITIES = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
}
UNITS = {"_seconds": "s", "_bytes": "By"}
_SCOPE = InstrumentationScope("sandkeeper", __version__)


def resource(service: str, instance: str) -> Resource:
    """Return who we are: our name, version and place, unless the standard variables say else."""
    ours = {
        "service.name": service,
        "service.version": __version__,
        "service.instance.id": instance,
        "host.name": socket.gethostname(),
    }
    return Resource.create().merge(Resource(ours)).merge(OTELResourceDetector().detect())


def logs_of(load: bytes, who: Resource) -> list[ReadableLogRecord]:
    """Return the records of JSON lines."""
    now = time.time_ns()
    return [
        ReadableLogRecord(_record(json.loads(line), now), who, _SCOPE)
        for line in load.split(b"\n")
        if line
    ]


def _record(line: dict[str, Any], now: int) -> LogRecord:
    level = line.pop("level")
    trace_id, span_id = line.pop("trace_id", "0"), line.pop("span_id", "0")
    return LogRecord(
        timestamp=_nanoseconds(line.pop("time")),
        observed_timestamp=now,
        severity_text=level,
        severity_number=SEVERITIES[level],
        body=line.pop("msg"),
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        trace_flags=TraceFlags(0),
        attributes=_said(line),
    )


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields without those that say nothing."""
    return {name: value for name, value in fields.items() if value not in ("", None)}


def _nanoseconds(seconds: str) -> int:
    whole, _, part = seconds.partition(".")
    return int(whole) * 1_000_000_000 + int(part[:9].ljust(9, "0"))


def spans_of(load: bytes, who: Resource) -> list[ReadableSpan]:
    """Return the spans of JSON lines."""
    return [_span(json.loads(line), who) for line in load.split(b"\n") if line]


def _span(line: dict[str, Any], who: Resource) -> ReadableSpan:
    above = None
    if line["parent"]:
        above = _context(line, line["parent"], is_remote=line["remote"])
    failed, why = line["failed"], line["why"]
    return ReadableSpan(
        line["name"],
        _context(line, line["span"], is_remote=False),
        above,
        who,
        _said(line["attributes"]),
        links=[Link(above)] if above is not None and line["linked"] else (),
        kind=SpanKind[line["kind"]],
        status=Status(StatusCode.ERROR, why or None) if failed else Status(StatusCode.UNSET),
        start_time=line["start"],
        end_time=line["end"],
        instrumentation_scope=_SCOPE,
    )


def _context(line: dict[str, Any], span: str, *, is_remote: bool) -> SpanContext:
    state = TraceState.from_header([line["state"]]) if line["state"] else None
    flags = TraceFlags(line["flags"])
    return SpanContext(int(line["trace"], 16), int(span, 16), is_remote, flags, state)


_families: Callable[[str], Iterable[Any]] = parser.text_string_to_metric_families


def metrics_of(load: bytes, who: Resource) -> MetricsData:
    """Return the metrics of OpenMetrics text."""
    now = time.time_ns()
    families = list(_families(load.decode()))
    began = (f.samples[0].value for f in families if f.name == "process_start_time_seconds")
    since = int(next(began, 0.0) * 1e9)
    metrics = [
        Metric(family.name, family.documentation, _unit(family.name), _data(family, since, now))
        for family in families
        if family.samples
    ]
    scope = ScopeMetrics(_SCOPE, metrics, "")
    return MetricsData([ResourceMetrics(who, [scope], who.schema_url)])


def _unit(name: str) -> str:
    return next((unit for end, unit in UNITS.items() if name.endswith(end)), "")


def _data(family: Any, since: int, now: int) -> Sum | Gauge | Histogram:
    if family.type == "histogram":
        points = list(_histograms(family.samples, since, now))
        return Histogram(points, AggregationTemporality.CUMULATIVE)
    counts = family.type == "counter"
    values = [
        NumberDataPoint(sample.labels, since if counts else 0, now, sample.value)
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    return Sum(values, AggregationTemporality.CUMULATIVE, is_monotonic=True) if counts else Gauge(
        values
    )  # fmt: skip


def _histograms(samples: Iterable[Any], since: int, now: int) -> Iterator[HistogramDataPoint]:
    """Return a point for each set of labels: the text has a running count below each bound."""
    made: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in samples:
        labels = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
        point = made.setdefault(labels, {"bounds": [], "counts": []})
        kind = sample.name.rpartition("_")[2]
        if kind == "bucket":
            point["bounds"].append(float(sample.labels["le"]))
            point["counts"].append(int(sample.value))
        else:
            point[kind] = sample.value
    for labels, point in made.items():
        running = point["counts"]
        yield HistogramDataPoint(
            dict(labels),
            since,
            now,
            count=running[-1],
            sum=point.get("sum", 0.0),
            bucket_counts=[b - a for a, b in zip([0, *running], running, strict=False)],
            explicit_bounds=point["bounds"][:-1],
            min=None,
            max=None,
        )
