"""What git says while it works: the latest of each phase, and its words. Whoever looks is not
waited for.

Git writes lines; those of progress end in a carriage return and take each other's place.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Progress"]

LINE_BYTES = 4096
LINES = 200
_END = re.compile(rb"[\r\n]")
_PHASE = re.compile(
    r"(?:remote: )?([A-Za-z][^:]{0,60}):\s{1,8}(?:(\d{1,3})% \((\d{1,18})/(\d{1,18})\)|(\d{1,18}))"
)


class Progress:
    """The standard error of one operation; `shown` takes secrets out of a line."""

    def __init__(self) -> None:
        self.shown: Callable[[str], str] = str
        self.changed = asyncio.Event()
        self.latest = ""
        self._rest = b""
        self._phases: dict[str, dict[str, Any]] = {}
        self._lines: deque[str] = deque(maxlen=LINES)
        self._told: deque[str] = deque(maxlen=LINES)

    def feed(self, data: bytes) -> None:
        """Take what git wrote."""
        *lines, rest = _END.split(self._rest + data)
        self._rest = rest[:LINE_BYTES]
        for line in lines:
            self._take(line[:LINE_BYTES])

    def finish(self) -> None:
        """Take the last line, which has no end."""
        self._take(self._rest)
        self._rest = b""

    def _take(self, line: bytes) -> None:
        text = self.shown(line.decode("utf-8", "replace").rstrip())
        if not text:
            return
        self.latest = text
        found = _PHASE.match(text)
        if found is None:
            self._lines.append(text)
            self._told.append(text)
        else:
            phase, percent, current, total, count = found.groups()
            record: dict[str, Any] = {"type": "progress", "phase": phase}
            if percent is not None:
                record |= {"percent": int(percent), "current": int(current), "total": int(total)}
            else:
                record |= {"current": int(count)}
            self._phases.pop(phase, None)
            self._phases[phase] = record | {"data": text}
            while len(self._phases) > LINES:
                del self._phases[next(iter(self._phases))]
        self.changed.set()

    def take(self) -> list[dict[str, Any]]:
        """Return what is new, as records of a stream."""
        self.changed.clear()
        records = [{"type": "message", "data": line} for line in self._lines]
        records += self._phases.values()
        self._lines.clear()
        self._phases.clear()
        return records

    def forget(self) -> None:
        """Drop what was said: it answered a question, and nothing has failed."""
        self._told.clear()
        self._lines.clear()

    @property
    def words(self) -> list[str]:
        """The last lines that were no progress."""
        return list(self._told)
