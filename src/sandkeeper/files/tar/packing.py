"""Directories as tar streams (POSIX.1-2001 pax), packed without holding them."""

import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import Final

from sandkeeper.files.tar.sparse import spans_of, sparse_header
from sandkeeper.files.walk import walk
from sandkeeper.linux.paths import useros as os

__all__ = ["CHUNK", "XATTR_PREFIX", "member_of", "pack"]

BLOCK = 512
CHUNK = 512 * 1024
_FORMAT: Final = 2  # tarfile.PAX_FORMAT, as a literal for its type
XATTR_PREFIX = "SCHILY.xattr."


def pack(root: str, check: Callable[[], None] = lambda: None) -> Iterator[bytes]:
    """Yield the tar of everything below `root`; sockets are left out, as tar(1) does.

    A file that shrinks while it is read is filled up with NUL, one that grows is cut.
    """
    seen: dict[tuple[int, int], str] = {}
    for found in walk(root, check=check):
        try:
            info = os.lstat(found.path)
            member = member_of(found.path, found.relative, info, seen)
        except FileNotFoundError:
            continue
        if member is None:
            continue
        if not member.isreg():
            yield member.tobuf(_FORMAT, "utf-8", "surrogateescape")
            continue
        try:
            fd = os.open(found.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                continue
            raise
        try:
            yield from _file(fd, member, info, check)
        finally:
            os.close(fd)
    yield b"\0" * (2 * BLOCK)


def member_of(
    path: str, name: str, info: os.stat_result, seen: dict[tuple[int, int], str]
) -> tarfile.TarInfo | None:
    """Describe the entry at `path` as `name`; None for a socket. Raises OSError for links.

    The second name of a file in `seen` becomes a hard link to the first.
    """
    kinds = {
        stat.S_IFREG: tarfile.REGTYPE,
        stat.S_IFDIR: tarfile.DIRTYPE,
        stat.S_IFLNK: tarfile.SYMTYPE,
        stat.S_IFIFO: tarfile.FIFOTYPE,
        stat.S_IFCHR: tarfile.CHRTYPE,
        stat.S_IFBLK: tarfile.BLKTYPE,
    }
    kind = kinds.get(stat.S_IFMT(info.st_mode))
    if kind is None:
        return None
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = stat.S_IMODE(info.st_mode)
    member.uid, member.gid = info.st_uid, info.st_gid
    member.mtime = int(info.st_mtime)  # a fraction would cost another header for each member
    if kind == tarfile.REGTYPE:
        member.size = info.st_size
        if info.st_nlink > 1:
            first = seen.setdefault((info.st_dev, info.st_ino), name)
            if first != name:
                member.type, member.linkname, member.size = tarfile.LNKTYPE, first, 0
    elif kind == tarfile.SYMTYPE:
        member.linkname = os.readlink(path)
    elif kind in {tarfile.CHRTYPE, tarfile.BLKTYPE}:
        member.devmajor, member.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
    return member


def _file(
    fd: int, member: tarfile.TarInfo, info: os.stat_result, check: Callable[[], None]
) -> Iterator[bytes]:
    spans = spans_of(fd, info)
    if spans is None:
        yield member.tobuf(_FORMAT, "utf-8", "surrogateescape")
    else:
        yield sparse_header(member, spans)
    size = 0
    for offset, length in [(0, member.size)] if spans is None else spans:
        size += length
        yield from _data(fd, offset, length, check)
    if size % BLOCK:
        yield bytes(BLOCK - size % BLOCK)


def _data(fd: int, offset: int, length: int, check: Callable[[], None]) -> Iterator[bytes]:
    os.lseek(fd, offset, os.SEEK_SET)
    while length:
        check()
        block = os.read(fd, min(length, CHUNK)) or bytes(min(length, CHUNK))
        length -= len(block)
        yield block
