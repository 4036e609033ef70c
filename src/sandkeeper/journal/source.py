"""The pipes of a run as the pump sees them."""

import array
import fcntl
import os
import select
import termios
from dataclasses import dataclass, field

from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import Stream

__all__ = ["Source", "available", "hung_up"]


@dataclass(eq=False, slots=True)
class Source:
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
    watched: bool = field(default=False)
    moving: bool = field(default=False)
    paused: bool = field(default=False)

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
