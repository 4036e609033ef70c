"""What contexts are asked to run: executions, interrupts, questions; and what is heard of them."""

import asyncio
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from sandkeeper.errors import Conflict, NotFound, SandkeeperError
from sandkeeper.interpreter.context import Context
from sandkeeper.interpreter.events import EndStatus
from sandkeeper.interpreter.execution import Execution
from sandkeeper.interpreter.link import Link
from sandkeeper.interpreter.orders import Call, Execute, Grown, Interrupt
from sandkeeper.interpreter.shelf import Shelf
from sandkeeper.interpreter.specs import ExecutionMeta, ExecutionSpec
from sandkeeper.interpreter.store import CodeStore
from sandkeeper.linux.clocks import WORK, WorkTimer
from sandkeeper.linux.users import Users
from sandkeeper.log.lines import Log
from sandkeeper.once import Keyed
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.runs import new_id
from sandkeeper.settings import CodeSettings

__all__ = ["Running"]

QUEUED_MOST, QUEUED_BYTES = 1000, 16 << 20
CALL_SECONDS = 10.0
HEARD_SECONDS = 0.2
"""So long a signal waits for the interpreter to have begun: before that it would not hear it."""


class Running(ABC):
    """The part of `Contexts` that runs code; event loop's thread only."""

    def __init__(
        self,
        settings: CodeSettings,
        processes: Processes,
        store: CodeStore,
        link: Link,
        log: Log,
        users: Users,
    ) -> None:
        self._settings = settings
        self._processes = processes
        self._store = store
        self._link = link
        self._log = log
        self._users = users
        self._contexts: dict[str, Context] = {}
        self._shelf = Shelf(settings, self._forget)
        self._ran: Keyed[Execution] = Keyed()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reviving: asyncio.Task[None] | None = None

    @abstractmethod
    async def restart(self, context: Context, fate: str = EndStatus.RESTARTED) -> None:
        """Start a context's interpreter anew; what ran ends with `fate`."""

    async def cancel(self, execution: Execution) -> None:
        """Stop one execution: interrupt it where it runs; where it waits it never will."""
        context = self._contexts.get(execution.meta.context)
        if context is not None and not execution.is_over:
            await self.interrupt(context, only=execution.meta.id)

    async def interrupt(
        self, context: Context, status: str = EndStatus.INTERRUPTED, *, only: str = ""
    ) -> str:
        """Stop what a context runs: `idle` (nothing), `interrupted`; if unheard, `restarted`.

        With `only` that is for one execution, whatever else runs.
        """
        await self._ready(context)
        if context.is_dead:
            return "idle"
        order = Interrupt(context=context.meta.id, status=status, only=only)
        fate = EndStatus.RESTARTED if status == EndStatus.INTERRUPTED else status
        try:
            async with asyncio.timeout(self._settings.interrupt_seconds):
                answer = await self._link.ask(order)
                execution = context.executions.get(answer["running"])
                if execution is None:
                    return "idle"
                if not answer["done"]:
                    context.fate = fate  # some kernels (Deno's) end by a signal
                    await self._signal(context, execution)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._settings.interrupt_seconds / 2):
                            await execution.wait()
                    # Lost where it came between a program's fork and its exec.
                    await self._signal(context, execution)
                await execution.wait()
        except TimeoutError:
            await self.restart(context, fate)
            return "restarted"
        except BaseException:  # whoever asked has gone: what ends later ends for reasons of its own
            context.fate = EndStatus.DIED
            raise
        if context.process is not None and context.process.is_over:
            await self.restart(context, fate)
            return "restarted"
        context.fate = EndStatus.DIED
        return "interrupted"

    async def _signal(self, context: Context, execution: Execution) -> None:
        if execution.meta.execution_count is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARD_SECONDS):
                    while execution.meta.execution_count is None and not execution.is_over:
                        await execution.live().changed(HEARD_SECONDS, execution.live().tail)
        if context.process is not None and not execution.is_over:
            with suppress(NotFound):
                context.process.send_signal(signal.SIGINT, context.process.meta.id)

    # Executions

    async def execute(
        self, context: Context, wanted: ExecutionSpec, key: str = "", body: str = ""
    ) -> tuple[Execution, bool]:
        """Have code run when all before it is over; returns at once (True: the key is known).

        Raises Conflict for a context that is dead or has too many waiting.
        """
        scoped = f"{context.meta.id} {key}" if key else ""
        return await self._ran.get(scoped, body, lambda: self._execute(context, wanted, key, body))

    async def _execute(
        self, context: Context, wanted: ExecutionSpec, key: str, body: str
    ) -> Execution:
        await self._ready(context)
        if context.is_dead:
            why = context.end_reason or "it could not be started"
            raise Conflict(f"the interpreter of this context has ended ({why}): restart it")
        if len(context.unfinished) >= QUEUED_MOST:
            raise Conflict(f"{QUEUED_MOST} executions wait in this context already")
        weight = len(wanted.code)
        if (waiting := sum(one.weight for one in context.unfinished)) and (
            waiting + weight > QUEUED_BYTES
        ):
            raise Conflict(f"code of {waiting} characters waits in this context already")
        meta = ExecutionMeta(
            new_id(),
            context.meta.id,
            created_at=time.time(),
            timeout=wanted.timeout,
            idempotency_key=key,
            idempotency_body=body,
        )
        folder = self._processes.folder_of(wanted.cwd) if wanted.cwd else ""
        order = Execute(
            id=meta.id,
            context=meta.context,
            code=wanted.code,
            env=wanted.env,
            cwd=folder,
            silent=wanted.silent,
            store_history=wanted.store_history,
            meta=meta,
        )
        execution = Execution(meta, self._store.contexts / meta.context / meta.id, weight)
        execution.order = order
        context.executions[meta.id] = execution
        context.last_used = WORK.now()
        self._shelf.put(execution)
        try:
            await self._link.ask(order)
        except SandkeeperError:
            del context.executions[meta.id]
            self._shelf.drop(execution)
            raise
        return execution

    def execution(self, identifier: str) -> Execution:
        """Return an execution; raises NotFound, or Forbidden out of reach."""
        found = self._shelf.get(identifier)
        if found is None:
            raise NotFound(f"execution '{identifier[:64]}' not found")
        context = self._contexts.get(found.meta.context)
        self._users.check_reach(context.meta.user if context is not None else "")
        return found

    async def complete(self, context: Context, code: str, cursor: int) -> Any:
        """Return `matches` (text, type), `start` and `end` of what they stand for, in characters.

        Raises Conflict while the interpreter is busy for longer than ten seconds.
        """
        return await self._call(context, "complete", {"code": code, "cursor": cursor})

    async def inspect(self, context: Context, code: str, cursor: int, detail: int = 0) -> Any:
        """Return whether something is `found` at a cursor and a MIME bundle that tells of it."""
        arguments = {"code": code, "cursor": cursor, "detail": detail}
        return await self._call(context, "inspect", arguments)

    async def variables(self, context: Context) -> Any:
        """Return the variables of a context: name, type, value as a short text, size."""
        return await self._call(context, "variables", {})

    async def _call(self, context: Context, name: str, arguments: dict[str, Any]) -> Any:
        await self._ready(context)
        if context.is_dead:
            raise Conflict("the interpreter of this context has ended: restart it")
        context.last_used = WORK.now()
        order = Call(context=context.meta.id, name=name, arguments=arguments)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await self._link.ask(order)
        except TimeoutError:
            raise Conflict("the interpreter is busy: try again, or interrupt it") from None

    async def _ready(self, context: Context) -> None:
        """Wait while a context is started anew, or a scribe takes the place of one that is lost."""
        if context.revival is not None:  # not all of them: one may be deaf while it works
            await asyncio.wait([context.revival])
        if context.starting:
            async with context.turn:
                pass

    # News

    def _news(self, grown: Grown) -> None:
        execution = self._shelf.get(grown.meta.id)
        if execution is None or execution.is_over:
            return
        execution.take(grown)
        context = self._contexts.get(grown.meta.context)
        if context is None:
            return
        context.last_used = WORK.now()
        if grown.meta.is_over:
            self._shelf.bound()
        else:
            self._arm(context, execution)

    def _arm(self, context: Context, execution: Execution) -> None:
        meta = execution.meta
        if meta.timeout is None or execution.clock is not None or not meta.started_at:
            return
        if meta.started_uptime:
            due = WORK.at(meta.started_uptime) + meta.timeout
        else:  # a scribe of an earlier version says only what the wall clock showed
            left = min(meta.timeout, meta.started_at + meta.timeout - time.time())
            due = WORK.now() + left
        execution.clock = WorkTimer(due, self._time_is_up, context, execution)

    def _time_is_up(self, context: Context, execution: Execution) -> None:
        if not execution.is_over:
            self._later(self._end_late(context))

    async def _end_late(self, context: Context) -> None:
        try:
            await self.interrupt(context, EndStatus.TIMEOUT)
        except SandkeeperError as error:
            self._log.warning(f"code context {context.meta.id} cannot be interrupted: {error}")

    def _forget(self, execution: Execution) -> None:
        context = self._contexts.get(execution.meta.context)
        if context is not None:
            context.executions.pop(execution.meta.id, None)
            self._ran.forget(f"{context.meta.id} {execution.meta.idempotency_key}")
        self._later(asyncio.to_thread(self._store.remove_execution, execution.meta))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
