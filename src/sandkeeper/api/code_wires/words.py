"""What an execution tells, in the words of E2B's code interpreter: a line of JSON for each event.

| type | fields |
|---|---|
| `number_of_executions` | `execution_count` |
| `stdout`, `stderr` | `text`, `timestamp` (nanoseconds since the epoch) |
| `result` | `is_main_result`, a field for each kind of data (`FORMATS`), `extra` for all others |
| `error` | `name`, `value`, `traceback` (one text) |
| `keepalive` | |
| `unexpected_end_of_execution` | the interpreter did not tell an end itself |
| `end_of_execution` | the last |
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from sandkeeper.interpreter.events import CHART, DATAFRAME, EndStatus
from sandkeeper.interpreter.execution import Event

__all__ = ["KEEPALIVE", "lines_of"]

_encode = msgspec.json.Encoder().encode

FORMATS = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "pdf": "application/pdf",
    "latex": "text/latex",
    "json": "application/json",
    "javascript": "application/javascript",
    "data": DATAFRAME,
    "chart": CHART,
}
OWN_ENDS = frozenset({EndStatus.OK, EndStatus.ERROR, EndStatus.INTERRUPTED})
"""Ends of which the interpreter has told, and so has its error."""

REASONS = {
    EndStatus.TIMEOUT: ("TimeoutError", "the execution took longer than it may"),
    EndStatus.DIED: ("InterpreterDied", "the interpreter has ended"),
    EndStatus.RESTARTED: ("InterpreterRestarted", "the context was restarted"),
    EndStatus.DELETED: ("ContextDeleted", "the context was deleted"),
    EndStatus.CANCELLED: ("ExecutionCancelled", "the code was never run"),
    EndStatus.UNKNOWN: ("EndUnknown", "nobody was there when it ended"),
}


def _line(fields: Mapping[str, Any]) -> bytes:
    return _encode(fields) + b"\n"


KEEPALIVE = _line({"type": "keepalive"})


def lines_of(events: Iterable[Event]) -> bytes:
    """Return the lines of events; a heartbeat for none."""
    return b"".join(line for event in events for line in _lines(event)) or KEEPALIVE


def _lines(event: Event) -> Iterator[bytes]:
    match event.kind:
        case "stdout" | "stderr":
            stamp = int(event.time * 1e9)
            yield _line({"type": event.kind, "text": event.text, "timestamp": stamp})
        case "started":
            count = event.fields()["executionCount"]
            yield _line({"type": "number_of_executions", "execution_count": count})
        case "result" | "display":
            yield _result(event.fields()["data"], main=event.kind == "result")
        case "error":
            yield _error(**event.fields())
        case "gap":
            yield _gap(event)
        case "end":
            yield from _end(event.fields())


def _result(bundle: dict[str, Any], *, main: bool) -> bytes:
    known = {field: bundle.pop(kind) for field, kind in FORMATS.items() if kind in bundle}
    if "text" in known:
        known["text"] = _unquoted(str(known["text"]))
    if "data" in known:
        known["data"] = _columns(known["data"])
    nothing: dict[str, Any] = dict.fromkeys(FORMATS)
    return _line({"type": "result", "is_main_result": main, **nothing, **known, "extra": bundle})


def _unquoted(text: str) -> str:
    """Return the repr of a string without its quotes."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _columns(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table as lists by the names of their columns."""
    return dict(zip(map(str, table["columns"]), table["data"], strict=False))


def _error(name: str, value: str, traceback: list[str], **_more: Any) -> bytes:
    text = "\n".join(traceback)
    return _line({"type": "error", "name": name, "value": value, "traceback": text})


def _gap(event: Event) -> bytes:
    size = event.fields().get("bytes")
    what = f"{size} bytes are" if size else "some of it is"
    text = f"[output truncated: {what} not kept any more]\n"
    return _line({"type": "stderr", "text": text, "timestamp": int(event.time * 1e9)})


def _end(fields: dict[str, Any]) -> Iterator[bytes]:
    status = fields["status"]
    if status not in OWN_ENDS:
        name, value = REASONS.get(status, ("ExecutionEnded", str(status)))
        if fields.get("reason"):
            value += f" ({fields['reason']})"
        yield _line({"type": "error", "name": name, "value": value, "traceback": ""})
        yield _line({"type": "unexpected_end_of_execution"})
    yield _line({"type": "end_of_execution"})
