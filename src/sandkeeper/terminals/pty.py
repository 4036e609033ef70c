"""Pseudo-terminals: open, size, echo, and a bounded queue for what is typed (pty(7), tty_ioctl(4)).

The end of a terminal's output is EIO on its master: the last slave is closed, or the session's
leader has ended and the kernel has hung the terminal up.
"""

import asyncio
import errno
import fcntl
import os
import struct
import termios
from contextlib import suppress

__all__ = ["Typing", "echo_of", "open_pty", "resize", "size_of"]

DEFAULT_SIZE = (80, 24)


def open_pty(cols: int, rows: int) -> tuple[int, int]:
    """Return (master, slave) of a new terminal; the master does not block. Raises OSError."""
    master, slave = os.openpty()
    try:
        os.set_blocking(master, False)
        resize(master, cols, rows)
    except OSError:
        os.close(master)
        os.close(slave)
        raise
    return master, slave


def resize(master: int, cols: int, rows: int) -> None:
    """Set the size, which signals SIGWINCH to the foreground; a zero becomes the default."""
    cols, rows = cols or DEFAULT_SIZE[0], rows or DEFAULT_SIZE[1]
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def size_of(master: int) -> tuple[int, int]:
    """Return (columns, rows)."""
    raw = fcntl.ioctl(master, termios.TIOCGWINSZ, b"\0" * 8)
    rows, cols, _, _ = struct.unpack("HHHH", raw)
    return cols, rows


def echo_of(master: int) -> tuple[bool, bool]:
    """Return (echo, canonical): what the kernel does with what is typed now.

    Neither: a line editor or a full-screen program echoes itself. Canonical without echo: a
    password is being asked for. A terminal that is hung up counts as that.
    """
    try:
        flags = termios.tcgetattr(master)[3]
    except (OSError, termios.error):
        return False, True
    return bool(flags & termios.ECHO), bool(flags & termios.ICANON)


class Typing:
    """What is on its way to a terminal's program; event loop's thread only.

    A program that does not read leaves its input here: at most `limit` bytes, then `write`
    refuses. Nothing here ever blocks.
    """

    def __init__(self, master: int, limit: int = 4 << 20) -> None:
        self._master = master
        self._limit = limit
        self._queue = bytearray()
        self._waiting = False

    @property
    def queued(self) -> int:
        """Bytes the program has not taken."""
        return len(self._queue)

    def write(self, data: bytes) -> bool:
        """Type `data`; False when the queue has no room for it, and then nothing was typed."""
        if len(self._queue) + len(data) > self._limit:
            return False
        if not self._queue:
            data = data[self._try(data) :]
        if data:
            self._queue += data
            if not self._waiting:
                self._waiting = True
                asyncio.get_running_loop().add_writer(self._master, self._on_room)
        return True

    def close(self) -> None:
        """Drop what is queued and leave the descriptor alone."""
        self._queue.clear()
        self._stop_waiting()

    def _on_room(self) -> None:
        # In slices: a terminal takes 4 KiB at a time, and the others want their turn.
        del self._queue[: self._try(bytes(self._queue[:16384]))]
        if not self._queue:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting = False
            with suppress(RuntimeError):
                asyncio.get_running_loop().remove_writer(self._master)

    def _try(self, data: bytes) -> int:
        try:
            return os.write(self._master, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno == errno.EIO:  # hung up: nobody will ever read it
                return len(data)
            raise
