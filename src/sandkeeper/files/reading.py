"""Reading files whose size may be untrue."""

import os
from collections.abc import Iterator

from sandkeeper.linux.fds import OwnedFd

__all__ = ["FileBlocks", "is_pseudo", "read_to"]

BLOCK_BYTES = 64 << 10


def read_to(fd: int, limit: int, expected: int) -> bytes:
    """Read to the end or to `limit` bytes; a pseudo-file that has nothing now gives EAGAIN."""
    data = os.read(fd, min(limit, expected + 1 if expected else 1 << 16))
    if len(data) == expected and expected:
        return data
    pieces = [data]
    size = len(data)
    while data and size < limit:
        data = os.read(fd, min(limit - size, 1 << 20))
        pieces.append(data)
        size += len(data)
    return b"".join(pieces)


class FileBlocks:
    """The blocks of an open file, up to `limit` bytes of it; at the end it is closed.

    Whoever stops before that closes it, or lets go of it.
    """

    def __init__(self, fd: OwnedFd, limit: int) -> None:
        self._fd = fd
        self._left = limit

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = os.read(self._fd.number, min(self._left, BLOCK_BYTES)) if self._left > 0 else b""
        self._left -= len(block)
        if not block:
            self.close()
            raise StopIteration
        return block

    def close(self) -> None:
        """Close the file: nothing more comes."""
        self._left = 0
        self._fd.close()

    __del__ = close


def is_pseudo(info: os.stat_result) -> bool:
    """Say whether a file's size may be untrue: it has no blocks on a disk.

    Files of /proc say 0, those of /sys 4096, whatever they have.
    """
    return os.major(info.st_dev) == 0 and info.st_blocks == 0
