"""File descriptors with an owner."""

import os
import resource

__all__ = ["OwnedFd", "duplicates", "is_scarce"]


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


def duplicates(fds: tuple[int, ...]) -> tuple[int, ...]:
    """Duplicate all of them or none; raises OSError."""
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))  # noqa: PERF401 - those made so far are to be closed
    except OSError:
        for fd in made:
            os.close(fd)
        raise
    return tuple(made)


def is_scarce(fd: int) -> bool:
    """Say whether a descriptor just opened is among the last eighth of those we may have.

    The kernel gives the lowest free number, so all below it are in use.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft != resource.RLIM_INFINITY and fd >= soft - soft // 8
