"""One signal on its way to the collector: what waits, what is out, what was lost.

What waits is bounded and what does not fit is counted, so whoever adds something never waits. One
load is out at a time, and kept until the exporter has said what became of it.
"""

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["LOAD_BYTES", "Lane"]

LOAD_BYTES = 256 << 10
QUEUE_BYTES = 1 << 20
Pull = Callable[[], tuple[bytes | bytearray, Callable[[], None]] | None]


class Lane:
    """The lines of one signal; `pull` gives further blocks of them, with what acknowledges each.

    `add` is for any thread, the rest for the one that ships.
    """

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.pull: Pull | None = None
        self.out = b""
        self.failing = ""
        self.sent = 0
        self.lost = 0
        self._limit = QUEUE_BYTES
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._queued = 0
        self._dropped = 0
        self._told = 0
        self._acknowledge: list[Callable[[], None]] = []

    def add(self, line: bytes) -> bool:
        """Have a line wait, or count it as dropped where there is no room; say whether it was."""
        with self._lock:
            fits = self._queued + len(line) <= self._limit
            if fits:
                self._waiting.append(line)
                self._queued += len(line)
            else:
                self._dropped += 1
        return fits

    def replace(self, text: bytes) -> None:
        """Have this wait instead of what does: of readings only the last one counts."""
        with self._lock:
            self._dropped += len(self._waiting)
            self._waiting.clear()
            self._waiting.append(text)
            self._queued = len(text)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is out."""
        return not self.out and not self._waiting

    def load(self) -> bytes:
        """Return what is to be sent now, and keep it as what is out; nothing: there is nothing."""
        parts: list[bytes | bytearray] = []
        size = 0
        with self._lock:
            while self._waiting and (not parts or size + len(self._waiting[0]) <= LOAD_BYTES):
                line = self._waiting.popleft()
                parts.append(line)
                size += len(line)
            self._queued -= size
        while self.pull is not None and size < LOAD_BYTES:
            pulled = self.pull()
            if pulled is None:
                break
            block, acknowledge = pulled
            if not block:  # empty lines and the like: nobody has to be asked
                acknowledge()
                continue
            parts.append(block)
            size += len(block)
            self._acknowledge.append(acknowledge)
        self.out = b"".join(parts)
        return self.out

    def done(self, taken: int, lost: int) -> None:
        """What was out is over: taken by the collector, or lost for good."""
        self.sent += taken
        self.lost += lost
        self.out = b""
        waiting, self._acknowledge = self._acknowledge, []
        for acknowledge in waiting:
            acknowledge()

    @property
    def has_untold(self) -> bool:
        """Whether some had no room since `untold` was asked."""
        return self._dropped > self._told

    def untold(self) -> int:
        """Return how many had no room since this was last asked."""
        untold, self._told = self._dropped - self._told, self._dropped
        return untold

    def statistics(self) -> dict[str, int]:
        """Return the bytes that wait or are out, and what was sent and dropped (lines, spans)."""
        return {
            "queuedBytes": self._queued + len(self.out),
            "sent": self.sent,
            "dropped": self._dropped + self.lost,
            "failing": int(bool(self.failing)),
        }
