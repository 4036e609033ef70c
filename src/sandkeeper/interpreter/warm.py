"""A spare context that is ready before anybody asks for one."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from sandkeeper.errors import NotInstalled, SandkeeperError
from sandkeeper.interpreter.context import Context
from sandkeeper.interpreter.launching import Launching
from sandkeeper.interpreter.specs import ContextMeta
from sandkeeper.log.lines import Log
from sandkeeper.processes.runs import new_id

__all__ = ["Warm"]

AGAIN_SECONDS = 60.0
REFILL_SECONDS = 0.5


class Warm:
    """Keeps one spare context of a language (empty: none); event loop's thread only."""

    def __init__(
        self,
        language: str,
        launching: Launching,
        log: Log,
        discard: Callable[[Context], None],
    ) -> None:
        """`discard` ends a context and removes it."""
        self._discard = discard
        self._language = language
        self._launching = launching
        self._log = log
        self._making: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._closed = False
        self.spare: Context | None = None

    def adopt(self, spares: Iterable[Context]) -> None:
        """Take up the spare of an earlier server, and end those that are of no use."""
        for one in spares:
            if self.spare is None and not one.is_dead and one.meta.language == self._language:
                self.spare = one
            else:
                self._discard(one)

    def refill(self) -> None:
        """Have a spare made if there is none."""
        wanted = bool(self._language) and not self._closed and self.spare is None
        if wanted and (self._making is None or self._making.done()):
            self._making = asyncio.ensure_future(self._make())

    async def take(self, wanted: ContextMeta) -> Context | None:
        """Return the spare if it can become what is wanted, and have another one made."""
        plain = wanted.limits is None and not wanted.user and wanted.inherit_env
        if not self._language or not plain or wanted.language != self._language:
            return None
        if self.spare is None and self._making is not None:
            await asyncio.wait([self._making])  # it began before: nothing is faster
        context, self.spare = self.spare, None
        # Later: the start of another takes the processor from what is to be run in this one.
        self._again = asyncio.get_running_loop().call_later(REFILL_SECONDS, self.refill)
        return context if context is not None and not context.is_dead else None

    def died(self, context: Context) -> None:
        """Take notice of a context that has ended."""
        if context is self.spare:
            self.spare = None
            self._later()

    async def close(self) -> None:
        """Make none any more; the one there is waits for the next server."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        if self._making is not None:
            self._making.cancel()
            with suppress(asyncio.CancelledError):
                await self._making
        if self.spare is not None and self.spare.watch is not None:
            self.spare.watch.cancel()

    async def _make(self) -> None:
        meta = ContextMeta(self._language, id=new_id(), created_at=time.time(), spare=True)
        try:
            self.spare = await self._launching.make(meta)
        except NotInstalled as error:
            self._log.error(f"no code context is kept warm: {error}")
        except SandkeeperError as error:
            self._log.error(f"no code context is kept warm: {error}")
            self._later()

    def _later(self) -> None:
        if not self._closed:
            loop = asyncio.get_running_loop()
            self._again = loop.call_later(AGAIN_SECONDS, self.refill)
