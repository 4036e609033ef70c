"""Reading files whose size may be untrue."""

import os

__all__ = ["is_pseudo", "read_to"]


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


def is_pseudo(info: os.stat_result) -> bool:
    """Say whether a file's size may be untrue: it has no blocks on a disk.

    Files of /proc say 0, those of /sys 4096, whatever they have.
    """
    return os.major(info.st_dev) == 0 and info.st_blocks == 0
