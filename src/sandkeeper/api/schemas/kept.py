"""Records of processes as JSON, encoded once and kept until something in them changes.

A record is made of some twenty values and, where there is output, of files that are opened and
read; looking whether any of it has changed costs a hundredth of that. Kept are records with little
output only: there may be a thousand of them.
"""

from contextlib import suppress

from sandkeeper.api.edge.respond import encode_json
from sandkeeper.api.schemas.processes import record_of
from sandkeeper.journal.output import PIECE_BYTES, texts_of
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes

__all__ = ["KEPT_BYTES", "KeptRecords", "stamp_of"]

KEPT_BYTES = 1024
"""The most output whose record is kept."""
SPARE = 64
"""So many records of processes that are forgotten may be left."""


def stamp_of(process: Process) -> tuple[object, ...]:
    """Return all that can change in the record of a process, its texts by what they are made of."""
    meta, journal = process.meta, process.journal
    return (
        process.state,
        meta.pid,
        meta.started_at,
        meta.completed_at,
        meta.exit_code,
        meta.exit_signal,
        meta.exit_reason,
        meta.restart_count,
        meta.keep_alive,
        meta.cpu_seconds,
        meta.peak_rss_bytes,
        meta.uncertain,
        meta.limits,
        len(meta.enforced),
        *journal.totals,
        journal.tail,
        journal.first,
        journal.lost,
    )


class KeptRecords:
    """The records of all processes; event loop's thread only."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._kept: dict[str, tuple[tuple[object, ...], bytes]] = {}

    def get(self, process: Process) -> bytes | None:
        """Return the record of a process with little output, from memory; None: it has changed."""
        kept = self._kept.get(process.meta.id)
        return kept[1] if kept is not None and kept[0] == stamp_of(process) else None

    def make(self, process: Process, limit: int) -> bytes | None:
        """Return a record with the last `limit` bytes of each stream, if no disk is waited for.

        None where the output is long, or not in memory.
        """
        if (known := self.get(process)) is not None:
            return known
        kept = process.journal.kept
        if min(limit, kept) > PIECE_BYTES:
            return None
        stamp = stamp_of(process)  # before the texts: what comes meanwhile is another's
        with suppress(BlockingIOError):
            record = encode_json(record_of(process, texts_of(process.journal, limit, nowait=True)))
            if kept <= min(KEPT_BYTES, limit):
                self._keep(process, stamp, record)
            return record
        return None

    def _keep(self, process: Process, stamp: tuple[object, ...], record: bytes) -> None:
        self._kept[process.meta.id] = stamp, record
        if len(self._kept) > len(self._processes) + SPARE:
            alive = {process.meta.id for process in self._processes.all()}
            self._kept = {run: kept for run, kept in self._kept.items() if run in alive}
