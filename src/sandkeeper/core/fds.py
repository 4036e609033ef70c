"""File descriptors with an owner."""

import os
import resource

__all__ = ["OwnedFd", "raise_file_limit"]


class OwnedFd:
    """A descriptor that is closed exactly once.

    The number becomes -1 on close: the kernel hands the same number to the next open, and a
    second close would hit a stranger's file.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __repr__(self) -> str:
        return f"<OwnedFd {self._fd}>" if self._fd >= 0 else "<OwnedFd closed>"

    @property
    def number(self) -> int:
        """The descriptor; raises ValueError once closed."""
        if self._fd < 0:
            raise ValueError("descriptor is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._fd < 0

    def close(self) -> None:
        """Close it; closing twice is harmless."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def detach(self) -> int:
        """Give the descriptor away; the caller owns it now."""
        fd, self._fd = self.number, -1
        return fd


def raise_file_limit(wanted: int) -> None:
    """Raise our soft limit of open files towards `wanted`, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
