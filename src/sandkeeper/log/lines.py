"""The server's own log: lines through one sink that never blocks."""

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from sandkeeper.linux.identity import Identity
from sandkeeper.log.formats import Format, Json, format_for, timestamp
from sandkeeper.log.redaction import redact_command
from sandkeeper.log.sink import Sink, open_target

__all__ = ["Line", "Log", "Rouser", "open_log", "timestamp"]

GATHER_SECONDS = 0.002
LINE_BYTES = 300
"""What a line takes in the queue besides the texts that it is made of, until it is made."""

Line = tuple[str, str, dict[str, Any]]
"""Level, message and fields."""


class Log:
    """Writes lines of the levels debug, info, warning and error.

    `copy` gets level, message and fields of each as well, from any thread, and keeps nobody.
    """

    def __init__(self, sink: Sink, form: Format | None = None) -> None:
        self._sink = sink
        self.form: Format = form or Json()
        self.copy: Callable[[str, str, dict[str, Any]], None] | None = None

    def write(self, level: str, message: str, **fields: Any) -> None:
        """Write one line with any extra fields, named as they are."""
        self._sink.submit(self.form.line(level, message, fields))
        if self.copy is not None:
            self.copy(level, message, fields)

    def defer(self, tell: Callable[[], Line], size: int) -> None:
        """Write what `tell` returns as a line of this moment; its texts have `size` characters.

        The log's own thread asks for it, so that whoever answers requests need not make their
        lines: it tells of what does not change any more.
        """
        if self.copy is not None:
            level, message, fields = tell()
            self.write(level, message, **fields)
        else:
            self._sink.put(partial(self._made, tell, time.time()), LINE_BYTES + size)

    def _made(self, tell: Callable[[], Line], moment: float) -> bytes:
        return self.form.line(*tell(), moment)

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


def open_log(
    target: str, workload: Identity | None = None, *, form: str = "", colours: bool = False
) -> tuple[Sink, Log]:
    """Open the log and its sink, which is not started; see `open_target` and `format_for`."""
    fd = open_target(target, workload)
    made = format_for(form, fd, colours=colours)

    def dropped(count: int) -> bytes:
        return made.line("warning", f"{count} log lines were dropped: the reader is slow", {})

    sink = Sink(fd, dropped_line=dropped)
    return sink, Log(sink, made)


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
