"""The budget of all journals: what one run may keep, and what all may keep together.

When all together are over the budget, the run that keeps the most gives its oldest segment, again
and again. So every run keeps at least an equal share of the budget (max-min fairness), and the
many short ones are never touched for the sake of one that floods.
"""

import threading

from sandkeeper.journal.journal import Journal

__all__ = ["Budget"]

HOLD_BYTES = 8 << 20


class Budget:
    """Bounds in bytes, 0 is none; `disk_bytes` (the size of the disk) only sizes segments.

    `enlist` and `dismiss` may come from any thread.

    `grown` and `make_room` are the pump's. The lock is held for arithmetic and unlinks of whole
    segments only; no request waits for it.
    """

    def __init__(self, *, run_bytes: int, total_bytes: int, disk_bytes: int = 0) -> None:
        self.run_bytes = run_bytes
        self.total_bytes = total_bytes
        self._disk_bytes = disk_bytes
        self._journals: dict[int, Journal] = {}
        self._seen: dict[int, int] = {}
        self._total = 0
        self._lock = threading.Lock()

    @property
    def segment_bytes(self) -> int:
        """The size of segments that suits the bounds: retention goes by whole ones."""
        bounds = [b for b in (self.run_bytes, self.total_bytes, self._disk_bytes) if b]
        return max(4096, min(4 << 20, min(bounds) // 16)) if bounds else 4 << 20

    @property
    def hold_bytes(self) -> int:
        """How much may wait for a reader who is waited for: far less than is dropped."""
        bounds = [b for b in (self.run_bytes, self.total_bytes) if b]
        return min(HOLD_BYTES, max(4096, min(bounds) // 4)) if bounds else HOLD_BYTES

    @property
    def total(self) -> int:
        """The bytes all journals keep, as of their last growth."""
        return self._total

    def enlist(self, journal: Journal) -> None:
        """Count a journal from now on."""
        with self._lock:
            self._journals[id(journal)] = journal
            self._count(journal)

    def dismiss(self, journal: Journal) -> None:
        """Forget a journal whose files are about to be removed."""
        with self._lock:
            self._journals.pop(id(journal), None)
            self._total -= self._seen.pop(id(journal), 0)

    def grown(self, journal: Journal) -> None:
        """Hold both bounds after a journal has grown."""
        kept = journal.tail - journal.first
        if self.run_bytes and kept > self.run_bytes:
            journal.drop_oldest()
        with self._lock:
            self._count(journal)
            while self.total_bytes and self._total > self.total_bytes:
                if not self._take_from_largest():
                    return

    def make_room(self, journal: Journal) -> bool:
        """Free some space on a full disk: from this journal, else from the largest."""
        if journal.drop_oldest():
            with self._lock:
                self._count(journal)
            return True
        with self._lock:
            return self._take_from_largest()

    def _count(self, journal: Journal) -> None:
        if id(journal) not in self._journals:
            return
        kept = journal.kept
        self._total += kept - self._seen.get(id(journal), 0)
        self._seen[id(journal)] = kept

    def _take_from_largest(self) -> bool:
        """Take the oldest segment of the largest; the only one of a run goes last of all."""
        largest = sorted(self._seen, key=self._seen.__getitem__, reverse=True)
        for least in (2, 1):
            for key in largest:
                journal = self._journals[key]
                if len(journal.segments) >= least and journal.drop_oldest():
                    self._count(journal)
                    return True
        return False
