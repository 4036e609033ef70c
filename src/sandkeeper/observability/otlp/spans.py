"""Spans of requests and of processes, as the lines that the exporter reads."""

import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from sandkeeper.log.access import Request, shown_query
from sandkeeper.log.redaction import redact_command
from sandkeeper.observability.otlp.lane import Lane
from sandkeeper.processes.lifecycle import State
from sandkeeper.processes.process import Process
from sandkeeper.tracecontext import Trace

__all__ = ["Spans"]

METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
COMMAND_CHARACTERS = 1024
_encode = msgspec.json.Encoder().encode


class Spans:
    """Tells of what is over; `groups` are the first segments of known routes.

    Names of attributes are those of OpenTelemetry's semantic conventions, where these have one.
    """

    def __init__(self, lane: Lane, wake: Callable[[], None], groups: Collection[str]) -> None:
        self._lane = lane
        self._wake = wake
        self._groups = groups

    def request(self, request: Request) -> None:
        """Tell of a request that is over now."""
        trace = request.trace
        if trace is None or not trace.own or not trace.is_sampled:
            return
        end = time.time_ns()
        method = request.method if request.method in METHODS else "HTTP"
        group = request.path[1:].partition("/")[0]
        attributes: dict[str, Any] = {
            "http.request.method": request.method if request.method in METHODS else "_OTHER",
            "url.scheme": "http",
            "url.path": request.path,
            "http.response.status_code": request.status,
            "http.response.body.size": request.size,
            "sandkeeper.request.id": request.rid,
        }
        if request.query:
            attributes["url.query"] = shown_query(request.query)
        if request.client:
            attributes["client.address"] = request.client
        self._tell(
            trace,
            f"{method} /{group}" if group in self._groups else method,
            "SERVER",
            (end - int(request.seconds * 1e9), end),
            attributes,
            failed=request.status >= 500,
        )

    def process(self, process: Process) -> None:
        """Tell of a process that is over: its life, from the first start to the end."""
        meta = process.meta
        trace = meta.trace
        if trace is None or not trace.own or not trace.is_sampled:
            return
        attributes: dict[str, Any] = {
            "process.command_line": redact_command(meta.command)[:COMMAND_CHARACTERS],
            "process.working_directory": meta.working_dir,
            "sandkeeper.process.name": meta.name,
            "sandkeeper.process.id": meta.id,
            "sandkeeper.process.status": process.status,
            "sandkeeper.process.exit_reason": meta.exit_reason,
            "sandkeeper.process.restarts": meta.restart_count,
        }
        if meta.pid.isdigit():
            attributes["process.pid"] = int(meta.pid)
        if meta.exit_code is not None:
            attributes["process.exit.code"] = meta.exit_code
        if meta.exit_signal is not None:
            attributes["sandkeeper.process.signal"] = meta.exit_signal
        if meta.cpu_seconds is not None:
            attributes["sandkeeper.process.cpu_seconds"] = meta.cpu_seconds
        began = meta.first_started_at or meta.started_at
        self._tell(
            trace,
            "process",
            "INTERNAL",
            (int(began * 1e9), int(max(meta.completed_at, began) * 1e9)),
            attributes,
            failed=process.state is State.FAILED,
            why=f"exit code {meta.exit_code}" if process.state is State.FAILED else "",
            linked=True,
        )

    def _tell(
        self,
        trace: Trace,
        name: str,
        kind: str,
        times: tuple[int, int],
        attributes: dict[str, Any],
        *,
        failed: bool,
        why: str = "",
        linked: bool = False,
    ) -> None:
        line = {
            "trace": trace.trace_id,
            "span": trace.span_id,
            "parent": trace.parent_id,
            "remote": trace.remote,
            "state": trace.state,
            "flags": trace.flags,
            "name": name,
            "kind": kind,
            "start": times[0],
            "end": times[1],
            "attributes": attributes,
            "failed": failed,
            "why": why,
            "linked": linked,
        }
        try:
            encoded = _encode(line)
        except UnicodeEncodeError:  # a name of bytes that are no text
            clean = {k: _as_text(v) for k, v in attributes.items()}
            encoded = _encode({**line, "attributes": clean})
        if self._lane.add(encoded + b"\n"):
            self._wake()


def _as_text(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
