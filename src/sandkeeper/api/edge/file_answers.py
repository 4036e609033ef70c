"""Long response bodies: files and generated ones, produced in worker threads.

The next block is read while the present one is on its way; a client that is gone ends the work,
one that does not read holds two blocks.
"""

import asyncio
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sandkeeper.api.edge.connections.outgoing import answer_of
from sandkeeper.errors import Internal
from sandkeeper.files.service import Opened
from sandkeeper.files.work import FileWork

__all__ = ["FileBody", "GeneratedBody"]

BLOCK_BYTES = 512 * 1024
HELD_BYTES = 5 * BLOCK_BYTES // 2
"""A block that is on its way and the one after it."""

Piece = bytes | tuple[int, int]
"""Bytes as they are, or (start, length) of the file."""


class _Body(Response):
    """A response of which each block is made by `_next` in a worker thread; None is the end."""

    def __init__(self, work: FileWork, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(None, status)
        # Without a length given here the body is chunked.
        self.raw_headers = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head and block after block."""
        ahead: asyncio.Future[bytes | None] | None = None
        answer = answer_of(scope)
        answer.is_managed = True
        try:
            await answer.reserve(HELD_BYTES)
        except BaseException:
            await self._work.run(self._close)
            raise
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            # What fails before the first block is there can still be answered as an error.
            block = await self._work.run(self._next)
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            while block is not None and not gone.done():
                ahead = asyncio.ensure_future(self._work.run(self._next))
                await send({"type": "http.response.body", "body": block, "more_body": True})
                block = await ahead
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            if ahead is not None and not ahead.done():
                with suppress(Exception):  # the block is not wanted any more
                    await ahead
            await self._work.run(self._close)

    @abstractmethod
    def _next(self) -> bytes | None:
        """Make the next block."""

    @abstractmethod
    def _close(self) -> None:
        """Give everything back."""


class FileBody(_Body):
    """Pieces of an open file; a pseudo-file without a size is sent to its end."""

    def __init__(
        self,
        work: FileWork,
        opened: Opened,
        pieces: Sequence[Piece],
        status: int,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(work, status, headers)
        self._opened = opened
        self._blocks = self._endless() if opened.size is None else self._sized(pieces)

    def _next(self) -> bytes | None:
        return next(self._blocks, None)

    def _close(self) -> None:
        self._opened.fd.close()

    def _sized(self, pieces: Sequence[Piece]) -> Iterator[bytes]:
        fd = self._opened.fd
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            position, left = piece
            while left:
                block = os.pread(fd.number, min(left, BLOCK_BYTES), position)
                if not block:  # cut while it was read: the promised length cannot be kept
                    raise Internal("the file became shorter while it was sent")
                yield block
                position += len(block)
                left -= len(block)

    def _endless(self) -> Iterator[bytes]:
        yield self._opened.first
        # A pseudo-file that has nothing more for now (EAGAIN) is at its end for a download.
        with suppress(BlockingIOError):
            while block := os.read(self._opened.fd.number, BLOCK_BYTES):
                yield block


class GeneratedBody(_Body):
    """Blocks of a generator that runs in worker threads; `close` is called at the end."""

    def __init__(
        self,
        work: FileWork,
        blocks: Iterator[bytes],
        headers: Mapping[str, str],
        close: Callable[[], object] = lambda: None,
        status: int = 200,
    ) -> None:
        super().__init__(work, status, headers)
        self._blocks = blocks
        self._release = close

    def _next(self) -> bytes | None:
        return next(self._blocks, None)

    def _close(self) -> None:
        self._release()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
