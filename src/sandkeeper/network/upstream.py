"""A request to a server of the sandbox, streamed both ways.

Written by hand on httptools because what httpx would add is in the way here: it decodes, follows,
pools and normalises, and costs three times the latency. One connection carries one exchange and
says so (`connection: close`). A pool would save a tenth of a millisecond, but many development
servers serve one connection at a time, and an idle one kept by us would lock everyone else out.

Both directions stop reading when the other side does not take the data: at most HIGH_WATER bytes
of a response wait here. Long bodies of known length do not come here at all: the kernel carries
them from socket to socket (`write_from`, `divert`).
"""

import asyncio
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import httptools

from sandkeeper.errors import Unprocessable
from sandkeeper.network.intake import Intake
from sandkeeper.network.relay import Part, Relay, duplicate

__all__ = ["ClientGone", "Headers", "Upstream"]

Headers = list[tuple[bytes, bytes]]
STALL_SECONDS = 600.0
HIGH_WATER = 1 << 20
LOW_WATER = 1 << 19
LARGE = 1 << 15
HEAD_BYTES = 1 << 18
"""Of a head; and of chunk extensions or trailers without a byte of the body."""

MOST_FIELDS = 1000


class ClientGone(Exception):
    """Nobody waits for the response any more."""


class Upstream(asyncio.Protocol):
    """One exchange: `start`, `write` the body, `response`, then `read` until no more follows.

    `response` and `read` raise Unprocessable (code UPSTREAM_BROKEN) when the server's answer is
    not HTTP or ends early, ClientGone after `abandon`.
    """

    def __init__(self, *, head_request: bool) -> None:
        self._head_request = head_request
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._status = 0
        self._headers: Headers = []
        self._head_bytes = 0
        self._intake = Intake(self._parse, self._may_parse, self._hold, self._let_go)
        self._lost: Exception | bool | None = None  # the connection's end, while bytes wait
        self._left = -1  # bytes of a body of known length; -1: told by chunks or by the end
        self._until_close = False
        self._raw = False  # the body is not chunked: it needs no parser
        self._chunks: deque[bytes] = deque()
        self._queued = 0
        self._paused = False
        self._diverted = False
        self._finished = False
        self._failure: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    async def start(self, connected: socket.socket, head: bytes) -> None:
        """Take over a connected socket and send the request's head."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, sock=connected)
        self._send(head)

    async def write(self, *parts: bytes) -> bool:
        """Send some of the body when the server takes it; False when it takes no more."""
        return await self._writable() and self._send(*parts)

    async def _writable(self) -> bool:
        if self._writer is not None:
            # While reading is stopped nobody can see the client leave either, so this wait ends.
            try:
                async with asyncio.timeout(STALL_SECONDS):
                    await self._writer
            except TimeoutError:
                self._stalled()
                return False
        return True

    async def write_from(self, relay: Relay, source: socket.socket, part: Part) -> bool:
        """Carry a part of the body from a socket, past this process; False when no more is taken.

        The source's end is one as well: whoever reads it finds out.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        transport.set_write_buffer_limits(high=0)
        if not await self._writable() or transport.is_closing():
            return False
        transport.set_write_buffer_limits()
        with duplicate(transport) as target:
            while not await relay.carry(source, target, part, silence=STALL_SECONDS):
                if part.taken != part.moved:
                    self._stalled()
                    return False
        return part.moved == part.count

    async def response(self) -> tuple[int, Headers]:
        """Wait for the head of the final response (1xx are passed over)."""
        while not self._status:
            await self._wait()
        return self._status, self._headers

    async def read(self) -> tuple[bytes, bool]:
        """Return the next bytes of the body and whether more may follow."""
        while not self._chunks and not self._finished:
            await self._wait()
        data = self._take()
        if self._paused and not self._diverted and self._queued < LOW_WATER and self._transport:
            self._paused = False
            self._resume_reading()
        return data, bool(self._chunks) or not self._finished

    def divert(self, at_least: int) -> bool:
        """Stop reading if the rest of the body is known to be so long; True if it was stopped.

        Then `read` until `arrived` is False, and take the rest with `rest`.
        """
        if self._left < at_least or self._failure is not None or self._transport is None:
            return False
        if self._intake.waits:
            return False
        self._diverted = True
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()
        return True

    @property
    def arrived(self) -> bool:
        """Whether bytes of the body wait here."""
        return bool(self._chunks)

    @contextmanager
    def rest(self) -> Iterator[tuple[socket.socket, Part]]:
        """Give out a socket to read the rest of a diverted body from, and what is to come."""
        assert self._transport is not None
        with duplicate(self._transport) as source:
            yield source, Part(self._left)

    def _take(self) -> bytes:
        """Join small pieces, which saves writes; joining large ones would only copy them."""
        if not self._chunks:
            return b""
        if len(self._chunks) == 1 or len(self._chunks[0]) >= LARGE:
            data = self._chunks.popleft()
        else:
            data = b"".join(self._chunks)
            self._chunks.clear()
        self._queued = max(0, self._queued - len(data))
        return data

    def abandon(self) -> None:
        """Give the exchange up: the client has gone."""
        self._fail(ClientGone())

    def close(self) -> None:
        """Close the connection at once, whatever is on its way."""
        self._intake.drop()
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not one by class

    def data_received(self, data: bytes) -> None:
        """Parse a head or chunks; pass other bodies on as they are."""
        if self._finished or self._failure is not None:
            return
        if self._raw and not self._intake.waits:
            self._push(data)
        else:
            self._intake.take(data)

    def _parse(self, data: bytes) -> None:
        if self._finished or self._failure is not None:
            return
        if self._raw:
            self._push(data)
            return
        self._head_bytes += len(data)
        try:
            self._feed_parser(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broken(f"it does not speak HTTP/1.1 ({error})")
        if self._head_bytes > HEAD_BYTES or len(self._headers) > MOST_FIELDS:
            self._broken("the head of its response is too large")
        self._raw = bool(self._status) and (self._left >= 0 or self._until_close)

    def _feed_parser(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def _may_parse(self) -> bool:
        return not self._paused

    def _hold(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _let_go(self) -> None:
        """Go on: all was parsed."""
        if self._lost is not None:
            self._end(self._lost)
        elif not self._paused and self._transport is not None:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if self._intake.waits:
            self._intake.wake()
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """An end is the end of the body only where nothing else tells its length."""
        self._lost = exc or True
        if not self._intake.waits:
            self._end(self._lost)
        self.resume_writing()

    def _end(self, lost: Exception | bool) -> None:
        if self._until_close and lost is True:
            self._finish()
        else:
            self._broken("it closed the connection before the response was complete")

    def pause_writing(self) -> None:
        """Hold the writer: the server does not read."""
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let the writer go on."""
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; those after the body are trailers, which ASGI cannot carry."""
        if not self._status:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Learn how the body ends (RFC 9112, section 6.3)."""
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._headers = []
            return
        if not 200 <= status < 600 or len(self._headers) > MOST_FIELDS:
            few = len(self._headers) <= MOST_FIELDS
            self._broken(f"its status is {status}" if few else "its response has too many fields")
            return
        codings = b",".join(v for n, v in self._headers if n.lower() == b"transfer-encoding")
        lengths = [v for n, v in self._headers if n.lower() == b"content-length"]
        if codings and codings.strip().lower() != b"chunked":
            self._broken(f"it uses the transfer coding {codings.decode('latin-1')}")
            return
        self._status = status
        if self._head_request or status in (204, 304):
            self._finish()
        elif lengths and not codings:
            self._left = int(lengths[0])
            self._push(b"")
        else:
            self._until_close = not codings
        self._wake()

    def on_body(self, data: bytes) -> None:
        """Take decoded bytes."""
        self._head_bytes = 0
        self._push(data)

    def on_message_complete(self) -> None:
        """The parser saw the end; it also reports those of 1xx responses."""
        if self._status and not self._until_close:
            self._finish()

    def _send(self, *parts: bytes) -> bool:
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.writelines(parts)
        return True

    def _push(self, data: bytes) -> None:
        if self._finished:
            return
        if self._left >= 0:
            data = data[: self._left] if len(data) > self._left else data
            self._left -= len(data)
        if data:
            self._chunks.append(data)
            self._queued += len(data)
        if self._left == 0:
            self._finish()
        elif self._queued > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def _finish(self) -> None:
        self._finished = True
        self._wake()

    def _stalled(self) -> None:
        self._broken(f"it took no data for {STALL_SECONDS:.0f} s")

    def _broken(self, why: str) -> None:
        self._fail(Unprocessable(f"the server on this port failed: {why}", code="UPSTREAM_BROKEN"))

    def _fail(self, failure: Exception) -> None:
        if not self._finished and self._failure is None:
            self._failure = failure
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None
