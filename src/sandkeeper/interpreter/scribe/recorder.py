"""The journal of one execution, as its only writer has it.

<context>/<execution>/meta.jsonl    how it stands; the last whole line counts
<context>/<execution>/*.seg *.idx   what it said (journal.segment, interpreter.events)
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from sandkeeper.interpreter.events import Outcome, event_line
from sandkeeper.interpreter.orders import Grown, SegmentFacts
from sandkeeper.interpreter.specs import ExecutionMeta
from sandkeeper.journal.budget import Budget
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import NOTICE, Segment, Stream
from sandkeeper.linux.clocks import uptime
from sandkeeper.linux.paths.statefiles import open_plain

__all__ = ["RECORD", "ExecutionRecorder", "mark_running"]

RECORD = "meta.jsonl"
PIECE_BYTES = 1 << 20


def mark_running(meta: ExecutionMeta) -> None:
    """Note that it is the turn of an execution."""
    meta.status, meta.started_at = "running", time.time()
    meta.started_uptime = uptime()


class ExecutionRecorder:
    """Writes what one execution says; `news` is called whenever there is more of it.

    A disk that is full or broken loses bytes, which readers see as a gap, and nothing else.
    """

    def __init__(
        self,
        folder: Path,
        meta: ExecutionMeta,
        budget: Budget,
        news: Callable[["ExecutionRecorder"], None],
        journal: Journal | None = None,
    ) -> None:
        """Raises OSError when the folder cannot be made."""
        self.meta = meta
        self.folder = folder
        self._budget = budget
        self._news = news
        self._told: tuple[Segment, ...] | None = None
        if journal is None:
            folder.mkdir(mode=0o700, parents=True)  # those above it may be gone
            journal = Journal(folder, segment_bytes=budget.segment_bytes)
        self.journal = journal
        budget.enlist(journal)
        self._save()

    @classmethod
    def again(
        cls,
        folder: Path,
        meta: ExecutionMeta,
        budget: Budget,
        news: Callable[["ExecutionRecorder"], None],
    ) -> "ExecutionRecorder":
        """Go on with one that another scribe began; raises OSError."""
        journal = Journal.recover(folder, segment_bytes=budget.segment_bytes)
        return cls(folder, meta, budget, news, journal)

    @property
    def is_over(self) -> bool:
        """Whether the end is written."""
        return self.meta.is_over

    def begin(self) -> None:
        """Note that it is its turn, unless its record says so already."""
        if self.meta.status != "running":
            mark_running(self.meta)
            self._save()
        self._news(self)

    def text(self, stream: Stream, data: bytes) -> None:
        """Add output; a kernel may send very much of it at once, and retention goes by segments."""
        for start in range(0, len(data), PIECE_BYTES):
            self._append(stream, data[start : start + PIECE_BYTES])

    def event(self, kind: str, **fields: Any) -> None:
        """Add an event."""
        if kind == "started" and (count := fields.get("executionCount")) is not None:
            self.meta.execution_count = count
        self._append(NOTICE, event_line(kind, fields))

    def end(self, outcome: Outcome) -> None:
        """Write the end, the first time; nothing follows it."""
        meta = self.meta
        if meta.is_over:
            return
        meta.ended_at = time.time()
        if meta.started_at and outcome.seconds is None:
            outcome.seconds = round(max(0.0, meta.ended_at - meta.started_at), 6)
        if outcome.execution_count is None:
            outcome.execution_count = meta.execution_count
        self._append(NOTICE, event_line("end", msgspec.to_builtins(outcome)))
        meta.status, meta.reason = outcome.status, outcome.reason
        meta.execution_count = outcome.execution_count
        meta.exit_code, meta.exit_signal = outcome.exit_code, outcome.exit_signal
        meta.size = self.journal.tail
        self.journal.seal()
        self._save()
        self._budget.dismiss(self.journal)
        self._news(self)

    def let_go(self) -> None:
        """Leave it without an end to whoever goes on."""
        self._budget.dismiss(self.journal)

    def news(self, *, whole: bool = False) -> Grown:
        """Return how it stands, with its segments if they have changed since, or `whole`."""
        journal = self.journal
        grown = Grown(meta=self.meta, tail=journal.tail, totals=list(journal.totals))
        if whole or journal.segments != self._told:
            self._told = journal.segments
            grown.segments = [
                SegmentFacts(one.base, list(one.before), one.gap_from, one.end)
                for one in journal.segments
            ]
        return grown

    def _append(self, stream: Stream, data: bytes) -> None:
        if self.meta.is_over or not data:
            return
        journal = self.journal
        start, left = journal.tail, data
        while left:
            try:
                journal.append(stream, left)
            except OSError:
                left = data[journal.tail - start :]
                if left and not self._budget.make_room(journal):
                    journal.skip(stream, len(left))
                    break
            else:
                break
        self._budget.grown(journal)
        self._news(self)

    def _save(self) -> None:
        try:
            fd = open_plain(self.folder / RECORD, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        except OSError:
            return  # the journal itself tells the end
        try:
            os.write(fd, msgspec.json.encode(self.meta) + b"\n")
        except OSError:
            return
        finally:
            os.close(fd)
