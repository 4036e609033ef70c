"""Bytes that arrive bit by bit, written by a worker thread while the next ones are on their way."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Feed", "Sink"]

BLOCK_BYTES = 512 * 1024

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Sink(Protocol[T_co]):
    """Where bytes end; every method blocks and runs in a worker thread."""

    def write_pieces(self, pieces: list[bytes]) -> None:
        """Append the pieces."""

    def commit(self) -> T_co:
        """Make it true; afterwards nothing is left to discard."""

    def discard(self) -> None:
        """Drop everything; harmless when repeated or after a commit."""


class Feed(Generic[T]):
    """Feeds one sink: at most one block is being written and one is being gathered.

    The sink is opened with the first full block; what is smaller than one is opened, written and
    committed in one go. `run` is `FileWork.run` or `FileWork.own`.
    """

    def __init__(self, run: Callable[..., Awaitable[Any]], opener: Callable[[], Sink[T]]) -> None:
        self._run = run
        self._opener = opener
        self._sink: Sink[T] | None = None
        self._pieces: list[bytes] = []
        self._gathered = 0
        self._writing: asyncio.Future[None] | None = None

    async def take_all(self, blocks: AsyncIterable[bytes]) -> T:
        """Write all that comes and commit; returns what `finish` does."""
        try:
            async for block in blocks:
                await self.write(block)
            return await self.finish()
        finally:
            await self.abort()

    async def write(self, data: bytes) -> None:
        """Take `data`; waits only while a whole block before it is unwritten. Raises what the
        sink raises.
        """
        self._pieces.append(data)
        self._gathered += len(data)
        if self._gathered >= BLOCK_BYTES:
            await self._settle()
            self._writing = asyncio.ensure_future(self._run(self._write, self._take()))

    async def finish(self) -> T:
        """Write the rest and commit; returns what the sink's commit returns."""
        await self._settle()
        done: T = await self._run(self._finish, self._take())
        return done

    async def abort(self) -> None:
        """Wait for the block in flight, then drop everything; harmless after `finish`."""
        with suppress(Exception):  # whatever failed has been reported where it was awaited
            await self._settle()
        if self._sink is not None:
            await self._run(self._sink.discard)

    async def _settle(self) -> None:
        if self._writing is not None:
            # A thread that writes cannot be called back: whoever is cancelled here leaves the
            # block to `abort`, which waits for it before the file is closed.
            await asyncio.shield(self._writing)
            self._writing = None

    def _take(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        self._gathered = 0
        return pieces

    def _write(self, pieces: list[bytes]) -> None:
        if self._sink is None:
            self._sink = self._opener()
        if pieces:
            self._sink.write_pieces(pieces)

    def _finish(self, pieces: list[bytes]) -> T:
        if self._sink is None:
            self._sink = self._opener()
        try:
            if pieces:
                self._sink.write_pieces(pieces)
            return self._sink.commit()
        finally:
            self._sink.discard()
