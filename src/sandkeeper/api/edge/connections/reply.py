"""How a request is answered the short way: from the event loop, or by the thread that did the work.

A thread that has written a file wakes the event loop, which makes the answer and sends it. On a
machine that is not busy that wake-up takes as long as the writing. So the thread may send the
answer itself, through a descriptor of its own: the connection may be over meanwhile, and its number
somebody else's. The loop learns of it afterwards and does all that follows an answer.
"""

import os
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from sandkeeper.api.edge.connections.plain import Parts
from sandkeeper.linux.fds import Use, is_scarce

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ["EarlyReply", "Reply"]

Fields = list[tuple[bytes, bytes]]

_known: tuple[Fields | None, bytes] = (None, b"")


def _lines(fields: Fields) -> bytes:
    """Return fields as they are sent; those of all answers are another list once a second."""
    global _known
    known = _known
    if known[0] is not fields:
        known = _known = fields, b"".join(b"%b: %b\r\n" % field for field in fields)
    return known[1]


class Connection(Protocol):
    """The connection that the request came by."""

    transport: "asyncio.Transport"

    def begin_task(self, cycle: "RequestResponseCycle") -> None:
        """Have the application handle a request."""


class Reply:
    """The answer to one request, which no client makes us keep longer than others."""

    __slots__ = ("_connection", "_cycle", "_said", "unsent")

    def __init__(self, connection: Connection, cycle: "RequestResponseCycle") -> None:
        self._connection = connection
        self._cycle = cycle
        self._said: Fields | None = None
        self.unsent: bytes | None = None
        """What is left to send of an answer that a thread has given."""

    def __call__(self, answer: Parts) -> bool:
        """Give the answer, or what is left of the one that was given; on the event loop.

        False: its client has left without any of it.
        """
        cycle = self._cycle
        if cycle.disconnected:
            return self.unsent is not None
        cycle.response_started = cycle.response_complete = True
        transport, unsent = self._connection.transport, self.unsent
        transport.write(self.text(answer) if unsent is None else unsent)
        # The server has been told to end meanwhile. Who was not told by his answer may ask again.
        if not cycle.keep_alive and self._said is cycle.default_headers:
            transport.close()
        cycle.on_response()
        return True

    def pass_on(self) -> None:
        """Have the request go the long way after all."""
        self._connection.begin_task(self._cycle)

    def text(self, answer: Parts) -> bytes:
        """Return the answer as it is sent."""
        first, rest = answer
        fields = self._said = self._cycle.default_headers
        return first + _lines(fields) + rest

    def from_thread(self) -> "EarlyReply":
        """Return what gives the answer from a thread, until it is closed."""
        return EarlyReply(self, self._connection.transport)


class EarlyReply:
    """Gives an answer at once, from any thread; the event loop finishes it (`Reply`).

    What comes when it is closed is not sent, nor what the kernel does not take, nor anything where
    descriptors are scarce: whoever waits for a thread would have two.
    """

    __slots__ = ("_fd", "_lock", "_reply")

    def __init__(self, reply: Reply, transport: "asyncio.Transport") -> None:
        self._reply = reply
        self._lock = Lock()
        self._fd = -1
        if not transport.get_write_buffer_size():  # else it would come before what is in there
            with suppress(OSError):  # no descriptor is left, or the connection is over
                self._fd = os.dup(transport.get_extra_info("socket").fileno())
        if self._fd >= 0 and is_scarce(self._fd, Use.ANSWER):
            self.close()

    def __call__(self, answer: Parts) -> None:
        """Send an answer."""
        text = self._reply.text(answer)
        with self._lock, suppress(OSError):  # full, or over: the event loop will see
            if self._fd >= 0:
                self._reply.unsent = text[os.write(self._fd, text) :]

    def close(self) -> None:
        """Give nothing any more."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
