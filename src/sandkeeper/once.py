"""What is made when somebody needs it: by one for all who wait, once, or when it is too old."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from sandkeeper.errors import Unprocessable

__all__ = ["Keyed", "Once", "Recent"]

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


class Keyed(Generic[T]):
    """Values by idempotency key: what a key was first sent for is returned to all who send it.

    Event loop's thread only.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, asyncio.Future[T]]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def enter(self, key: str, body: str, value: T) -> None:
        """Have a key stand for what is there already."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        future.set_result(value)
        self._known[key] = (body, future)

    def forget(self, key: str) -> None:
        """Have a key be a new one."""
        self._known.pop(key, None)

    async def get(self, key: str, body: str, make: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """Return what `make` makes, or (and True) what it has made for the key before.

        `body` is a fingerprint of the request. Raises Unprocessable where the key came with another
        one; what `make` raises leaves the key a new one.
        """
        if not key:
            return await make(), False
        if key in self._known:
            known_body, known = self._known[key]
            if known_body != body:
                raise Unprocessable("the idempotency key was used with another request body")
            return await asyncio.shield(known), True
        future = asyncio.get_running_loop().create_future()
        self._known[key] = (body, future)
        try:
            value = await make()
        except BaseException as error:
            del self._known[key]
            future.set_exception(error if isinstance(error, Exception) else Unprocessable("ended"))
            future.exception()  # retrieved, whether or not somebody else waits for it
            raise
        future.set_result(value)
        return value, False


class Recent(Generic[T]):
    """A value that `find` gives, found again when somebody asks for a younger one.

    Event loop's thread only.
    """

    def __init__(self, find: Callable[[], Awaitable[T]]) -> None:
        self._find = find
        self._finding: asyncio.Future[T] | None = None
        self._found_at = 0.0

    async def get(self, seconds: float) -> T:
        """Return one that was found at most so long ago; raises what `find` raises."""
        found = self._finding
        if found is None or (found.done() and (_failed(found) or self._age() > seconds)):
            self._finding = asyncio.ensure_future(self._find_now())
        assert self._finding is not None
        return await asyncio.shield(self._finding)

    def _age(self) -> float:
        return time.monotonic() - self._found_at

    async def _find_now(self) -> T:
        found = await self._find()
        self._found_at = time.monotonic()
        return found


def _failed(future: "asyncio.Future[T]") -> bool:
    return future.cancelled() or future.exception() is not None
