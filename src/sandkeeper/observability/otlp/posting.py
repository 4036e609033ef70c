"""Loads of the server made OpenTelemetry's and posted by its exporters; in a process of its own.

What a collector cannot take now (429, 502, 503, 504, no answer, no connection) is posted again, as
soon as `Retry-After` says or after a pause that doubles; so is what it does not let us give (3xx,
401, 403, 404), for somebody may correct that. What it calls wrong (400 and the like) is lost, as
the protocol has it. Of metrics only the latest reading counts: they are posted once.
https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource

from sandkeeper.observability.otlp.records import logs_of, metrics_of, resource, spans_of

__all__ = ["export_for", "resource"]

PAUSE_SECONDS = (1.0, 30.0)
LONGEST_PAUSE = 300.0
"""Who asks to be left alone for longer is asked again then."""
REFUSED = frozenset({400, 405, 411, 413, 414, 415, 422, 431})
TOO_LARGE = 413
REDIRECTED = 300
WHY_CHARACTERS = 200

Export = Callable[[bytes], Iterator[dict[str, Any]]]


class TellingSession(requests.Session):  # type: ignore[misc]
    """Keeps what the last answer was, which the exporters tell to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        """Forget the last answer; a status of -1 is that of a request that nobody made."""
        self.status = -1
        self.after = 0.0
        self.why = ""
        self.body = b""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request, as its base does."""
        self.status, self.after, self.body = 0, 0.0, b""
        try:
            answer = super().request(*args, **kwargs)
        except requests.RequestException as error:
            self.why = f"{type(error).__name__}: {error}"[:WHY_CHARACTERS]
            raise
        self.status, self.body = answer.status_code, answer.content
        self.why = f"{answer.status_code} {answer.reason}"[:WHY_CHARACTERS]
        self.after = _seconds(answer.headers.get("Retry-After", ""))
        return answer


def _seconds(text: str) -> float:
    """Return what `Retry-After` asks for (RFC 9110, section 10.2.3); 0: nothing."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_PAUSE)
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
    return min(max(0.0, moment - time.time()), LONGEST_PAUSE)


def export_for(signal: str, who: Resource) -> Export:
    """Return what exports loads of a signal of `who`: it yields outcomes, the last with `done`.

    The exporters read the standard variables.
    """
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)  # the server tells
    session = TellingSession()
    if signal == "metrics":
        metrics = OTLPMetricExporter(session=session)
        return lambda load: _once(session, metrics.export, metrics_of(load, who))
    if signal == "traces":
        spans = OTLPSpanExporter(session=session)
        return lambda load: _all(session, spans.export, spans_of(load, who), _rejected_spans)
    logs = OTLPLogExporter(session=session)
    return lambda load: _all(session, logs.export, logs_of(load, who), _rejected_logs)


def _once(
    session: TellingSession, export: Callable[[Any], Any], load: Any
) -> Iterator[dict[str, Any]]:
    session.begin()
    if _succeeded(session, export(load)):
        yield {"done": True, "taken": 1}
    else:
        yield {"done": True, "lost": 1, "why": session.why or "no reason was given"}


def _all(
    session: TellingSession,
    export: Callable[[Any], Any],
    records: Sequence[Any],
    rejected: Callable[[bytes], tuple[int, str]],
) -> Iterator[dict[str, Any]]:
    """Export records until each is taken or refused."""
    waiting, taken, lost, why = [records] if records else [], 0, 0, ""
    pause = PAUSE_SECONDS[0]
    while waiting:
        batch = waiting.pop()
        session.begin()
        if _succeeded(session, export(batch)):
            less, told = rejected(session.body)
            taken, lost, why = taken + len(batch) - less, lost + less, told if less else why
            pause = PAUSE_SECONDS[0]
        elif session.status == TOO_LARGE and len(batch) > 1:
            half = len(batch) // 2
            waiting += [batch[half:], batch[:half]]
        elif session.status in REFUSED or session.status < 0:
            lost, why = lost + len(batch), session.why or "it cannot be encoded"
        else:
            waiting.append(batch)
            yield {"why": session.why or "no reason was given"}
            time.sleep(session.after or pause)  # noqa: TID251 - a thread with nothing else to do
            pause = min(2 * pause, PAUSE_SECONDS[1])
    yield {"done": True, "taken": taken, "lost": lost, "why": why}


def _succeeded(session: TellingSession, result: Any) -> bool:
    """Say whether a load has arrived; the exporters take a redirection for that, too."""
    return bool(result.name == "SUCCESS") and session.status < REDIRECTED


def _rejected_logs(body: bytes) -> tuple[int, str]:
    try:
        told = ExportLogsServiceResponse.FromString(body).partial_success
    except Exception:  # noqa: BLE001 - what is no answer of the protocol rejects nothing
        return 0, ""
    return told.rejected_log_records, told.error_message[:WHY_CHARACTERS]


def _rejected_spans(body: bytes) -> tuple[int, str]:
    try:
        told = ExportTraceServiceResponse.FromString(body).partial_success
    except Exception:  # noqa: BLE001 - the same
        return 0, ""
    return told.rejected_spans, told.error_message[:WHY_CHARACTERS]
