"""Sandboxes that are paused when their time is up, by whichever replica comes first.

Only those need a replica: all others are ended by agent-sandbox's own controller. One that nobody
was there to pause is paused by the next replica that starts.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import time

from sandkeeper.api.control.source import RUNNING
from sandkeeper.errors import NotFound, SandkeeperError
from sandkeeper.fleet.objects import ClaimRecord
from sandkeeper.log.lines import Log

__all__ = ["Pausing"]

SPREAD_SECONDS = 1.0
"""So far apart replicas try; what one has done the others see within milliseconds."""

RETRY_SECONDS = 10.0


class Pausing:
    """A timer for each such sandbox; event loop's thread only. `find` gives its present record."""

    def __init__(
        self,
        find: Callable[[str], ClaimRecord | None],
        pause: Callable[[ClaimRecord], Awaitable[object]],
        log: Log,
    ) -> None:
        self._find = find
        self._pause = pause
        self._log = log
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._busy: set[asyncio.Task[None]] = set()

    def note(self, record: ClaimRecord) -> None:
        """Take a sandbox as it is now."""
        if timer := self._timers.pop(record.id, None):
            timer.cancel()
        if record.pauses and record.state == RUNNING:
            self._arm(record.id, record.ends_at - time() + random.uniform(0, SPREAD_SECONDS))

    def close(self) -> None:
        """Stop all timers."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._busy:
            task.cancel()

    def _arm(self, name: str, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(max(0.0, seconds), self._due, name)

    def _due(self, name: str) -> None:
        self._timers.pop(name, None)
        task = asyncio.ensure_future(self._pause_one(name))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _pause_one(self, name: str) -> None:
        record = self._find(name)
        if record is None or not record.pauses or record.state != RUNNING:
            return
        if record.ends_at > time():
            return  # it was kept, and has another timer
        try:
            await self._pause(record)
        except NotFound:
            return
        except SandkeeperError as error:
            self._log.warning(f"sandbox {name} cannot be paused at its time: {error}")
            self._arm(name, RETRY_SECONDS)
