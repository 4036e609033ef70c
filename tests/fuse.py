"""A file system of the test's: one file, on whatever path, that fails as told or never answers.

The kernel's protocol (fuse(4), linux/fuse.h) as far as a single regular file needs it. Needs root.
"""

import ctypes
import errno
import os
import select
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["FaultyFile", "faulty"]

_IN = struct.Struct("=IIQQIIIHH")
_OUT = struct.Struct("=IiQ")
_INIT_IN = struct.Struct("=IIII")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_READ_IN = struct.Struct("=QQI")
_ATTR = struct.Struct("=QIIQQQQQQIIIIIIIIII")
_OPENED = struct.Struct("=QII")
GETATTR, OPEN, READ, FLUSH, RELEASE, INIT = 3, 14, 15, 25, 18, 26
UNANSWERED = {2, 36, 42}
"""FORGET, INTERRUPT and BATCH_FORGET have no answer."""

DIRECT_IO = 1
_libc = ctypes.CDLL(None, use_errno=True)


class FaultyFile:
    """A file of `data`: reads from `good` bytes on end with `error`; with `silent` none ends."""

    def __init__(self, data: bytes, *, error: int = errno.EIO, good: int = 0) -> None:
        self.data = data
        self.error = error
        self.good = good
        self.silent = False
        self.asked = threading.Event()
        """A read has come."""

    def answer(self, opcode: int, body: bytes) -> bytes | int:
        """Return what is answered, or an errno."""
        if opcode == INIT:
            major, minor, ahead, _flags = _INIT_IN.unpack_from(body)
            return _INIT_OUT.pack(major, min(minor, 31), ahead, 0, 12, 9, 4096, 1, 1, 0, 0)
        if opcode == GETATTR:
            mode = stat.S_IFREG | 0o600
            times = (0,) * 3
            size = len(self.data)
            head = (0, 0, 0, 1, size, (size + 511) // 512)
            return _ATTR.pack(*head, *times, *times, mode, 1, 0, 0, 0, 4096, 0)
        if opcode == OPEN:
            return _OPENED.pack(0, DIRECT_IO, 0)
        if opcode == READ:
            _handle, offset, size = _READ_IN.unpack_from(body)
            if offset >= self.good:
                return self.error
            return self.data[offset : min(offset + size, self.good)]
        return b"" if opcode in {FLUSH, RELEASE} else errno.ENOSYS


def _mount(target: Path, fd: int) -> None:
    options = f"fd={fd},rootmode=100600,user_id=0,group_id=0,allow_other".encode()
    if _libc.mount(b"faulty", os.fsencode(target), b"fuse", 0, options) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def _serve(fd: int, stop: int, file: FaultyFile) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(stop, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if stop in ready:
            return
        try:
            request = os.read(fd, 1 << 17)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            if error.errno in {errno.ENOENT, errno.EINTR}:  # taken back
                continue
            raise
        _length, opcode, unique, *_ = _IN.unpack_from(request)
        if opcode == READ:
            file.asked.set()
        if opcode in UNANSWERED or (file.silent and opcode not in {INIT, GETATTR, OPEN}):
            continue
        found = file.answer(opcode, request[_IN.size :])
        code, data = (-found, b"") if isinstance(found, int) else (0, found)
        with suppress(FileNotFoundError):  # who asked has gone
            os.write(fd, _OUT.pack(_OUT.size + len(data), code, unique) + data)


@contextmanager
def faulty(path: Path, file: FaultyFile) -> Iterator[FaultyFile]:
    """Have `file` stand at `path`, where a file is already; afterwards that one is there again."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    stop = os.eventfd(0)
    thread = threading.Thread(target=_serve, args=[fd, stop, file])
    try:
        _mount(path, fd)
        thread.start()
        try:
            yield file
        finally:
            _libc.umount2(os.fsencode(path), 2)  # MNT_DETACH
            os.eventfd_write(stop, 1)
            thread.join()
    finally:
        os.close(fd)  # ends what still waits, with ENOTCONN
        os.close(stop)
