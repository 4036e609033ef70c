"""Starting and ending what is behind a context: its process, and the scribe's ear on it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from sandkeeper.errors import NotFound, SandkeeperError, Unprocessable
from sandkeeper.interpreter.context import Context
from sandkeeper.interpreter.events import EndStatus
from sandkeeper.interpreter.link import Link
from sandkeeper.interpreter.orders import Attach, Detach, Died
from sandkeeper.interpreter.specs import ContextMeta
from sandkeeper.interpreter.starters import Starter
from sandkeeper.interpreter.store import CodeStore
from sandkeeper.journal.output import read_texts
from sandkeeper.linux.users import Users
from sandkeeper.log.lines import Log
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes
from sandkeeper.race import race

__all__ = ["Launching"]

START_SECONDS = 120.0
"""Twenty at once on a busy machine take their time; one that takes longer has hung."""
TAIL_BYTES = 2000


class Launching:
    """`starter` gives who knows how a language is started; `ended` hears of contexts that died."""

    def __init__(
        self,
        *,
        processes: Processes,
        users: Users,
        store: CodeStore,
        link: Link,
        log: Log,
        starter: Callable[[str], Starter],
        ended: Callable[[Context], None],
    ) -> None:
        self._processes = processes
        self._users = users
        self._store = store
        self._link = link
        self._log = log
        self._starter = starter
        self._ended = ended

    async def make(self, meta: ContextMeta) -> Context:
        """Return a new context that takes code; raises SandkeeperError, and nothing is left."""
        context = Context(meta)
        identity = self._users.named(meta.user)
        try:
            await asyncio.to_thread(self._store.make, meta, identity)
            await self.start(context)
        except BaseException as error:
            await asyncio.shield(self._undo(context))
            if isinstance(error, OSError):
                raise _cannot(error.strerror or str(error)) from None
            raise
        return context

    async def start(self, context: Context) -> None:
        """Start a context's process, the first or another; raises SandkeeperError."""
        context.starting = True
        try:
            await self._start(context)
        finally:
            context.starting = False
        context.watch = asyncio.ensure_future(self._watch(context))

    async def _start(self, context: Context) -> None:
        meta = context.meta
        opening = asyncio.ensure_future(self._link.open())  # its start takes as long as a kernel's
        try:
            identity = self._users.named(meta.user)
            starter = self._starter(meta.language)
            place = await asyncio.to_thread(self._store.place, meta.id)
            meta.generation += 1
            made = await starter.prepare(meta, place, identity, meta.generation)
            meta.kind, meta.kernel, meta.engine = made.kind, made.kernel, made.engine
            meta.process = ""
            # Before and behind: a server that is killed in between is found again by its name.
            await asyncio.to_thread(self._store.save, meta)
            made.spec.name = meta.process_name
            context.process, _ = await self._processes.start(made.spec)
        except BaseException:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            raise
        context.fate = EndStatus.DIED
        meta.process = context.process.meta.id
        try:
            await opening
            await asyncio.to_thread(self._store.save, meta)
            await self.attach(context)
        except BaseException:
            await asyncio.shield(self._end_process(context.process))
            raise

    async def attach(self, context: Context, *, again: bool = False, running: str = "") -> None:
        """Have the scribe listen until the interpreter takes code, or to what is `running` there.

        Raises Unprocessable when the process ends before, or does not answer.
        """
        process, meta = context.process, context.meta
        assert process is not None
        order = Attach(
            context=meta.id,
            kind=meta.kind,
            generation=meta.generation,
            pid=process.leader,
            folder=str(self._store.contexts / meta.id),
            running=running,
            engine={**meta.engine, "again": again},
        )
        facts, over = await race(self._link.ask(order), process.wait(), seconds=START_SECONDS)
        if facts is not None:
            context.facts.update(facts.result())
            return
        if over is None:
            raise _cannot(f"it did not answer within {START_SECONDS:g} s")
        texts = await read_texts(process.journal, TAIL_BYTES)
        said = (texts.stderr or texts.stdout).strip().rpartition("\n")[2]
        code = process.meta.exit_code
        why = process.meta.exit_reason if code in {None, -1} else f"exit code {code}"
        with suppress(SandkeeperError):
            await self._link.ask(Detach(context=meta.id))
        raise _cannot(f"it ended at once ({why}): {said}" if said else f"it ended at once ({why})")

    async def stop(self, context: Context, fate: str) -> None:
        """End a context's process for a reason that its executions are told."""
        if context.process is not None and not context.process.is_over:
            context.fate = fate
            await self._end_process(context.process)
        if context.watch is not None:
            await asyncio.wait([context.watch])

    async def _end_process(self, process: Process) -> None:
        with suppress(NotFound):
            process.kill(process.meta.id)
        await process.wait()

    async def _undo(self, context: Context) -> None:
        if context.process is not None:
            await self._end_process(context.process)
            with suppress(SandkeeperError):
                await self._link.ask(Detach(context=context.meta.id))
        await asyncio.to_thread(self._store.remove, context.meta.id)

    def watch(self, context: Context) -> None:
        """Tell the scribe when the process of a context has ended."""
        context.watch = asyncio.ensure_future(self._watch(context))

    async def _watch(self, context: Context) -> None:
        assert context.process is not None
        await context.process.wait()
        await self.tell_end(context)
        self._ended(context)

    async def tell_end(self, context: Context) -> None:
        """Tell the scribe that the process of a context has ended, and how."""
        order = Died(
            context=context.meta.id,
            generation=context.meta.generation,
            outcome=context.outcome(),
        )
        try:
            await self._link.ask(order)
        except SandkeeperError as error:
            self._log.warning(f"the end of code context {context.meta.id} is not told: {error}")


def _cannot(why: str) -> Unprocessable:
    return Unprocessable(f"the interpreter cannot be started: {why}")
