"""Writing to descriptors whose other end may take its time: pipes, terminals, devices."""

import errno
import math
import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["special_write", "write_all"]

FIFO_SECONDS = 10
SPECIAL_SECONDS = 60
SPECIAL_AT_ONCE = 16
_special = threading.BoundedSemaphore(SPECIAL_AT_ONCE)


def write_all(fd: int, data: bytes | memoryview, until: float = math.inf) -> None:
    """Write everything.

    A pipe or terminal that takes nothing for 10 s, or not all by the monotonic time `until`,
    raises TimeoutError.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            left = min(FIFO_SECONDS, until - time.monotonic())
            if left <= 0 or not poller.poll(left * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "nobody reads the other end") from None


@contextmanager
def special_write() -> Iterator[float]:
    """Give one of the few writes to special files its deadline; raises OSError EBUSY beyond."""
    if not _special.acquire(blocking=False):
        text = f"{SPECIAL_AT_ONCE} writes to FIFOs and devices wait already"
        raise OSError(errno.EBUSY, text)
    try:
        yield time.monotonic() + SPECIAL_SECONDS
    finally:
        _special.release()
