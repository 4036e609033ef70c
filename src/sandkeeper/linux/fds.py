"""File descriptors with an owner."""

import errno
import os
import resource
from enum import IntEnum

__all__ = ["OwnedFd", "Use", "duplicates", "is_scarce", "lacks_descriptors"]


class Use(IntEnum):
    """What descriptors are for; each leaves so great a part of all of them to those behind it.

    The last eighth is for the output of what runs, which would be lost for want of one.
    """

    ANSWER = 2
    CONNECTION = 4
    FOLLOWER = 5
    START = 8


FEW = 16
"""So great a part of all a use has whatever others take: half of what starts leave."""


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


def is_scarce(fd: int, what: "Use", *, held: int | None = None) -> bool:
    """Say whether a descriptor just opened is one of the last, which `what` leaves to others.

    The kernel gives the lowest free number, so all below it are in use. Where `held` says how many
    are held for the same, a FEW of them never are too many: others cannot take those.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    scarce = soft != resource.RLIM_INFINITY and fd >= soft - soft // what
    return scarce and (held is None or held > soft // FEW)


def lacks_descriptors(error: BaseException) -> bool:
    """Say whether something failed because we, or the machine, may open no more."""
    return isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}
