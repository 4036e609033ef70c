"""The stage: where bulk output stands between a pipe and its journal, safe from kill -9.

A pipe gives its bytes up when they are read. Between that read and the write to the journal they
exist only here, so the stage is a file mapped into memory: it outlives the process. `splice(2)`
would need no stage, but it copies while holding the pipe's lock, which halves the speed of the
child; it is used for small amounts only.

Protocol: the head (run, stream, offset, length) and a canary over the last bytes of the place are
written before the read, by pwrite(2): a store into mapped memory of a disk's file may wait for the
disk in a page fault, and Python's lock, which all threads need, would be held meanwhile. A recovery
that finds the canary overwritten knows that the read took place, and writes the bytes to the
journal again, at the same offset, which changes nothing if they already stand there.
"""

import mmap
import os
import secrets
import struct
from contextlib import suppress
from pathlib import Path

from sandkeeper.linux.paths.statefiles import read_plain

__all__ = ["CANARY", "Recovered", "Stage"]

SIZE = 1 << 20
_HEAD_SIZE = 4096
_BUSY = 8
"""Where in the head it says that a read is under way."""
_HEAD = struct.Struct("<8sB3xI Q H64s16s")
_MAGIC = b"SKSTAGE1"
CANARY = 16
"""Bytes of the canary. A shorter read is covered in full; the chance that the output equals the
canary, and a read is taken for one that never was, is 256 to the power of the bytes covered."""

Recovered = tuple[str, int, bytes]
"""A run's name, the journal offset and the bytes that belong there."""


class Stage:
    """One buffer of 1 MiB in a file; used by the pump's thread only."""

    def __init__(self, *paths: Path) -> None:
        """Make it at the first path where there is room; raises OSError when there is none."""
        for path in paths[:-1]:
            with suppress(OSError):
                self._open(path)
                return
        self._open(paths[-1])

    def _open(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Allocated, not sparse: touching a hole on a full disk would be a SIGBUS.
            os.posix_fallocate(fd, 0, _HEAD_SIZE + SIZE)
            self._map = mmap.mmap(fd, _HEAD_SIZE + SIZE)
        except BaseException:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._fd = fd
        self._path = path
        self._view = memoryview(self._map)
        self._canary = secrets.token_bytes(CANARY)

    def close(self) -> None:
        """Unmap and remove it; what was read is stored."""
        self._view.release()
        self._map.close()
        os.close(self._fd)
        with suppress(OSError):  # the next start passes over it: nothing is held
            self._path.unlink(missing_ok=True)

    def read(self, fd: int, count: int, run: str, offset: int) -> memoryview:
        """Read `count` bytes that a pipe is known to hold; returns what was read.

        `count` is 1 to `SIZE`. The view is valid until the next read; call `done` when its
        bytes are stored.
        """
        canary = self._canary[-count:]
        name = run.encode()
        head = _HEAD.pack(_MAGIC, 1, count, offset, len(name), name, self._canary)
        with suppress(OSError):  # a disk in trouble: this read is not safe from kill -9
            os.pwrite(self._fd, canary, _HEAD_SIZE + count - len(canary))
            os.pwrite(self._fd, head, 0)
        got = os.readv(fd, [self._view[_HEAD_SIZE : _HEAD_SIZE + count]])
        return self._view[_HEAD_SIZE : _HEAD_SIZE + got]

    def done(self) -> None:
        """Say that the bytes of the last read are stored."""
        with suppress(OSError):  # a next server stores them again, at the same place
            os.pwrite(self._fd, b"\0", _BUSY)

    @staticmethod
    def recover(path: Path) -> Recovered | None:
        """Return what a killed server had read but not acknowledged as stored.

        Raises OSError when it cannot be read. Who asks must see whether the name and the offset
        can be true.
        """
        try:
            raw = read_plain(path, _HEAD_SIZE + SIZE)
        except FileNotFoundError:
            return None
        if len(raw) < _HEAD_SIZE + SIZE:
            return None
        magic, busy, count, offset, length, name, canary = _HEAD.unpack_from(raw)
        if magic != _MAGIC or not busy or not 1 <= count <= SIZE:
            return None
        data = raw[_HEAD_SIZE : _HEAD_SIZE + count]
        if data[-CANARY:] == canary[-count:]:
            return None
        return name[:length].decode("ascii", "replace"), offset, data
