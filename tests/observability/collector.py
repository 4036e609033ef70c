"""A collector of OTLP for tests: takes protobuf by HTTP, keeps what came, and can be in trouble."""

import functools
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.harness import until

__all__ = ["Collector"]


@functools.cache
def kinds() -> dict[str, Any]:
    """Return what is sent to each path; most workers ask for none, and it takes long to import."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    return {
        "/v1/logs": ExportLogsServiceRequest,
        "/v1/traces": ExportTraceServiceRequest,
        "/v1/metrics": ExportMetricsServiceRequest,
    }


class Collector:
    """Use as a context manager; `url` is its base.

    `answers` gives status and fields for a path while it is set; None there: no answer at all,
    until `close`.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.refused: list[str] = []
        self.answers: Callable[[str], tuple[int, dict[str, str]] | None] | None = None
        self._closed = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = (200, {}) if collector.answers is None else collector.answers(self.path)
                if answer is None:
                    collector.refused.append(self.path)
                    collector._closed.wait()
                    return
                status, fields = answer
                if status == 200:
                    fields_of = {name.lower(): value for name, value in self.headers.items()}
                    message = kinds()[self.path].FromString(body)
                    collector.requests.append((self.path, fields_of, message))
                else:
                    collector.refused.append(self.path)
                self.send_response(status)
                for name, value in fields.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_values: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Collector":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def of(self, path: str) -> list[Any]:
        """Return what came to a path."""
        return [message for where, _, message in list(self.requests) if where == path]

    def logs(self) -> list[tuple[dict[str, Any], Any]]:
        """Return the attributes of each log record, and the record."""
        return [
            (attributes(record), record)
            for message in self.of("/v1/logs")
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def output(self, name: str) -> list[str]:
        """Return the lines of a process, as they came."""
        return [
            record.body.string_value
            for found, record in self.logs()
            if found.get("process-name") == name
        ]

    def spans(self) -> list[tuple[dict[str, Any], Any]]:
        """Return the attributes of each span, and the span."""
        return [
            (attributes(span), span)
            for message in self.of("/v1/traces")
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def span(self, trace_id: str, name: str) -> tuple[dict[str, Any], Any]:
        """Wait for a span of a trace by its name."""

        def found() -> Iterator[tuple[dict[str, Any], Any]]:
            for one in self.spans():
                if one[1].trace_id.hex() == trace_id and one[1].name == name:
                    yield one

        made: tuple[dict[str, Any], Any] = until(lambda: next(found(), None))
        return made


def attributes(thing: Any) -> dict[str, Any]:
    """Return the attributes of a record, a span or a resource."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in thing.attributes}
