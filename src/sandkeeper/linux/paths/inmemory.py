"""Small files read without a thread, where the kernel has all of it in memory.

A thread is there for what may block: a disk, a FUSE program, a server on the network. Nothing of
that is waited for when

- the path is resolved from what is in memory (RESOLVE_CACHED, Linux 5.12), without leaving the
  mount of `/` (RESOLVE_NO_XDEV) and without magic links, and that mount is of a local file system;
- what it leads to is a regular file, looked at before it is opened for reading, and the opening
  neither waits for a lease (O_NONBLOCK) nor writes a time down (O_NOATIME);
- its bytes are read with RWF_NOWAIT (preadv2(2)).

All else is refused here, and done in a thread. It acts as the server: not for a workload's user.
"""

import os
import stat
from contextlib import suppress

from sandkeeper.linux.fds import OwnedFd
from sandkeeper.linux.mounts import mounts
from sandkeeper.linux.paths.resolving import RESOLVE_NO_MAGICLINKS, openat2

__all__ = ["InMemory"]

RESOLVE = RESOLVE_NO_MAGICLINKS | 0x01 | 0x20
"""And RESOLVE_NO_XDEV, RESOLVE_CACHED."""
LOCAL = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "ramfs", "tmpfs", "xfs"})
LOOK = os.O_PATH | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOATIME | os.O_CLOEXEC


def _kinds_of_root() -> list[str]:
    """Return the kind of the file system that / shows, in a list; [""] for one that is not told."""
    return [mount.kind for mount in mounts() if mount.path == "/"][-1:] or [""]


class InMemory:
    """Reads files of the root's file system; one thread's."""

    def __init__(self) -> None:
        self._root = OwnedFd(-1)
        with suppress(OSError):
            # None where / is no mount point: after chroot(2) the table does not tell of it.
            if LOCAL.issuperset(_kinds_of_root()):
                self._root = OwnedFd(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def read(self, path: str, most: int) -> tuple[os.stat_result, bytes] | None:
        """Return state and content of an absolute path's file of 1 to `most` bytes.

        None where it is something else, or something would have to be waited for.
        """
        if self._root.closed or "\0" in path:
            return None
        try:
            fd = openat2(
                self._root.number, os.fsencode(path[1:]), os.O_PATH | os.O_CLOEXEC, RESOLVE
            )
        except OSError:
            return None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or not 0 < info.st_size <= most:
                return None
            return _content(fd, info.st_size)
        except OSError:
            return None
        finally:
            os.close(fd)

    def close(self) -> None:
        """Read nothing any more."""
        self._root.close()


def _content(found: int, size: int) -> tuple[os.stat_result, bytes] | None:
    """Open what was found, and nothing that took its place, and read all of it."""
    fd = os.open(f"/proc/self/fd/{found}", READ)
    try:
        buffer = bytearray(size + 1)
        got = os.preadv(fd, [buffer], 0, os.RWF_NOWAIT)
        info = os.fstat(fd)
        whole = got == info.st_size
        return (info, bytes(memoryview(buffer)[:got])) if whole else None
    finally:
        os.close(fd)
