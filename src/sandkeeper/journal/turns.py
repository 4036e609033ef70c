"""Turns: bulk work of many streams, one piece in each round of the event loop.

Every stream that follows a flood has something to send in every round. A hundred of them would
make a round of the loop take as long as a hundred blocks take, and a request that needs three
rounds wait three times as long. Here a round carries one block, whoever it is for.
"""

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """A queue for the event loop's rounds; event loop's thread only."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = False

    async def take(self) -> None:
        """Wait for a round in which nobody else has a turn; at once when this is one."""
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._next, loop)
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # who waited may have been cancelled
                turn.set_result(None)
                loop.call_soon(self._next, loop)
                return
        self._taken = False
