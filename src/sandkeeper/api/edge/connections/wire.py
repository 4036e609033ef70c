"""The connection below a request, for long bodies that need not pass through the interpreter.

A handler that knows how many bytes are to come may take them from the client's socket itself, and
one that has a socket with the answer may have them carried there. Before and after, everything is
uvicorn's as ever: its parser, its flow control, its keep-alive.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Scope, Send

from sandkeeper.api.edge.connections.intake import BODY_LEAST, HeldFlow
from sandkeeper.network.channel import Heir
from sandkeeper.network.relay import Part, Relay, duplicate
from sandkeeper.numerals import natural

if TYPE_CHECKING:
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = [
    "CARRIED",
    "LONG_BYTES",
    "SWITCHED",
    "WIRE",
    "Wire",
    "blocks_of",
    "closing_unasked",
    "wire_of",
]

WIRE = "sandkeeper.wire"
SWITCHED = "sandkeeper.switched"
"""The type of the message that tells the edge of an answer 101: what follows is no HTTP."""
CARRIED = "sandkeeper.carried"
"""In the scope: how many bytes of the answer were carried past ASGI."""

LONG_BYTES = 256 << 10
"""From here on a body is worth it."""

BLOCK_BYTES = 1 << 20
WAKE_BYTES = 256 << 10


class Connection(Protocol):
    """What a request needs of its connection (`api.edge.connections.protocol`)."""

    transport: asyncio.Transport
    flow: "FlowControl"
    held_flow: HeldFlow
    body_seconds: float

    @property
    def is_behind(self) -> bool:
        """Whether bytes are here that are not parsed."""

    def switch(self, end: Heir) -> bytes:
        """Leave the connection to another protocol."""

    def pass_over(self, left: int) -> None:
        """Go on after a body of which `left` bytes are still to be dropped."""

    def body_late(self) -> None:
        """Give the request up: its body does not come."""


class Wire:
    """One request's hold on its connection."""

    __slots__ = ("_cycle", "_protocol")

    def __init__(self, protocol: Connection, cycle: "RequestResponseCycle") -> None:
        self._protocol = protocol
        self._cycle = cycle

    @property
    def is_awaited(self) -> bool:
        """Whether the client waits to be asked for the body (`Expect: 100-continue`)."""
        return self._cycle.waiting_for_100_continue

    def is_long(self, left: int) -> bool:
        """Say whether `left` bytes of the request's body are worth taking from the socket."""
        if self._protocol.is_behind or self._cycle.disconnected:
            return False
        return left - len(self._cycle.body) >= LONG_BYTES

    def unsent(self) -> int:
        """Return how many bytes of answers the client has not taken."""
        return self._protocol.transport.get_write_buffer_size()

    @property
    def is_gone(self) -> bool:
        """Whether nobody is there any more."""
        return self._cycle.disconnected or self._protocol.transport.is_closing()

    def abort(self) -> None:
        """End the connection at once; what is unsent is dropped."""
        self._protocol.transport.abort()

    def switch(self, end: Heir, head: bytes) -> bytes:
        """Answer with a head, the last thing that is HTTP, and leave the connection to `end`.

        Returns what the client has sent for it already; it is not read before `end` is told to.
        """
        self._protocol.transport.write(head)
        return self._protocol.switch(end)

    async def flushed(self) -> None:
        """Wait until all that was written is in the kernel's hands."""
        transport = self._protocol.transport
        if not transport.get_write_buffer_size():
            return
        transport.set_write_buffer_limits(high=0)
        await self._protocol.flow.drain()
        if not transport.is_closing():
            transport.set_write_buffer_limits()

    def when_drained(self, then: Callable[[], None]) -> None:
        """Call `then` once when nearly all was taken, or the connection is over."""
        self._protocol.held_flow.when_drained(then)

    @contextmanager
    def body(self, left: int) -> Iterator[tuple[bytes, socket.socket, Part]]:
        """Take the request's body, of which the handler has not yet received `left` bytes.

        Yields those that are here already, a socket to read from and the part that is still to
        come from it; whoever reads counts `taken`. What is not taken is received and dropped.
        """
        cycle, protocol = self._cycle, self._protocol
        protocol.flow.pause_reading()
        first = bytes(cycle.body)
        cycle.body = bytearray()
        cycle.message_event.clear()
        part = Part(left - len(first))
        try:
            with duplicate(protocol.transport) as sock:
                yield first, sock, part
        finally:
            protocol.pass_over(part.left)

    async def blocks(self, left: int) -> AsyncGenerator[bytes, None]:
        """Take the request's body as `body` does and yield it in large blocks.

        It ends early when the client does.
        """
        with self.body(left) as (first, sock, part):
            if first:
                yield first
            try:
                while part.left:
                    # Woken for many bytes at once: nobody sees a file that is not whole anyway.
                    lowest = min(part.left, WAKE_BYTES)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, lowest)
                    block = await self._next(sock, min(part.left, BLOCK_BYTES))
                    part.taken += len(block)
                    if not block:
                        return
                    yield block
            finally:
                with suppress(OSError):  # the connection is gone
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    async def _next(self, sock: socket.socket, most: int) -> bytes:
        """Receive a block, or the little of it that came in time; nothing is the end."""
        seconds = self._protocol.body_seconds or None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await _receive(sock, most)
        with suppress(OSError):
            if len(block := sock.recv(most)) >= BODY_LEAST:
                return block
        self._protocol.body_late()
        return b""

    async def answer(self, relay: Relay, source: socket.socket, part: Part, scope: Scope) -> None:
        """Carry a part of the answer's body from another socket; its head has been sent.

        Returns early when either side ends; an answer that is not whole closes the connection.
        """
        await self.flushed()
        if self._cycle.disconnected or self._protocol.transport.is_closing():
            return
        try:
            with duplicate(self._protocol.transport) as target:
                await relay.carry(source, target, part)
        finally:
            self._cycle.expected_content_length -= part.moved
            scope[CARRIED] = scope.get(CARRIED, 0) + part.moved


async def blocks_of(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield a request's body as it comes, a long one in large blocks; never an empty one.

    Close it before the answer is sent. Raises ClientDisconnect.
    """
    wire = wire_of(request.scope)
    length = request.headers.get("content-length", "")
    chunked = "transfer-encoding" in request.headers
    left = 0 if wire is None or chunked else natural(length) or 0
    while (message := await request.receive())["type"] != "http.disconnect":
        if data := message.get("body", b""):
            left -= len(data)
            yield data
        if not message.get("more_body", False):
            return
        if wire is not None and wire.is_long(left):
            async with aclosing(wire.blocks(left)) as blocks:
                async for block in blocks:
                    yield block
            left = 0
    raise ClientDisconnect


async def _receive(sock: socket.socket, most: int) -> bytes:
    """Read when the kernel says so; nothing is the end, however it came."""
    loop = asyncio.get_running_loop()
    while True:
        ready = loop.create_future()
        loop.add_reader(sock, _settle, ready)
        try:
            await ready
        finally:
            loop.remove_reader(sock)
        try:
            return sock.recv(most)
        except BlockingIOError:
            continue
        except OSError:
            return b""


def _settle(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def closing_unasked(scope: Scope, send: Send) -> Send:
    """Have an answer close the connection if the client was never asked for the body.

    It need not send one then (RFC 9110, section 10.1.1), so nobody could tell whether what comes
    next is that body or another request.
    """
    wire = wire_of(scope)
    if wire is None or not wire.is_awaited:
        return send

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start" and wire.is_awaited:
            headers = [*message["headers"], (b"connection", b"close")]
            message = {**message, "headers": headers}
        await send(message)

    return closing


def wire_of(scope: Scope) -> Wire | None:
    """Return the connection of a request; None where there is no such (another server, a test)."""
    wire: Wire | None = scope.get(WIRE)
    return wire
