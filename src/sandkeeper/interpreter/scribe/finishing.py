"""Ends for executions that nobody runs any more: their scribe was lost, or the machine."""

from collections.abc import Callable
from pathlib import Path

from sandkeeper.interpreter.orders import Finish
from sandkeeper.interpreter.scribe.recorder import RECORD, ExecutionRecorder
from sandkeeper.interpreter.specs import ExecutionMeta
from sandkeeper.journal.budget import Budget
from sandkeeper.linux.paths.statefiles import Damaged, decoded, read_plain

__all__ = ["finish", "read_execution"]

RECORD_BYTES = 1 << 20


def read_execution(folder: Path) -> ExecutionMeta:
    """Return what the last whole line of a record says; raises OSError, Damaged."""
    for line in reversed(read_plain(folder / RECORD, RECORD_BYTES).splitlines()):
        try:
            meta = decoded(line, ExecutionMeta)
        except Damaged:
            continue
        if meta.version != 1:
            raise Damaged(f"its record is of version {meta.version}")
        meta.id, meta.context = folder.name, folder.parent.name
        return meta
    raise Damaged("it has no whole line")


def finish(order: Finish, budget: Budget, news: Callable[[ExecutionRecorder], None]) -> None:
    """Write the end of an execution that has none; raises OSError, Damaged."""
    folder = Path(order.folder)
    meta = read_execution(folder)
    if not meta.is_over:
        ExecutionRecorder.again(folder, meta, budget, news).end(order.outcome)
