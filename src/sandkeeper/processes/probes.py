"""Looking again and again for all who wait: what cannot tell of itself, a bounded number at a time.

Whoever waits for the same thing shares its looks. What is waited for on behalf of one process has
AT_ONCE looks open together, and all processes take turns, so neither many things of one nor one
that never answers keeps those of others.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sandkeeper.errors import SandkeeperError

__all__ = ["Fits", "Look", "Probes", "Subject"]

LOOK_SECONDS = 0.1
PAUSE_SECONDS = 0.005
AT_ONCE = 8
AT_ONCE_IN_ALL = 128

Look = Callable[[], Awaitable[int]]
"""Looks once: a status, 0 for nothing. A failure (SandkeeperError, OSError, TimeoutError) is 0."""

Fits = Callable[[int], bool]
"""Says whether a status that is not 0 is what one waits for."""

Subject = str
"""On whose behalf: a process's id."""


@dataclass(eq=False, slots=True)
class _Address:
    key: tuple[Subject, Hashable]
    look: Look
    waiting: "list[tuple[Fits, asyncio.Future[int]]]" = field(default_factory=list)
    looked: "asyncio.Future[None] | None" = None

    def tell(self, status: int) -> None:
        for fits, answer in self.waiting:
            if status and not answer.done() and fits(status):
                answer.set_result(status)


class Probes:
    """Looks at what is waited for; at nothing while nobody waits."""

    def __init__(self) -> None:
        self._addresses: dict[tuple[Subject, Hashable], _Address] = {}
        self._due: OrderedDict[Subject, deque[_Address]] = OrderedDict()
        self._open: dict[Subject, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._closed = False

    async def answered(
        self,
        key: tuple[Subject, Hashable],
        look: Look,
        fits: Fits,
        gone: "asyncio.Future[Any]",
        last: float,
    ) -> int:
        """Wait until a status fits, and return it. `look` looks at what `key` names.

        Once `gone` is done it is looked once more, for `last` seconds: 0 when nothing fits then.
        """
        loop = asyncio.get_running_loop()
        address = self._addresses.get(key)
        if address is None:
            address = self._addresses[key] = _Address(key, look)
            self._queue(address)
        mine = (fits, loop.create_future())
        answer = mine[1]
        address.waiting.append(mine)
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                if address.looked is None:
                    address.looked = loop.create_future()
                until = {answer, address.looked}
                await asyncio.wait(until, timeout=last, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else 0
        finally:
            address.waiting.remove(mine)

    def _queue(self, address: _Address) -> None:
        if self._closed:
            return
        self._due.setdefault(address.key[0], deque()).append(address)
        self._changed.set()
        if self._starting is None or self._starting.done():
            self._starting = asyncio.ensure_future(self._start())

    async def _start(self) -> None:
        """Start what is due, a subject after the other."""
        while self._due:
            self._changed.clear()
            subject = next((one for one in self._due if self._may_start(one)), None)
            if subject is None:
                await self._changed.wait()
                continue
            queue = self._due.pop(subject)
            address = queue.popleft()
            if queue:
                self._due[subject] = queue  # behind all others
            if not address.waiting:
                del self._addresses[address.key]
                continue
            self._open[subject] = self._open.get(subject, 0) + 1
            task = asyncio.ensure_future(self._probe(address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(PAUSE_SECONDS)

    def _may_start(self, subject: Subject) -> bool:
        return self._open.get(subject, 0) < AT_ONCE and len(self._tasks) < AT_ONCE_IN_ALL

    async def _probe(self, address: _Address) -> None:
        asked, address.looked = address.looked, None
        try:
            with suppress(TimeoutError, SandkeeperError, OSError):
                address.tell(await address.look())
        finally:
            if asked is not None and not asked.done():
                asked.set_result(None)
            self._end(address.key[0])
        again = 0 if address.looked else LOOK_SECONDS
        asyncio.get_running_loop().call_later(again, self._queue, address)

    def _end(self, subject: Subject) -> None:
        self._open[subject] -= 1
        if not self._open[subject]:
            del self._open[subject]
        self._changed.set()

    async def close(self) -> None:
        """Stop looking."""
        self._closed = True
        tasks = [*self._tasks, *([self._starting] if self._starting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
