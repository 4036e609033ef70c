"""What is made when somebody first needs it: by one for all who wait, and only once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Once"]

T = TypeVar("T")


class Once(Generic[T]):
    """A value that `make` gives; where it raises, the next who asks has it tried again.

    Event loop's thread only.
    """

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._making: asyncio.Future[T] | None = None

    async def get(self) -> T:
        """Return it; raises what `make` raises."""
        if self._making is None or (self._making.done() and _failed(self._making)):
            self._making = asyncio.ensure_future(self._make())
        # Shielded: whoever came first may go away while others wait for the same.
        return await asyncio.shield(self._making)


def _failed(future: "asyncio.Future[T]") -> bool:
    return future.cancelled() or future.exception() is not None
