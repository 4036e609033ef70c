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

LINE_BYTES = 512
LINES = 64
"""So many lines are kept: of a hook that writes without end, its last words. To look for secrets in
these takes some milliseconds."""

FIRST_LINES = 32
"""And so many from the beginning, where git says what is wrong before it lists a thousand files."""

_END = re.compile(rb"[\r\n]+")
_PHASE = re.compile(
    rb"(?:remote: )?([A-Za-z][^:]{0,60}):\s{1,8}(?:(\d{1,3})% \((\d{1,18})/(\d{1,18})\)|(\d{1,18}))"
)


class Progress:
    """The standard error of one operation; `shown` takes secrets out of a line that is told."""

    def __init__(self) -> None:
        self.shown: Callable[[str], str] = str
        self.changed = asyncio.Event()
        self._latest = b""
        self._rest = b""
        self._phases: dict[bytes, tuple[bytes, re.Match[bytes]]] = {}
        self._lines: deque[bytes] = deque(maxlen=LINES)
        self._first: list[bytes] = []
        self._told: deque[bytes] = deque(maxlen=LINES)

    def feed(self, data: bytes) -> None:
        """Take what git wrote; of many lines at once the last are looked at."""
        *lines, rest = _END.split(self._rest + data)
        self._rest = rest[:LINE_BYTES]
        early = lines[: max(0, FIRST_LINES - len(self._first))]
        for line in (*early, *lines[len(early) :][-LINES:]):
            self._take(line[:LINE_BYTES].strip())
        self.changed.set()

    def finish(self) -> None:
        """Take the last line, which has no end."""
        self._take(self._rest.strip())
        self._rest = b""
        self.changed.set()

    def _take(self, line: bytes) -> None:
        if not line:
            return
        self._latest = line
        found = _PHASE.match(line)
        if found is None:
            self._lines.append(line)
            told = self._first if len(self._first) < FIRST_LINES else self._told
            told.append(line)
            return
        self._phases.pop(found[1], None)
        self._phases[found[1]] = line, found
        if len(self._phases) > LINES:
            del self._phases[next(iter(self._phases))]

    def take(self) -> list[dict[str, Any]]:
        """Return what is new, as records of a stream."""
        self.changed.clear()
        records = [{"type": "message", "data": self._text(line)} for line in self._lines]
        records += [self._record(line, found) for line, found in self._phases.values()]
        self._lines.clear()
        self._phases.clear()
        return records

    def _record(self, line: bytes, found: re.Match[bytes]) -> dict[str, Any]:
        phase, percent, current, total, count = found.groups()
        told: dict[str, Any] = {"type": "progress", "phase": self._text(phase)}
        if percent is None:
            told["current"] = int(count)
        else:
            told |= {"percent": int(percent), "current": int(current), "total": int(total)}
        return {**told, "data": self._text(line)}

    def _text(self, line: bytes) -> str:
        return self.shown(line.decode("utf-8", "replace"))

    def forget(self) -> None:
        """Drop what was said: it answered a question, and nothing has failed."""
        self._first.clear()
        self._told.clear()
        self._lines.clear()

    @property
    def latest(self) -> str:
        """The last line."""
        return self._text(self._latest)

    @property
    def words(self) -> list[str]:
        """The first and the last lines that were no progress."""
        return [self._text(line) for line in (*self._first, *self._told)]
