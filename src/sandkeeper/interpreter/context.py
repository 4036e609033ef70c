"""One context as clients see it: an interpreter with what it was asked to run."""

import asyncio
from typing import Any

from sandkeeper.interpreter.events import EndStatus, Outcome
from sandkeeper.interpreter.execution import Execution
from sandkeeper.interpreter.specs import ContextMeta
from sandkeeper.linux.clocks import WORK
from sandkeeper.processes.process import Process

__all__ = ["Context"]


class Context:
    """A context; event loop's thread only.

    `fate` is what its executions end with when its process does, `turn` is held by whoever starts
    or ends it, `revival` is done once another scribe has taken the place of one that is lost.
    """

    def __init__(self, meta: ContextMeta) -> None:
        self.meta = meta
        self.process: Process | None = None
        self.facts: dict[str, Any] = {}
        self.executions: dict[str, Execution] = {}
        self.turn = asyncio.Lock()
        self.fate: str = EndStatus.DIED
        self.watch: asyncio.Task[None] | None = None
        self.starting = False
        self.revival: asyncio.Future[None] | None = None
        self.last_used = WORK.now()

    def __repr__(self) -> str:
        return f"<Context {self.meta.id} {self.meta.kernel} {self.state}>"

    @property
    def is_dead(self) -> bool:
        """Whether its process has ended, and no other is being started."""
        return not self.starting and (self.process is None or self.process.is_over)

    @property
    def unfinished(self) -> list[Execution]:
        """The executions that are not over, oldest first."""
        return [one for one in self.executions.values() if not one.is_over]

    @property
    def state(self) -> str:
        """Return `starting`, `idle`, `busy` or `dead`."""
        if self.starting:
            return "starting"
        if self.is_dead:
            return "dead"
        return "busy" if self.unfinished else "idle"

    @property
    def end_reason(self) -> str:
        """Return why its process ended (processes.record), empty while it has not."""
        return self.process.meta.exit_reason if self.process and self.process.is_over else ""

    def outcome(self) -> Outcome:
        """Return what executions end with that its process left behind."""
        meta = self.process.meta if self.process is not None else None
        if meta is None:
            return Outcome(self.fate, "unknown")
        # The contract's -1 stands for a signal; here the signal says it.
        code = None if meta.exit_signal is not None else meta.exit_code
        return Outcome(self.fate, meta.exit_reason, exit_code=code, exit_signal=meta.exit_signal)
