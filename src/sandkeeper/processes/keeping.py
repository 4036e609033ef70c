"""The keeper under watch: replaced when it ends or does not answer, and given everything again.

What only the server holds is lost with the server. So a keeper that ends is noticed at once, by
the hang-up of its socket, and one that is stopped by a question it does not answer in time. The new
one is given all pipes, terminals and pidfds before the old one, if it still is there, is ended.
"""

import asyncio
import os
import select
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from typing import Any

from sandkeeper.linux.children.child import Child
from sandkeeper.linux.children.tool import readable
from sandkeeper.linux.keeper.client import Keeper
from sandkeeper.log.lines import Log

__all__ = ["Keeping"]

ASK_EVERY = 10.0
BACK_OFF = (0.1, 0.5, 2.0, 10.0, 30.0)
GLANCE = 0.05


class Keeping:
    """Watches the keeper; `give` has everything put that runs, by orders to `writer`."""

    def __init__(self, keeper: Keeper, writer: Executor, log: Log) -> None:
        self._keeper = keeper
        self._writer = writer
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._reaping: Child | None = None
        self._wrong = ""
        self._watching = False
        self.give: list[Callable[[], None]] = []

    def check(self) -> str:
        """Say what is wrong with it; empty when all that runs is held, or nobody watches."""
        if self._watching and not self._wrong and not self._keeper.statistics()["connected"]:
            return "it has ended and is being replaced"
        return self._wrong

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Watch it while inside."""
        self._watching = True
        self._reap_later()
        self._start(self._watch())
        try:
            yield
        finally:
            self._watching = False
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def renewed(self) -> None:
        """Take notice of a keeper that a `put` had to start."""
        if self._watching:
            self._start(self._give_all())

    async def _watch(self) -> None:
        while True:
            stopped = await self._until_wrong()
            what = "does not answer" if stopped else "has ended"
            self._wrong = f"it {what} and is being replaced"
            self._log.warning(f"the keeper {what}: another one is started")
            old = await self._replaced(stopped)
            await self._give_all()
            if old is not None:
                with suppress(ProcessLookupError):
                    old.signal_group(signal.SIGKILL)
            self._wrong = ""
            self._log.info("a new keeper holds what runs")

    async def _until_wrong(self) -> bool:
        """Wait until the keeper has ended (False) or does not answer (True)."""
        while True:
            fd = await asyncio.to_thread(self._keeper.watchable)
            if fd < 0:
                return False
            try:
                if await _hung_up(fd, ASK_EVERY):
                    return False
            finally:
                os.close(fd)
            if not await asyncio.to_thread(self._keeper.answers):
                return True

    async def _replaced(self, stopped: bool) -> Child | None:
        """Have another keeper, however long it takes; returns the old one if it was ours."""
        for seconds in _pauses():
            try:
                old = await asyncio.to_thread(self._keeper.replace, stopped=stopped)
            except OSError as error:
                self._wrong = f"it cannot be replaced: {error.strerror or error}"
                self._log.error(f"no keeper: output may be lost if the server is killed: {error}")
                self._reap_later()
                await asyncio.sleep(seconds)
                continue
            self._reap_later()
            return old
        raise AssertionError("pauses never end")

    async def _give_all(self) -> None:
        self._reap_later()
        for give in self.give:
            give()
        # The writer takes orders one after another: behind this one everything has been put.
        await asyncio.get_running_loop().run_in_executor(self._writer, _nothing)

    def _reap_later(self) -> None:
        child = self._keeper.child
        if child is None or child is self._reaping:
            return
        self._reaping = child

        async def reap() -> None:
            await readable(child.pidfd.number)
            child.reap()

        self._start(reap())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _nothing() -> None:
    pass


def _pauses() -> Iterator[float]:
    yield from BACK_OFF
    while True:
        yield BACK_OFF[-1]


async def _hung_up(fd: int, seconds: float) -> bool:
    """Say whether a socket hangs up in time; answers that arrive on it belong to others."""
    poller = select.poll()
    poller.register(fd, 0)
    try:
        async with asyncio.timeout(seconds):
            while True:
                await readable(fd)
                if poller.poll(0):
                    return True
                await asyncio.sleep(GLANCE)
    except TimeoutError:
        return False
