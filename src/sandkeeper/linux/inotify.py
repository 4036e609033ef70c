"""The kernel's notices of changes in directories: inotify(7), as thin as it is.

The libraries for it were looked at: they make several Python objects of every event (asyncinotify:
a Path, a flag enum and a weak reference), read about ten at a time and turn a watch's number into
a path fixed when it was added. A storm needs large reads and little work for each event, and a tree
that is renamed needs the number itself.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from sandkeeper.linux import libc
from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.identity import is_acting
from sandkeeper.linux.paths.resolving import followed

__all__ = ["Inotify", "Mask", "Notice", "notices"]

READ_BYTES = 256 * 1024
_HEADER = struct.Struct("iIII")


class Mask:
    """Bits of a notice, as in <sys/inotify.h>."""

    MODIFY = 0x2
    ATTRIB = 0x4
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    UNMOUNT = 0x2000
    OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLYDIR = 0x1000000
    DONT_FOLLOW = 0x2000000
    EXCL_UNLINK = 0x4000000
    ISDIR = 0x40000000


class Notice(NamedTuple):
    """One notice: `cookie` joins the two halves of a move, `name` is empty for the watched."""

    watch: int
    mask: int
    cookie: int
    name: bytes


class Inotify:
    """One queue of notices, not blocking."""

    def __init__(self) -> None:
        """Raises OSError EMFILE at the user's limit of instances."""
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = OwnedFd(libc.call("inotify_init1", flags, path="inotify"))

    @property
    def fd(self) -> int:
        """The descriptor; readable when there are notices."""
        return self._fd.number

    def add(self, path: bytes, mask: int) -> int:
        """Watch `path`; the same number comes back for the same file.

        Raises OSError, ENOSPC at the user's limit of watches.
        """
        if not is_acting():
            return self._add(path, path, mask)
        with followed(path, follow=not mask & Mask.DONT_FOLLOW) as fd:
            return self._add(b"/proc/self/fd/%d" % fd, path, mask & ~Mask.DONT_FOLLOW)

    def _add(self, found: bytes, path: bytes, mask: int) -> int:
        return libc.call("inotify_add_watch", self.fd, found, mask, path=os.fsdecode(path))

    def remove(self, watch: int) -> None:
        """Stop a watch; one that is gone already is no error."""
        with suppress(OSError):
            libc.call("inotify_rm_watch", self.fd, watch)

    def read(self) -> bytes:
        """Return what is queued, up to READ_BYTES; empty when there is nothing."""
        try:
            return os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Close the queue and all its watches."""
        self._fd.close()


def notices(data: bytes) -> Iterator[Notice]:
    """Cut one read into notices."""
    position = 0
    while position < len(data):
        watch, mask, cookie, length = _HEADER.unpack_from(data, position)
        position += 16
        name = data[position : position + length].rstrip(b"\0") if length else b""
        position += length
        yield Notice(watch, mask, cookie, name)
