"""Streams: one writer per response, heartbeats between records, an end when the client goes.

A body is an async iterator of blocks. `next_block` gives it back its turn after a while of
silence, without ever cancelling it in the middle of a step.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

__all__ = ["SILENCE", "Disconnected", "StreamResponse", "Ticker", "until_disconnect"]

T = TypeVar("T")


class Disconnected(Exception):
    """The client went away before its answer."""


SILENCE = object()
"""What a Ticker gives when its source said nothing for the whole interval."""


class StreamResponse(Response):
    """Sends blocks as they come and stops when the client disconnects.

    uvicorn's flow control makes `send` wait for a slow client; a client that never reads holds
    one block here and one buffer in the kernel, nothing more.
    """

    def __init__(self, blocks: AsyncIterator[bytes], media_type: str) -> None:
        super().__init__(b"", 200, {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"})
        self.raw_headers = [
            item for item in self.raw_headers if item[0] not in {b"content-length", b"content-type"}
        ]
        self.raw_headers.append((b"content-type", media_type.encode()))
        self._blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers at once, then the blocks."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        sender = asyncio.ensure_future(self._send_all(send))
        watcher = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watcher, sender):
                if not task.done():
                    task.cancel()
            await asyncio.gather(watcher, sender, return_exceptions=True)
        if not sender.cancelled() and (error := sender.exception()) is not None:
            raise error

    async def _send_all(self, send: Send) -> None:
        # An empty block makes uvicorn write the headers now, not with the first record.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        async with aclosing(self._blocks) as blocks:  # type: ignore[type-var]
            async for block in blocks:
                if block:
                    await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    message: Message = await receive()
    while message["type"] != "http.disconnect":
        message = await receive()


class Ticker:
    """Reads an async iterator, but says `SILENCE` when nothing came for `interval` seconds.

    The iterator's step goes on meanwhile; nothing it would give is lost. Use `aclosing`.
    """

    def __init__(self, source: AsyncIterator[T], interval: float) -> None:
        self._source = source
        self._interval = interval
        self._step: asyncio.Future[T] | None = None

    def __aiter__(self) -> "Ticker":
        return self

    async def __anext__(self) -> T | object:
        """Return the next item or SILENCE."""
        return await self.next(self._interval)

    async def next(self, timeout: float) -> T | object:
        """Return the next item, or SILENCE after `timeout` seconds."""
        if self._step is None:
            self._step = asyncio.ensure_future(anext(self._source))
        done, _ = await asyncio.wait({self._step}, timeout=timeout)
        if not done:
            return SILENCE
        step, self._step = self._step, None
        try:
            return step.result()
        except StopAsyncIteration:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """End the step under way and the source."""
        if self._step is not None:
            self._step.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await self._step
        close: Callable[[], Awaitable[None]] | None = getattr(self._source, "aclose", None)
        if close is not None:
            await close()


async def until_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, but cancel it when the client goes; raises Disconnected then.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Disconnected
        return task.result()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)
