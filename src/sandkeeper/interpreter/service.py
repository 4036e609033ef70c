"""Contexts: interpreters that keep their state, made, found, started anew and ended."""

import asyncio
import time
from contextlib import suppress

import msgspec

from sandkeeper.errors import BadInput, Conflict, NotFound, SandkeeperError
from sandkeeper.interpreter.context import Context
from sandkeeper.interpreter.events import EndStatus
from sandkeeper.interpreter.launching import Launching
from sandkeeper.interpreter.link import Link
from sandkeeper.interpreter.orders import Detach
from sandkeeper.interpreter.revival import Revival
from sandkeeper.interpreter.running import Running
from sandkeeper.interpreter.specs import ContextMeta, ContextSpec
from sandkeeper.interpreter.starters import Language, Starters
from sandkeeper.interpreter.store import CodeStore
from sandkeeper.interpreter.warm import Warm
from sandkeeper.linux.clocks import WORK
from sandkeeper.once import Keyed, Once
from sandkeeper.processes.launch import Workshop
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.runs import new_id
from sandkeeper.settings import CodeSettings

__all__ = ["Contexts"]

SWEEP_SECONDS = 5.0


class Contexts(Running):
    """All contexts and executions; event loop's thread only. `start` before anything else."""

    def __init__(
        self,
        shop: Workshop,
        processes: Processes,
        settings: CodeSettings,
        store: CodeStore,
        starters: Starters,
    ) -> None:
        limits = {"run_bytes": settings.execution_bytes, "total_bytes": settings.total_bytes}
        link = Link(
            *(store.socket, store.log, shop.children, shop.log, limits),
            news=self._news,
            lost=self._lost,
        )
        super().__init__(settings, processes, store, link, shop.log, shop.users)
        self._starters = starters
        self._launching = Launching(
            processes=processes,
            users=shop.users,
            store=store,
            link=link,
            log=shop.log,
            starter=starters.of,
            ended=lambda context: self._warm.died(context),
        )
        self._revival = Revival(shop, processes, store, link, self._launching)
        self._made: Keyed[Context] = Keyed()
        self._shared: dict[str, Once[Context]] = {}
        self._warm = Warm(
            *(settings.warm, self._launching, shop.log),
            discard=lambda context: self._later(self._discard(context)),
        )
        self._starting = 0
        self._begun = Once(self._begin)

    async def start(self) -> None:
        """Take up what earlier servers left, once."""
        await self._begun.get()

    async def _begin(self) -> None:
        contexts = await self._revival.load()
        for context in contexts:
            self._contexts[context.meta.id] = context
            if context.meta.idempotency_key:
                key, body = context.meta.idempotency_key, context.meta.idempotency_body
                self._made.enter(key, body, context)
            for execution in context.executions.values():
                self._shelf.put(execution)
                if key := execution.meta.idempotency_key:
                    scoped = f"{context.meta.id} {key}"
                    self._ran.enter(scoped, execution.meta.idempotency_body, execution)
        await self._revival.revive(contexts)
        for context in contexts:
            for execution in context.unfinished:
                self._arm(context, execution)
        self._warm.adopt([one for one in contexts if one.meta.spare])
        self._warm.refill()
        self._later(self._sweep())

    def abandon(self) -> None:
        """Send away who follows executions: the server stops."""
        for context in self._contexts.values():
            for execution in context.unfinished:
                execution.live().abandon()

    async def close(self) -> None:
        """Let go; interpreters and the scribe go on."""
        await self._warm.close()
        for context in self._contexts.values():
            if context.watch is not None:
                context.watch.cancel()
            for execution in context.unfinished:
                if execution.clock is not None:
                    execution.clock.cancel()
        tasks = [*self._tasks, *filter(None, [self._reviving])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.close()

    # Contexts

    def all(self) -> list[Context]:
        """Return the contexts that whoever asks may use, oldest first."""
        reaches = self._users.reaches
        found = self._contexts.values()
        return [one for one in found if not one.meta.spare and reaches(one.meta.user)]

    def get(self, identifier: str) -> Context:
        """Return one; raises NotFound, or Forbidden for one out of reach."""
        context = self._contexts.get(identifier)
        if context is None or context.meta.spare:
            raise NotFound(f"code context '{identifier[:64]}' not found")
        self._users.check_reach(context.meta.user)
        return context

    async def languages(self) -> list[Language]:
        """Return what contexts can be made of."""
        return await self._starters.languages(self._users.current())

    async def create(
        self, wanted: ContextSpec, key: str = "", body: str = "", *, idle_seconds: float = 0.0
    ) -> tuple[Context, bool]:
        """Return a context that takes code, or the one that a key stands for already (and True).

        Raises NotInstalled, BadInput, Unprocessable (it cannot be started), Conflict (too many).
        """
        return await self._made.get(
            key, body, lambda: self._create(wanted, key, body, idle_seconds)
        )

    async def _create(
        self, wanted: ContextSpec, key: str, body: str, idle_seconds: float, shared: str = ""
    ) -> Context:
        if not wanted.language:
            raise BadInput("language must not be empty")
        if len(self._contexts) + self._starting >= self._settings.contexts:
            raise Conflict(f"there are {self._settings.contexts} code contexts already")
        user = self._users.recorded(wanted.user)
        meta = ContextMeta(
            **{**msgspec.structs.asdict(wanted), "user": user},
            id=new_id(),
            created_at=time.time(),
            shared=shared,
            idle_seconds=idle_seconds,
            idempotency_key=key,
            idempotency_body=body,
        )
        self._starting += 1
        try:
            # Shielded: a client that goes away must not leave a kernel that nobody knows.
            return await asyncio.shield(asyncio.ensure_future(self._enter(meta)))
        finally:
            self._starting -= 1

    async def _enter(self, meta: ContextMeta) -> Context:
        context = await self._adapted(meta) or await self._launching.make(meta)
        self._contexts[context.meta.id] = context
        return context

    async def _adapted(self, wanted: ContextMeta) -> Context | None:
        """Return the warm context as a wanted one, where it can become that."""
        context = await self._warm.take(wanted)
        if context is None:
            return None
        if wanted.env or wanted.cwd:
            folder = self._processes.folder_of(wanted.cwd)
            arguments = {"env": wanted.env, "cwd": folder}
            try:
                await self._call(context, "adapt", arguments)
            except SandkeeperError:  # as a fresh one it tells better what is wrong
                self._later(self._discard(context))
                return None
        kept = {name: getattr(wanted, name) for name in ContextSpec.__struct_fields__}
        spare = context.meta
        for name in ("created_at", "shared", "idle_seconds"):
            kept[name] = getattr(wanted, name)
        context.meta = msgspec.structs.replace(spare, spare=False, **kept)
        context.meta.idempotency_key = wanted.idempotency_key
        context.meta.idempotency_body = wanted.idempotency_body
        await asyncio.to_thread(self._store.save, context.meta)
        return context

    async def _discard(self, context: Context) -> None:
        self._contexts.pop(context.meta.id, None)
        await self._launching.stop(context, EndStatus.DELETED)
        with suppress(SandkeeperError):
            await self._link.ask(Detach(context=context.meta.id))
        await asyncio.to_thread(self._store.remove, context.meta.id)

    async def default(self, language: str = "python", cwd: str = "") -> Context:
        """Return the context of a language that all share who name none; made, or started again.

        Where it begins may be said: for each folder there is another.
        """
        shared = f"{language} {cwd}".strip()
        making = self._shared.setdefault(
            shared, Once(lambda: self._default(shared, ContextSpec(language, cwd=cwd)))
        )
        try:
            context = await making.get()
        except SandkeeperError:
            if self._shared.get(shared) is making:  # of what nobody can make nothing is kept
                del self._shared[shared]
            raise
        if context.meta.id not in self._contexts:
            self._shared.pop(shared, None)
            return await self.default(language, cwd)
        if context.is_dead:
            await self.restart(context)
        return context

    async def _default(self, shared: str, wanted: ContextSpec) -> Context:
        for context in self._contexts.values():
            if context.meta.shared == shared and not context.meta.user:
                return context
        return await self._create(wanted, "", "", 0.0, shared)

    async def delete(self, context: Context) -> None:
        """End a context; its executions end as `deleted`, and are forgotten with it."""
        async with context.turn:
            if self._contexts.get(context.meta.id) is not context:
                return
            await asyncio.to_thread(self._store.forget, context.meta.id)
            await self._launching.stop(context, EndStatus.DELETED)
            with suppress(SandkeeperError):
                await self._link.ask(Detach(context=context.meta.id))
            self._contexts.pop(context.meta.id, None)
            self._made.forget(context.meta.idempotency_key)
            for execution in context.executions.values():
                self._shelf.drop(execution)
                self._ran.forget(f"{context.meta.id} {execution.meta.idempotency_key}")
        # Later: those who follow its executions still read the end.
        loop = asyncio.get_running_loop()
        loop.call_later(SWEEP_SECONDS, self._remove, context.meta.id)

    def _remove(self, context: str) -> None:
        self._later(asyncio.to_thread(self._store.remove, context))

    async def restart(self, context: Context, fate: str = EndStatus.RESTARTED) -> None:
        """Start a context's interpreter anew, without its state; what ran ends as `restarted`.

        Raises Unprocessable when it cannot be started; the context is dead then.
        """
        generation = context.meta.generation
        async with context.turn:
            if context.meta.generation != generation and not context.is_dead:
                return  # somebody else has just done it
            if self._contexts.get(context.meta.id) is not context:
                raise NotFound(f"code context '{context.meta.id}' not found")
            await self._launching.stop(context, fate)
            await asyncio.shield(asyncio.ensure_future(self._launching.start(context)))

    async def _sweep(self) -> None:
        """End contexts that nobody has used for as long as is set."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = WORK.now()
            for context in list(self._contexts.values()):
                idle = context.meta.idle_seconds or self._settings.idle_seconds
                unused = 0 < idle < now - context.last_used and not context.meta.spare
                if unused and context.state in {"idle", "dead"}:
                    self._log.info(f"code context {context.meta.id} was idle and is ended")
                    await self.delete(context)

    def _lost(self) -> None:
        lost = [*self._contexts.values(), *filter(None, [self._warm.spare])]
        for context in lost:
            context.revival = asyncio.get_running_loop().create_future()
        self._reviving = asyncio.ensure_future(self._revival.revive(lost))
