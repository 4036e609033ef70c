"""Streams: one writer per response, heartbeats between records, an end when the client goes.

A body is an async iterator of blocks; it makes its own heartbeats, between its records.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from sandkeeper.errors import Unavailable
from sandkeeper.journal.cursor import Abandoned
from sandkeeper.race import race

__all__ = [
    "NDJSON",
    "RESUME",
    "SSE",
    "Abandoned",
    "Disconnected",
    "StreamResponse",
    "stream_type",
    "until_disconnect",
    "wants_stream",
]

T = TypeVar("T")

NDJSON, SSE = "application/x-ndjson", "text/event-stream"
RESUME = "sandkeeper.resume"
"""Under this key of its scope a request that has had its effect keeps a function that returns the
target of the GET that waits for the same answer. An upgrade asks that of the next server."""


class Disconnected(Exception):
    """The client went away before its answer."""


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
        headers = self.raw_headers
        if scope["http_version"] == "1.1" and (b"connection", b"close") not in scope["headers"]:
            headers = [*headers, (b"connection", b"keep-alive")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        sent, _ = await race(self._send_all(send), _disconnected(receive))
        error = sent.exception() if sent else None
        # Left without its last chunk, the client sees that the end is missing and can come again.
        if error is not None and not isinstance(error, Abandoned):
            raise error

    async def _send_all(self, send: Send) -> None:
        # An empty block makes uvicorn write the headers now, not with the first record.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        async with aclosing(self._blocks) as blocks:  # type: ignore[type-var]
            async for block in blocks:
                if block:
                    await send({"type": "http.response.body", "body": block, "more_body": True})
                    # A client that takes everything at once would never let others have a turn.
                    await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    message: Message = await receive()
    while message["type"] != "http.disconnect":
        message = await receive()


async def until_disconnect(request: Request, work: Awaitable[T], stopping: asyncio.Event) -> T:
    """Await `work`, but give it up when the client goes or the server stops.

    Raises Disconnected or Unavailable then. The request's body must have been read.
    """
    done, left, _ = await race(work, _disconnected(request.receive), stopping.wait())
    if done:
        result: T = done.result()
        return result
    if left:
        raise Disconnected
    raise Unavailable("the server is stopping")


def wants_stream(accept: bytes) -> bool:
    """Say whether a value of Accept asks for a stream of events."""
    return SSE.encode() in accept or NDJSON.encode() in accept


def stream_type(accept: str) -> str:
    """Return SSE where a value of Accept names it, else NDJSON: one rule for all streams."""
    return SSE if SSE in accept else NDJSON
