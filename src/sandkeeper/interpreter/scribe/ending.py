"""Waiting for the end of an execution, also where a kernel has lost a word of it.

A kernel says the end twice: in its reply, and as `idle` behind all that it has published. Where
one of them does not come, it is asked again. Messages keep their order on each of its sockets, so
what has not come when code that waits behind the execution has been run does not come any more.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sandkeeper.interpreter.scribe.engine import Lost
from sandkeeper.interpreter.scribe.messages import Message
from sandkeeper.interpreter.scribe.telling import Teller

__all__ = ["Ending"]

SILENCE_SECONDS = 1.0
"""So long nothing is heard before the kernel is asked for a sign; each time twice as long."""
LONG_SECONDS = 8.0
"""So long a silence is an execution that takes its time; then its word may have been lost."""
MOST_SECONDS = 60.0


class Ending:
    """The end of one execution: its `reply`, and what `teller` hears.

    `wake` sends a question that nobody waits for: ipykernel's thread that publishes may be deaf
    to the one that runs code, not to the one that answers on the control socket. `behind` is done
    once code behind this execution was run, and that was heard on iopub.
    """

    def __init__(
        self,
        reply: "asyncio.Future[Message]",
        teller: Teller,
        gone: "asyncio.Future[None]",
        *,
        wake: Callable[[], None],
        behind: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._reply = reply
        self._teller = teller
        self._gone = gone
        self._wake = wake
        self._behind = behind

    async def heard(self, *, lost: bool = False) -> bool:
        """Wait for the end; False where the reply was lost. Raises Lost with the process.

        Where it may be `lost` already, the kernel is asked at once.
        """
        behind = asyncio.ensure_future(self._behind()) if lost else None
        pause = SILENCE_SECONDS
        try:
            while not self._is_said:
                before = self._said
                await self._wait(pause, behind)
                if behind is not None and behind.done() and not self._is_said:
                    behind.result()  # it is lost with the process, too, and may know first
                    break
                if self._said != before:
                    pause = SILENCE_SECONDS
                    continue
                if behind is None and (self._is_half_said or pause >= LONG_SECONDS):
                    behind = asyncio.ensure_future(self._behind())
                self._wake()
                pause = min(2 * pause, MOST_SECONDS)
        finally:
            if behind is not None:
                behind.cancel()
        self._teller.unfinished("what the kernel could not publish")
        return self._reply.done()

    @property
    def _is_said(self) -> bool:
        return self._reply.done() and self._teller.idle.done()

    @property
    def _is_half_said(self) -> bool:
        return self._reply.done() or self._teller.idle.done()

    @property
    def _said(self) -> tuple[int, bool]:
        return self._teller.heard, self._reply.done()

    async def _wait(self, seconds: float, behind: "asyncio.Future[None] | None") -> None:
        wanted: list[asyncio.Future[Any] | None] = [self._reply, self._teller.idle, behind]
        missing = [one for one in wanted if one is not None and not one.done()]
        await asyncio.wait(
            [*missing, self._gone], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if self._gone.done() and all(not one.done() for one in missing):
            raise Lost
