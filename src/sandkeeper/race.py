"""Who is first: several things are awaited, and what is not needed any more is taken back."""

import asyncio
from collections.abc import Awaitable
from typing import Any

__all__ = ["race"]


async def race(
    *works: Awaitable[Any], seconds: float | None = None
) -> "list[asyncio.Future[Any] | None]":
    """Await all until one has ended, or for `seconds`; then cancel the others and wait for them.

    Returns their futures in order, which are done, and None for each that was cancelled. Who is
    cancelled cancels all of them.
    """
    futures = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in futures:
            future.cancel()
        await asyncio.gather(*futures, return_exceptions=True)
    return [None if future.cancelled() else future for future in futures]
