"""Helper programs: their output on pipes, read beside everything else, and a sure end."""

import asyncio
import os
import signal
from contextlib import suppress

import msgspec

from sandkeeper.linux.children.child import Child, ExitStatus

__all__ = ["Tool", "ToolResult", "bounded", "readable", "reader"]


class ToolResult(msgspec.Struct, frozen=True):
    """The end of a helper program and what it wrote."""

    status: ExitStatus
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.status.code == 0


class Tool(msgspec.Struct):
    """A running helper program; `close` ends it, whatever it does."""

    child: Child
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    status: ExitStatus | None = None

    async def wait(self) -> ExitStatus:
        """Wait for its end."""
        if self.status is None:
            await readable(self.child.pidfd.number)
            self.status = self.status or self.child.reap()
        return self.status

    async def close(self) -> None:
        """Kill the group if it still runs, and reap the program."""
        if self.status is None:
            with suppress(ProcessLookupError):
                self.child.signal_group(signal.SIGKILL)
            await asyncio.shield(self.wait())
        for stream in (self.stdout, self.stderr):
            transport = stream._transport  # type: ignore[attr-defined]
            transport.close()


async def readable(fd: int) -> None:
    """Wait until `fd` is readable; nothing is left behind on cancellation."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def reader(fd: int) -> asyncio.StreamReader:
    """Read a pipe, which is the reader's from now on, with back-pressure."""
    stream = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", buffering=0)
    )
    return stream


async def bounded(stream: asyncio.StreamReader, limit: int) -> bytes:
    """Read to the end and return the first `limit` bytes."""
    kept: list[bytes] = []
    size = 0
    while chunk := await stream.read(65536):
        if size < limit:
            kept.append(chunk[: limit - size])
        size += len(chunk)
    return b"".join(kept)
