"""The contexts as the scribe has them: an engine each, and what waits for its turn."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandkeeper.interpreter.events import EndStatus, Outcome
from sandkeeper.interpreter.orders import Attach, Execute
from sandkeeper.interpreter.scribe.engine import Engine, Lost
from sandkeeper.interpreter.scribe.finishing import read_execution
from sandkeeper.interpreter.scribe.recorder import ExecutionRecorder, mark_running
from sandkeeper.interpreter.specs import ExecutionMeta
from sandkeeper.journal.budget import Budget

__all__ = ["ContextRoom"]


class ContextRoom:
    """One context: executions run one after the other, in the order in which they came."""

    def __init__(
        self,
        order: Attach,
        engine: Engine,
        budget: Budget,
        news: Callable[[ExecutionRecorder], None],
    ) -> None:
        self.generation = order.generation
        self.pid = order.pid
        self.facts: dict[str, Any] | None = None
        self._folder = Path(order.folder)
        self._engine = engine
        self._budget = budget
        self._news = news
        self._queue: deque[tuple[Execute, ExecutionRecorder]] = deque()
        self._current: ExecutionRecorder | None = None
        self._resumed: Coroutine[Any, Any, Outcome] | None = None
        self._asked = ""
        self._fate: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting = asyncio.Event()
        self._starting: asyncio.Task[dict[str, Any]] | None = None
        self._worker: asyncio.Task[None] | None = None

    @property
    def recorders(self) -> list[ExecutionRecorder]:
        """Those that are not over: what runs, then what waits."""
        first = [self._current] if self._current is not None else []
        return first + [recorder for _, recorder in self._queue]

    def resume(self, identifier: str) -> None:
        """Go on with what ran under another scribe, before `start`; raises OSError, Damaged."""
        folder = self._folder / identifier
        meta = read_execution(folder)
        if meta.is_over:
            return
        self._current = recorder = ExecutionRecorder.again(folder, meta, self._budget, self._news)
        recorder.event("gap", reason="unheard", what="what was said while nobody listened")
        self._resumed = self._engine.resume(identifier, recorder)

    @property
    def engine(self) -> Engine:
        """What runs its code."""
        return self._engine

    async def start(self) -> dict[str, Any]:
        """Return facts about the interpreter once it takes code; raises EngineFailed, Lost."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._engine.start())
        self.facts = await asyncio.shield(self._starting)
        if self._worker is None:
            self._worker = asyncio.ensure_future(self._work())
        return self.facts

    def take(self, order: Execute) -> ExecutionRecorder:
        """Queue an execution; raises OSError when it cannot be kept."""
        meta = order.meta or ExecutionMeta(order.id, order.context)
        if self._is_free:
            mark_running(meta)  # one write for both
        folder = self._folder / order.id
        known = os.path.exists(folder)  # to a scribe that was lost
        make = ExecutionRecorder.again if known else ExecutionRecorder
        recorder = make(folder, meta, self._budget, self._news)
        self._queue.append((order, recorder))
        self._waiting.set()
        return recorder

    @property
    def _is_free(self) -> bool:
        ready = self._worker is not None and self._resumed is None
        return ready and self._current is None and not self._queue

    async def interrupt(self, status: str, only: str = "") -> dict[str, Any]:
        """Stop what runs; says which that is, and whether a message has done it.

        With `only` no other; it is cancelled where it waits.
        """
        current = self._current
        if only:
            self._cancel(only)
        if current is None or only not in {"", current.meta.id}:
            return {"running": "", "done": False}
        self._asked = status
        done = await self._engine.interrupt()
        return {"running": current.meta.id, "done": done}

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Ask the engine; raises Unsupported, Lost."""
        return await self._engine.call(name, arguments)

    async def died(self, outcome: Outcome) -> None:
        """The process has ended: what runs ends so, what waits is cancelled."""
        await self._engine.died()
        if not self._fate.done():
            self._fate.set_result(outcome)
        self._waiting.set()
        if self._worker is not None:
            await asyncio.wait([self._worker])
        self._cancel_all()
        self._engine.close()

    def close(self) -> None:
        """Let go; what has not ended stays without an end."""
        for task in (self._worker, self._starting):
            if task is not None:
                task.cancel()
        if self._resumed is not None:
            self._resumed.close()
        for recorder in self.recorders:
            recorder.let_go()
        self._engine.close()

    async def _work(self) -> None:
        if self._resumed is not None and self._current is not None:
            resumed, self._resumed = self._resumed, None
            self._current.end(await self._run(resumed))
            self._current = None
        while not self._fate.done():
            if not self._queue:
                self._waiting.clear()
                await self._waiting.wait()
                continue
            order, recorder = self._queue.popleft()
            self._current, self._asked = recorder, ""
            recorder.begin()
            recorder.end(await self._run(self._engine.execute(order, recorder)))
            self._current = None

    async def _run(self, execution: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Return how it ended; waits for the server's word where the process did."""
        try:
            outcome = await execution
        except Lost:
            return await self._fate
        except Exception as error:  # noqa: BLE001 - one execution must not end them all
            return Outcome(EndStatus.UNKNOWN, f"the scribe failed: {error!r}")
        if self._asked and outcome.status in {EndStatus.ERROR, EndStatus.INTERRUPTED}:
            outcome.status = self._asked
        return outcome

    def _cancel(self, identifier: str) -> None:
        for waiting in self._queue:
            if waiting[1].meta.id == identifier:
                self._queue.remove(waiting)
                waiting[1].end(Outcome(EndStatus.CANCELLED))
                return

    def _cancel_all(self) -> None:
        while self._queue:
            _, recorder = self._queue.popleft()
            with suppress(OSError):
                recorder.end(Outcome(EndStatus.CANCELLED, "the interpreter ended before"))
