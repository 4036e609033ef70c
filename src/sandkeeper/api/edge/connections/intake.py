"""What a connection has sent and its parser has not seen yet: fed in turns, a little in each.

A read brings up to 256 KiB and libuv makes thirty of them in one round of the loop. As a body in
chunks of one byte, as frames of one byte or as requests one behind the other these are a million
callbacks. So a parser gets small slices, for a millisecond at most; what is left waits for a turn
and the connection is not read meanwhile.
"""

import asyncio
from collections.abc import Callable, Iterable

from uvicorn.protocols.http.flow_control import FlowControl

from sandkeeper.linux.clocks import STILL_SECONDS
from sandkeeper.network.intake import Intake
from sandkeeper.numerals import natural

__all__ = [
    "BODY_LEAST",
    "BodyClock",
    "HeldFlow",
    "Intake",
    "check_codings",
    "declared_length",
]

BODY_LEAST = 1024
"""Bytes in each period: a client that is slow but moving goes on."""


class HeldFlow(FlowControl):
    """uvicorn's flow control, in which reading can be held besides.

    `resumed` is called when the application wants more.
    """

    def __init__(self, transport: asyncio.Transport, resumed: Callable[[], None]) -> None:
        super().__init__(transport)
        self._held = False
        self._resumed = resumed
        self._drained: list[Callable[[], None]] = []

    def pause_reading(self) -> None:
        """Stop reading for the application."""
        if not self.read_paused:
            self.read_paused = True
            self._apply(self._held)

    def resume_reading(self) -> None:
        """Read again for the application."""
        if self.read_paused:
            self.read_paused = False
            self._apply(self._held)
            self._resumed()

    def hold(self) -> None:
        """Stop reading until `let_go`, whatever the application wants."""
        if not self._held:
            self._held = True
            self._apply(self.read_paused)

    def let_go(self) -> None:
        """Leave it to the application again."""
        if self._held:
            self._held = False
            self._apply(self.read_paused)

    def when_drained(self, then: Callable[[], None]) -> None:
        """Call `then` once when the client has taken nearly all, or is gone."""
        self._drained.append(then)

    def resume_writing(self) -> None:
        """Write on; called when the client has taken nearly all, and when it is gone."""
        super().resume_writing()
        drained, self._drained = self._drained, []
        for tell in drained:
            tell()

    def _apply(self, other: bool) -> None:
        """Do what one of the two reasons asks, unless the `other` stands against it."""
        if other or self._transport.is_closing():
            return
        if self._held or self.read_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


def declared_length(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the length that a head gives its body; 0 where that comes in chunks."""
    fields = dict(headers)
    length = fields.get(b"content-length", b"")
    return 0 if b"transfer-encoding" in fields else natural(length) or 0


def check_codings(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a transfer coding besides `chunked`; the parser would when a handler has begun.

    Raises ValueError: what a callback raises is a parser's error.
    """
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and (len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
        raise ValueError("the only transfer coding that is understood is chunked")


class BodyClock:
    """Sees to it that a body which is waited for comes: a KiB in each period at least.

    `state` says of a body whether it is None (there is none to come), False (nobody waits for it)
    or True; `late` is called when it was waited for in vain.
    """

    def __init__(
        self, seconds: float, state: Callable[[], bool | None], late: Callable[[], None]
    ) -> None:
        self._seconds = seconds
        self._state = state
        self._late = late
        self._timer: asyncio.TimerHandle | None = None
        self.moved = 0

    def begin(self) -> None:
        """Begin a period anew: a body begins, or its reader was busy until now."""
        self.moved = BODY_LEAST

    def run(self) -> None:
        """Look again at the end of the period."""
        if self._timer is None and self._seconds:
            loop = asyncio.get_running_loop()
            self._due = loop.time() + self._seconds
            self._timer = loop.call_at(self._due, self._look, loop)

    def stop(self) -> None:
        """Look no more: the connection is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if loop.time() - self._due > STILL_SECONDS:
            self.begin()  # nothing ran here, so nothing could be read
        waited = self._state()
        if waited is None:
            return
        if waited and self.moved < BODY_LEAST:
            self._late()
            return
        self.moved = 0
        self.run()
