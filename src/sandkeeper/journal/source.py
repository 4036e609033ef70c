"""The pipes of a run as the pump sees them, and whether what comes there waits for a reader.

Elsewhere nobody who reads can slow a program down: what is not kept any more by then is a gap. Who
starts a program with `holdOutput` wants the opposite, as of a pipe: while as many bytes as `most`
wait to be read, the pump leaves the rest in the pipes, and in the end the program waits to write.
Of several readers the one that has come furthest counts. One that has gone is waited for a minute
(`let_go` ends that); then the program goes on as any other.

The event loop writes `offset` and the readers, the pump's thread `is_paused`; each looks again
behind its own write, so neither can miss the other.
"""

import array
import asyncio
import fcntl
import os
import select
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

import msgspec

from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import Stream

__all__ = ["Hold", "Source", "available", "hold", "hung_up", "let_go", "reading"]

AWAY_SECONDS = 60.0


class Source(msgspec.Struct, eq=False):
    """The reading end of one stream of one run; `fd` is the pump's once it was watched.

    `writer` is a writing end that children get a copy of. It stays open until the pump releases
    the stream, so that an exit does not wake the pump as well, beside whoever notices it. One that
    is `paused` is watched, but not by the poller: its output waits for a reader.
    """

    run: str
    journal: Journal
    stream: Stream
    fd: int
    writer: int = -1
    at_end: bool = False
    watched: bool = False
    moving: bool = False
    paused: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether all that was written is in the journal; for any thread.

        The pump says `moving` before it looks into the pipe, so: an empty pipe, then not moving.
        """
        return self.fd < 0 or (available(self.fd) == 0 and not self.moving)

    def close_writer(self) -> None:
        """Let the pipe hang up once no process writes to it."""
        writer, self.writer = self.writer, -1
        if writer >= 0:
            os.close(writer)

    def close(self) -> None:
        """Close both ends."""
        self.close_writer()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def hung_up(fd: int) -> bool:
    """Say whether a pipe has had writers and has none any more (POLLHUP, poll(2))."""
    poller = select.poll()
    poller.register(fd, 0)
    return any(events & select.POLLHUP for _, events in poller.poll(0))


def available(fd: int) -> int:
    """Return the bytes a pipe holds (FIONREAD, ioctl_tty(2))."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


class Hold:
    """How far the reader of one journal has come; what a journal's `hold` is."""

    def __init__(self, most: int, offset: int) -> None:
        self.most = most
        self.offset = offset
        self.is_paused = False
        self._readers = 0
        self._away_since = monotonic()

    def is_full(self, tail: int) -> bool:
        """Say whether no more is to be carried now."""
        return tail - self.offset >= self.most and self._is_awaited()

    def is_low(self, tail: int) -> bool:
        """Say whether more may be carried again: half of it was read, or nobody reads."""
        return tail - self.offset <= self.most // 2 or not self._is_awaited()

    def _is_awaited(self) -> bool:
        return self._readers > 0 or monotonic() - self._away_since < AWAY_SECONDS

    def enter(self) -> None:
        """Count a reader."""
        self._readers += 1

    def leave(self) -> None:
        """Count one less; the last is waited for."""
        self._readers -= 1
        self._away_since = monotonic()


GoOn = Callable[[Journal], None]
"""Has the pump look whether it may carry a journal's output again."""


def hold(journal: Journal, most: int, go_on: GoOn) -> None:
    """Have the output of a journal wait for its reader, from what is kept on; on the event loop."""
    if journal.hold is None:
        journal.hold = Hold(most, journal.first)
        _look_later(journal, go_on)


@contextmanager
def reading(journal: Journal, go_on: GoOn) -> Iterator[Callable[[int], None]]:
    """Count as its reader while inside; gives what is to be told how far it has come."""
    held = journal.hold
    if not isinstance(held, Hold):
        yield lambda _offset: None
        return

    def took(offset: int) -> None:
        held.offset = max(held.offset, offset)
        if held.is_paused and held.is_low(journal.tail):
            go_on(journal)

    held.enter()
    try:
        yield took
    finally:
        held.leave()
        _look_later(journal, go_on)


def let_go(journal: Journal, go_on: GoOn) -> None:
    """Have the output wait for nobody any more."""
    journal.hold = None
    go_on(journal)


def _look_later(journal: Journal, go_on: GoOn) -> None:
    asyncio.get_running_loop().call_later(AWAY_SECONDS + 1, go_on, journal)
