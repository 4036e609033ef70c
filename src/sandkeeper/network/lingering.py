"""The end of a connection of which the other side may still be sending (RFC 9112, section 9.6).

A socket that is closed with bytes unread, or that is sent to after it was closed, resets its
connection, and with that the other side may lose what it was told last: a refusal of an upload, the
code of a WebSocket. So our direction ends first, and what still comes is read and dropped until the
other side has ended too, or for a while.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Lingering", "drop", "linger"]

LINGER_SECONDS = 10.0
REST_BYTES = 512 << 10
"""After so much of what is dropped others have a round of the loop."""
BLOCK_BYTES = 64 << 10


class Lingering(asyncio.Protocol):
    """Drops what comes; `before`, whose connection it was, hears of its end."""

    def __init__(
        self, transport: asyncio.Transport, before: asyncio.Protocol, over: Callable[[], None]
    ) -> None:
        self.transport = transport
        self._before = before
        self._over = over
        self._in_a_row = 0
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LINGER_SECONDS, transport.close)
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        """End our direction; what came with the same bytes may have been answered until now."""
        if not self.transport.is_closing():
            self.transport.write_eof()
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Drop, and let others have their turn."""
        self._in_a_row += len(data)
        if self._in_a_row >= REST_BYTES:
            self._in_a_row = 0
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        """Tell whoever counts what is unsent."""
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """Tell whoever counts what is unsent."""
        self._before.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Be done."""
        self._timer.cancel()
        self._over()
        self._before.connection_lost(exc)

    def shutdown(self) -> None:
        """Wait no longer: the server ends."""
        self.transport.close()


def linger(
    transport: asyncio.Transport, over: Callable[[], None] = lambda: None
) -> Lingering | None:
    """End a connection when its other side does, or soon; nothing is to be written behind this.

    `over` is called at its end, before its protocol learns of it. None: it had ended, or is about
    to.
    """
    before = transport.get_protocol()
    if transport.is_closing() or isinstance(before, Lingering):
        return None
    assert isinstance(before, asyncio.Protocol)
    lingering = Lingering(transport, before, over)
    transport.set_protocol(lingering)
    return lingering


async def drop(sock: socket.socket) -> None:
    """Do the same with a socket, of which our direction has been ended."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):  # of which TimeoutError is one
        async with asyncio.timeout(LINGER_SECONDS):
            more = True
            while more:
                more = bool(await loop.sock_recv(sock, BLOCK_BYTES))
                await asyncio.sleep(0)  # others have their turn
