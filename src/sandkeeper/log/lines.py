"""The server's own log: JSON lines with sorted keys through one sink that never blocks."""

import asyncio
import threading
import time
from typing import Any

import msgspec

from sandkeeper.jsonlines import in_one_line
from sandkeeper.linux.clocks import rfc3339
from sandkeeper.log.redaction import redact_command
from sandkeeper.log.sink import Sink

__all__ = ["Log", "Rouser", "dropped_line", "log_line", "timestamp"]

GATHER_SECONDS = 0.002

_encode = msgspec.json.Encoder(order="sorted").encode


def timestamp(seconds: float | None = None) -> str:
    """Return local time as RFC 3339 with whole seconds, now or at a Unix time."""
    return rfc3339(int(time.time() if seconds is None else seconds) * 1_000_000_000)


def log_line(level: str, message: str, fields: dict[str, Any]) -> bytes:
    """Make one line; text that UTF-8 cannot carry is replaced, never refused."""
    record = {**fields, "level": level, "msg": message, "time": timestamp()}
    try:
        return in_one_line(_encode(record)) + b"\n"
    except UnicodeEncodeError:
        clean = {
            key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for key, value in record.items()
        }
        return in_one_line(_encode(clean)) + b"\n"


def dropped_line(count: int) -> bytes:
    """Make the line that stands for `count` others."""
    return log_line("warning", f"{count} log lines were dropped: the reader is slow", {})


class Log:
    """Writes lines of the levels debug, info, warning and error."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, level: str, message: str, **fields: Any) -> None:
        """Write one line with any extra fields, named as they are."""
        self._sink.submit(log_line(level, message, fields))

    def debug(self, message: str, **fields: Any) -> None:
        """Write a line of level debug."""
        self.write("debug", message, **fields)

    def info(self, message: str, **fields: Any) -> None:
        """Write a line of level info."""
        self.write("info", message, **fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Write a line of level warning; secrets that show themselves as such are left out."""
        self.write("warning", redact_command(message), **fields)

    def error(self, message: str, **fields: Any) -> None:
        """Write a line of level error; secrets that show themselves as such are left out."""
        self.write("error", redact_command(message), **fields)


class Rouser:
    """Wakes the sink a moment after the first line, once for all that come until then.

    A thread that wakes beside a request holds it up, by the interpreter's lock.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._thread = 0
        self._due = False

    def start(self) -> None:
        """Gather what the present thread, the event loop's, has to say from now on."""
        self._thread = threading.get_ident()
        self._sink.rouse = self.rouse

    def rouse(self) -> None:
        """Have the sink look for work soon; from any thread."""
        if threading.get_ident() != self._thread:
            self._sink.wake()
        elif not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._now)

    def _now(self) -> None:
        self._due = False
        self._sink.wake()
