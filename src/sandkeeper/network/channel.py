"""Two connections that speak a protocol of their own to each other: bytes pass as they are.

That is what an HTTP upgrade leaves (101): a WebSocket, or whatever else the two agreed on. Nothing
is held but what one side does not take, and then the other is not read. Of a WebSocket the frames
of the server are followed, so that a client learns when the server is gone, and so that a silent
one is not taken for dead by what lies between.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from sandkeeper.network.frames import PING, Frames, goodbye
from sandkeeper.network.intake import Intake
from sandkeeper.network.lingering import linger

__all__ = ["Channel", "Heir", "Side"]

QUIET_SECONDS = 30.0
"""A WebSocket's client hears something at least so often."""
ANSWER_SECONDS = 60.0
"""A client from which nothing came for so long after a ping is gone."""
SLICE_BYTES = 1024
"""A frame may have two bytes."""
LINGER_SECONDS = 30.0
"""So long the last bytes may take to be sent."""
BAD_GATEWAY, RESTART = 1014, 1012
GONE = "the server on this port went away"


class Heir(asyncio.Protocol):
    """What a client's connection is left to when it speaks no HTTP any more.

    `left` is called when the connection is lost.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.left: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the connection."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever wants to know."""
        if self.left is not None:
            self.left()

    def shutdown(self) -> None:
        """End: the server does."""
        if self.transport is not None:
            self.transport.abort()


class Side(Heir):
    """One side; what comes from it goes to `channel`."""

    def __init__(self, channel: "Channel") -> None:
        super().__init__()
        self._channel = channel
        self.full = False
        self.heard = 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        """Have the other side end as well."""
        super().connection_lost(exc)
        self._channel.lost(self)

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self.heard = asyncio.get_running_loop().time()
        self._channel.came(self, data)

    def eof_received(self) -> bool:
        """Pass the end of one direction on; a WebSocket has no such."""
        return self._channel.ended(self)

    def pause_writing(self) -> None:
        """Stop the other side: this one does not read."""
        self.full = True
        self._channel.stop(self)

    def resume_writing(self) -> None:
        """Let the other side go on."""
        self.full = False
        self._channel.go_on(self)

    def shutdown(self) -> None:
        """Say goodbye: the server ends."""
        self._channel.shut_down()

    def write(self, data: bytes) -> None:
        """Send, unless nobody is there any more."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def read(self, *, on: bool) -> None:
        """Read from this side, or do not."""
        if self.transport is None or self.transport.is_closing():
            return
        if on:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def part(self) -> None:
        """End when the other side does, or soon: it is told something that it should hear."""
        if self.transport is not None:
            linger(self.transport)

    def close(self) -> None:
        """End when all is sent, or soon."""
        if self.transport is None:
            return
        transport = self.transport
        transport.close()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)


class Channel:
    """The client's end and the server's; `frames` where they speak WebSocket.

    `sent` counts the bytes for the client. Await `over` once both ends are connected.
    """

    def __init__(self, *, websocket: bool) -> None:
        loop = asyncio.get_running_loop()
        self.client, self.server = Side(self), Side(self)
        self.over: asyncio.Future[None] = loop.create_future()
        self.sent = 0
        self._loop = loop
        self._frames = Frames() if websocket else None
        self._intake = Intake(self._follow, self._may_follow, self._hold, self._let_go, SLICE_BYTES)
        self._spoken = loop.time()
        self._looks_at = self._spoken + QUIET_SECONDS
        self._timer = loop.call_at(self._looks_at, self._look) if websocket else None

    def came(self, end: Side, data: bytes) -> None:
        """Pass on what came from an end."""
        frames = self._frames
        if end is self.client:
            self.server.write(data)
            if frames is not None:
                frames.pings = 0
        elif frames is None:
            self._tell(data)
        else:
            if frames.left and not frames.skips and not self._intake.waits:
                whole, data = data[: frames.left], data[frames.left :]
                frames.left -= len(whole)
                self._tell(whole)
            if data:
                self._intake.take(data)

    def ended(self, end: Side) -> bool:
        """Take notice that an end sends no more; True when the other direction goes on."""
        other = self.server if end is self.client else self.client
        if self._frames is not None or other.transport is None or other.transport.is_closing():
            return False
        other.transport.write_eof()
        return True

    def lost(self, end: Side) -> None:
        """End the other side, and say to a client why where nobody else has."""
        if end is self.server:
            if not self._intake.waits:
                self._end_client()
            return
        self._intake.drop()
        self.server.close()
        if self._timer is not None:
            self._timer.cancel()
        if not self.over.done():
            self.over.set_result(None)

    def stop(self, end: Side) -> None:
        """Read no more from the other side: `end` takes nothing."""
        (self.server if end is self.client else self.client).read(on=False)

    def go_on(self, end: Side) -> None:
        """Read from the other side again."""
        if end is self.server:
            self.client.read(on=True)
        elif self._intake.waits:
            self._intake.wake()
        else:
            self._let_go()

    def shut_down(self) -> None:
        """Part from both: this server ends."""
        self._say(RESTART, "service restart")
        self.client.close()
        self.server.close()

    def abort(self) -> None:
        """End both at once, if they have not ended."""
        if self._timer is not None:
            self._timer.cancel()
        for end in (self.client, self.server):
            if end.transport is not None and not end.transport.is_closing():
                end.transport.abort()

    def _end_client(self) -> None:
        self._say(BAD_GATEWAY, GONE)
        self.client.part()

    def _say(self, code: int, reason: str) -> None:
        frames = self._frames
        if frames is not None and frames.between and not frames.closed and not self._intake.waits:
            frames.closed = True
            self.client.write(goodbye(code, reason))

    def _tell(self, data: bytes) -> None:
        self._spoken = self._loop.time()
        self.sent += len(data)
        self.client.write(data)

    def _follow(self, data: bytes) -> None:
        if self._frames is not None and (kept := self._frames.feed(data)):
            self._tell(kept)

    def _may_follow(self) -> bool:
        return not self.client.full

    def _hold(self) -> None:
        self.server.read(on=False)

    def _let_go(self) -> None:
        """Go on: all that came from the server was passed on."""
        if self.server.transport is None or self.server.transport.is_closing():
            self._end_client()
        elif not self.client.full:
            self.server.read(on=True)

    def _look(self) -> None:
        """Keep a quiet connection alive, and end one whose client is gone."""
        now, frames = self._loop.time(), self._frames
        # Being late says that we stood still, not that the client was quiet.
        quiet = now - max(self._spoken, self.client.heard) - (now - self._looks_at)
        if quiet > QUIET_SECONDS + ANSWER_SECONDS and not self.server.full:
            if self.client.transport is not None:
                self.client.transport.abort()
            return
        may_speak = frames is not None and frames.between and not frames.closed
        if may_speak and now - self._spoken >= QUIET_SECONDS - 1 and not self._intake.waits:
            self.client.write(PING)
        self._looks_at = now + QUIET_SECONDS
        self._timer = self._loop.call_at(self._looks_at, self._look)
