"""Files with holes: found, copied and written so that what is a hole stays one.

A hole is a range of a file that takes no room and reads as NUL (lseek(2), SEEK_HOLE). Whoever
copies one byte by byte makes 3 GiB of 4 KiB; every writer of whole files here goes by this module.
"""

import errno
import fcntl
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain

from sandkeeper.files.changing.writing import write_all
from sandkeeper.linux import libc
from sandkeeper.linux.paths import useros as os

__all__ = ["HOLE_BYTES", "copy", "data_spans", "has_holes", "overwrite", "write"]

HOLE_BYTES = 4096
"""What the file systems call a block: a hole is made of whole ones."""

COPY_BYTES = 1 << 20
KERNEL_COPY_BYTES = 64 << 20
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_NOTHING = bytes(HOLE_BYTES)
# What file systems say that share no blocks, copy nothing themselves or know no holes.
_CANNOT = frozenset(
    {
        errno.EXDEV,
        errno.EINVAL,
        errno.ENOTTY,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EBADF,
        errno.EIO,
        errno.ETXTBSY,
    }
)


def has_holes(info: os.stat_result) -> bool:
    """Say whether a regular file takes less room than its bytes would."""
    return stat.S_ISREG(info.st_mode) and info.st_blocks * 512 < info.st_size - HOLE_BYTES


def data_spans(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data between two offsets, as (offset, length).

    A file system that knows no holes has one span. Moves the descriptor's offset; raises OSError.
    """
    while start < end:
        try:
            begin = os.lseek(fd, start, os.SEEK_DATA)
            stop = os.lseek(fd, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            if error.errno not in _CANNOT:
                raise
            begin, stop = start, end
        if begin >= end:
            return
        yield begin, min(stop, end) - begin
        start = stop


def copy(source: int, target: int, at: int, check: Callable[[], None] = lambda: None) -> int:
    """Copy an open regular file into another from `at` on; returns how many bytes that are.

    Blocks are shared where the file system can, copied by the kernel otherwise, and holes stay
    holes. The end is where reading ends, whatever size a pseudo-file says. `target` is empty from
    `at` on; its offset is behind the copy afterwards. `check` may raise to stop. Raises OSError.
    """
    if at == 0 and _clone(source, target):
        size = os.fstat(target).st_size
    else:
        size = _copy_spans(source, target, at, check)
    os.lseek(source, size, os.SEEK_SET)
    os.lseek(target, at + size, os.SEEK_SET)
    while block := os.read(source, COPY_BYTES):
        check()
        size += len(block)
        write_all(target, block)
    return size


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def _copy_spans(source: int, target: int, at: int, check: Callable[[], None]) -> int:
    size = os.fstat(source).st_size
    for offset, length in data_spans(source, 0, size):
        copied = _copy_span(source, target, offset, at + offset, length, check)
        if copied < length:
            size = offset + copied
            break
    if os.fstat(target).st_size < at + size:
        os.ftruncate(target, at + size)
    return size


def _copy_span(
    source: int, target: int, offset: int, to: int, length: int, check: Callable[[], None]
) -> int:
    """Copy a range; returns how much of it there was."""
    copied = 0
    while copied < length:
        check()
        count = 0
        with suppress(OSError):  # not between these file systems, or not for pseudo-files
            count = os.copy_file_range(
                source,
                target,
                min(length - copied, KERNEL_COPY_BYTES),
                offset_src=offset + copied,
                offset_dst=to + copied,
            )
        count = count or _copy_block(source, target, offset + copied, to + copied, length - copied)
        if not count:
            break
        copied += count
    return copied


def _copy_block(source: int, target: int, offset: int, to: int, length: int) -> int:
    block = os.pread(source, min(length, COPY_BYTES), offset)
    os.lseek(target, to, os.SEEK_SET)
    write_all(target, block)
    return len(block)


def write(fd: int, data: bytes | memoryview, at: int) -> None:
    """Write into an empty place of a regular file, leaving out whole blocks of NUL.

    The descriptor's offset and the file's end are behind the data afterwards. Raises OSError.
    """
    view = memoryview(data)
    for begin, end in _filled(view, at):
        os.lseek(fd, at + begin, os.SEEK_SET)
        write_all(fd, view[begin:end])
    end = at + len(view)
    if os.fstat(fd).st_size < end:
        os.ftruncate(fd, end)
    os.lseek(fd, end, os.SEEK_SET)


def _filled(view: memoryview, at: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of `view` that are not whole blocks of NUL, the file's blocks."""
    begin, here = None, 0
    while here < len(view):
        size = HOLE_BYTES - (at + here) % HOLE_BYTES
        empty = size == HOLE_BYTES and view[here : here + size] == _NOTHING
        if empty and begin is not None:
            yield begin, here
            begin = None
        elif not empty and begin is None:
            begin = here
        here += size
    if begin is not None:
        yield begin, len(view)


def overwrite(source: int, target: int, size: int) -> None:
    """Put the first `size` bytes of a file over another's, hole over data and data over hole.

    The room that is missing is claimed first: a full disk is noticed while the old content is whole
    (ENOSPC, EDQUOT). Raises OSError.
    """
    before = os.fstat(target).st_size
    try:
        for offset, length in data_spans(source, 0, size):
            _reserve(target, offset, length)
    except OSError:
        os.ftruncate(target, before)
        raise
    here = 0
    for offset, length in chain(data_spans(source, 0, size), [(size, 0)]):
        _clear(target, here, min(offset, before))
        while length and (count := _copy_block(source, target, offset, offset, length)):
            offset, length = offset + count, length - count
        here = offset
    os.ftruncate(target, size)


def _reserve(fd: int, offset: int, length: int) -> None:
    try:
        os.posix_fallocate(fd, offset, length)
    except OSError as error:
        # Pseudo-files and some file systems cannot reserve; writing will tell.
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise


def _clear(fd: int, begin: int, end: int) -> None:
    """Have a range of a file read as NUL."""
    if begin >= end:
        return
    try:
        libc.punch_hole(fd, begin, end - begin)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        os.lseek(fd, begin, os.SEEK_SET)
        for start in range(begin, end, COPY_BYTES):
            write_all(fd, bytes(min(COPY_BYTES, end - start)))
