"""Taking up what an earlier server, or a scribe that was lost, has left.

Where the scribe has lived on, nothing is lost: it tells how all stands. Where it has not, another
one goes on with what runs: what was said meanwhile is a gap. What waited is told to it again by the
server that knows it, and is cancelled where none does.
"""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress

from sandkeeper.errors import SandkeeperError, Unavailable
from sandkeeper.interpreter.context import Context
from sandkeeper.interpreter.events import EndStatus, Outcome
from sandkeeper.interpreter.execution import Execution
from sandkeeper.interpreter.launching import Launching
from sandkeeper.interpreter.link import Link
from sandkeeper.interpreter.orders import Detach, Finish
from sandkeeper.interpreter.scribe.finishing import read_execution
from sandkeeper.interpreter.specs import ContextMeta, ExecutionMeta
from sandkeeper.interpreter.store import CodeStore
from sandkeeper.linux.paths.statefiles import Damaged
from sandkeeper.processes.launch import Workshop
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes

__all__ = ["Revival"]

LOST = "what listened to the interpreter was lost"


class Revival:
    """Event loop's thread only."""

    def __init__(
        self,
        shop: Workshop,
        processes: Processes,
        store: CodeStore,
        link: Link,
        launching: Launching,
    ) -> None:
        self._aside = shop.state.aside
        self._log = shop.log
        self._processes = processes
        self._store = store
        self._link = link
        self._launching = launching
        self._turn = asyncio.Lock()

    async def load(self) -> list[Context]:
        """Return the contexts of earlier servers, oldest first; raises OSError."""
        try:
            await asyncio.to_thread(self._store.prepare, self._aside)
        except OSError as error:
            raise Unavailable(f"code contexts cannot be kept: {error.strerror}") from None
        found = await asyncio.to_thread(self._store.load, self._aside, self._log.error)
        contexts = []
        for meta, executions in found:
            context = Context(meta)
            context.process = self._process_of(meta)
            for one in executions:
                folder = self._store.contexts / meta.id / one.id
                context.executions[one.id] = Execution(one, folder)
            contexts.append(context)
        return contexts

    def _process_of(self, meta: ContextMeta) -> Process | None:
        """Return a context's process: by its name where a server was killed while it started."""
        for process in self._processes.registered():
            if process.meta.id == meta.process:
                return process
            if not meta.process and process.meta.name == meta.process_name and not process.is_over:
                return process
        return None

    async def revive(self, contexts: list[Context]) -> None:
        """Have the scribe listen again to all that lives, and tell the ends of all else."""
        waited_for = {one.meta.id: one.revival for one in contexts}
        try:
            async with self._turn:
                await self._revive_all(contexts, waited_for)
        finally:
            for future in waited_for.values():
                _set(future)

    async def _revive_all(
        self, contexts: list[Context], waited_for: "Mapping[str, asyncio.Future[None] | None]"
    ) -> None:
        lively = any(not one.is_dead or one.unfinished for one in contexts)
        try:
            if not await self._link.open(start=lively):
                return
            # Behind its answer everything has come that the scribe tells of by itself.
            await self._link.ask(Detach(context=""))
        except SandkeeperError as error:
            self._log.error(f"code contexts cannot be taken up again: {error}")
            return
        hello = self._link.hello
        heard = hello.contexts if hello is not None else {}

        async def each(context: Context) -> None:
            try:
                await self._revive(context, again=heard.get(context.meta.id, -1))
            finally:
                _set(waited_for[context.meta.id])

        await asyncio.gather(*map(each, contexts))

    async def _revive(self, context: Context, *, again: int) -> None:
        """`again` is the generation that the scribe listens to, -1 for none."""
        listening = again == context.meta.generation
        try:
            running, waiting = "", list[Execution]()
            if not listening:
                running, waiting = await self._sorted(context)
            if context.process is None or context.starting:
                return
            if not context.is_dead:
                await self._launching.attach(context, again=not listening, running=running)
                await self._tell_again(waiting)
            elif listening:
                await self._launching.tell_end(context)
            else:
                return
            if context.watch is None and not context.is_dead:
                self._launching.watch(context)
            if listening:
                await self._settle(context, live=not context.is_dead)
        except SandkeeperError as error:
            self._log.error(f"code context {context.meta.id} cannot be taken up again: {error}")
            with suppress(SandkeeperError):
                await self._settle(context)

    async def _sorted(self, context: Context) -> tuple[str, list[Execution]]:
        """Return the execution that runs, if any, and those that wait; all else is settled."""
        if context.is_dead or context.process is None or context.starting:
            await self._settle(context)
            return "", []
        running, waiting = "", []
        for execution in context.unfinished:
            meta = await self._read(execution)
            if meta is not None and meta.status == "running":
                running = meta.id
            elif execution.order is not None and not execution.is_over:
                waiting.append(execution)
        kept = {running, *(one.meta.id for one in waiting)}
        await self._settle(context, kept=kept)
        return running, waiting

    async def _tell_again(self, waiting: list[Execution]) -> None:
        for execution in waiting:
            if execution.order is not None:
                await self._link.ask(execution.order)

    async def _settle(
        self, context: Context, *, live: bool = False, kept: Collection[str] = ()
    ) -> None:
        """End what nobody runs any more, but for what is `kept`.

        If the scribe is `live`, that is what it has not told of.
        """
        for execution in context.unfinished:
            if (live and execution.is_heard) or execution.meta.id in kept:
                continue
            meta = await self._read(execution)
            if meta is None or meta.is_over:
                continue
            if context.is_dead:
                outcome = context.outcome()
            elif meta.status == "queued":
                outcome = Outcome(EndStatus.CANCELLED, LOST)
            else:
                outcome = Outcome(EndStatus.UNKNOWN, LOST)
            await self._link.ask(Finish(folder=str(execution.folder), outcome=outcome))

    async def _read(self, execution: Execution) -> ExecutionMeta | None:
        """Return how an execution stands by its record, None for one that tells nothing."""
        try:
            meta = await asyncio.to_thread(read_execution, execution.folder)
        except (OSError, Damaged) as error:
            self._log.error(f"execution {execution.meta.id} cannot be read: {error}")
            return None
        execution.meta = meta
        if meta.is_over:
            execution.was_over()
        return meta


def _set(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
