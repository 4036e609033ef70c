"""The standard input of a process: bodies in order, whole, with back-pressure."""

import asyncio
import errno
import fcntl
import os
from contextlib import suppress

from sandkeeper.errors import Conflict, Internal, StartFailed, Task, Unavailable, reason_of
from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.identity import Identity

__all__ = ["STDIN_BODY_BYTES", "Stdin", "StdinFull"]

STDIN_BODY_BYTES = 8 << 20
WAIT_SECONDS = 10.0
_PIPE_BYTES = 1 << 20


class StdinFull(Unavailable):
    """The process did not read for 10 s; `written` bytes of the body are in its pipe."""

    def __init__(self, written: int) -> None:
        super().__init__(
            "the process does not read its stdin: the pipe stayed full for 10 seconds; "
            "a part of the data may have been written"
        )
        self.written = written


class Stdin:
    """Our end of the pipe; one body at a time, so none interleaves with another."""

    def __init__(self) -> None:
        self._write: OwnedFd | None = None
        self._lock = asyncio.Lock()
        self._why_closed = "stdin is closed"
        self._room: asyncio.Future[None] | None = None

    def open(self, identity: Identity | None) -> int:
        """Make a fresh pipe and return the child's end, which is the caller's to close.

        It becomes the workload user's, who could not reopen /dev/stdin otherwise. Raises
        StartFailed when there is no descriptor left.
        """
        self.close("stdin is closed: the process was restarted")
        try:
            read, write = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise StartFailed(f"stdin: {reason_of(error)}") from None
        if identity is not None:
            os.fchown(read, identity.uid, identity.gid)
        os.set_blocking(write, False)
        with suppress(OSError):
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._write = OwnedFd(write)
        return read

    def close(self, why: str = "stdin is closed: end of file was already sent") -> None:
        """Send end of file; later writes fail with `why`."""
        if self._write is not None:
            if self._room is not None:
                # Before the number can be reused, and so that the waiting write fails now.
                asyncio.get_running_loop().remove_writer(self._write.number)
                self._wake()
            self._write.close()
            self._write = None
            self._why_closed = why

    async def write(self, body: bytes) -> None:
        """Write all of `body` in order behind earlier ones.

        Raises Conflict (closed), StdinFull (the pipe stayed full for 10 s) or Internal (write(2)
        failed).
        """
        left = [memoryview(body)]
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._lock:
                await self._write_all(left)
        except TimeoutError:
            raise StdinFull(len(body) - len(left[0])) from None

    async def _write_all(self, left: list[memoryview]) -> None:
        """Write what is in `left`, where it says at any moment what is not written yet."""
        while left[0]:
            if self._write is None:
                raise Conflict(self._why_closed)
            try:
                left[0] = left[0][os.write(self._write.number, left[0]) :]
            except BlockingIOError:
                await self._writable(self._write)
            except OSError as error:
                if error.errno == errno.EPIPE:
                    raise Conflict("stdin is closed: the process does not read it") from None
                raise Internal(str(error.strerror), task=Task.WRITE_STDIN) from None
        if self._write is None:
            raise Conflict(self._why_closed)

    async def _writable(self, pipe: OwnedFd) -> None:
        loop = asyncio.get_running_loop()
        self._room = room = loop.create_future()
        loop.add_writer(pipe.number, self._wake)
        try:
            await room
        finally:
            self._room = None
            if not pipe.closed:
                loop.remove_writer(pipe.number)

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
