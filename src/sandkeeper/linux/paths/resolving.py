"""Paths as the workload's user may go them: never through the server's own entry in /proc.

A thread that acts for a user (`linux.identity`) still belongs to the server's thread group, and a
process may always look at itself: the kernel lets it follow its own /proc/self/cwd, root, exe and
fd/N, whatever lies above what they lead to, and read its own maps (`same_thread_group` in
`__ptrace_may_access` and `proc_fd_permission`). A process of the user cannot. So while a thread
acts, every path is resolved by openat2(2) (Linux 5.6) with RESOLVE_NO_MAGICLINKS, what is then done
goes by the descriptor, and what turns out to be of our own /proc entry, in whichever mount of it,
is refused with EACCES. Where openat2 is missing the links are followed here, as texts.

/dev/tty is the same kind of door: the terminal of whoever opens it, so it is ENXIO, as for a
process without one.

`linux.paths.lookup` has the functions of `os` that are made of this.
"""

import ctypes
import errno
import os
import stat as modes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sandkeeper.linux import libc
from sandkeeper.linux.mounts import proc_mounts
from sandkeeper.linux.paths.below import is_within

__all__ = [
    "LINKS_MOST",
    "RESOLVE_NO_MAGICLINKS",
    "Name",
    "followed",
    "named",
    "openat2",
    "opened",
    "parent",
]

OPENAT2 = 437  # on every architecture
RESOLVE_NO_MAGICLINKS = 0x02
PROC_MAGIC = 0x9FA0
TERMINAL = os.makedev(5, 0)
LINKS_MOST = 40
FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

Name = str | bytes
R = TypeVar("R")


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW_BYTES = ctypes.sizeof(_How)


def openat2(folder: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """Open a path below an open folder, as `resolve` permits (openat2(2)); raises OSError."""
    how = _How(flags, mode, resolve)
    return libc.system_call(OPENAT2, folder, path, ctypes.byref(how), _HOW_BYTES)


def _openat2(path: bytes, flags: int, mode: int) -> int:
    making = flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY)
    mode = mode & 0o7777 if making else 0
    return openat2(libc.AT_FDCWD, path, flags, RESOLVE_NO_MAGICLINKS, mode)


def opened(path: Name, flags: int, mode: int = 0) -> int:
    """Open a path; raises OSError with its name, EACCES for what is the server's own."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    try:
        fd = _openat2(name, flags | os.O_CLOEXEC, mode)
    except OSError as error:
        code = error.errno or errno.EIO
        if code in {errno.ENOSYS, errno.EPERM, errno.E2BIG} and not _has_openat2():
            fd = named(path, lambda: _open_walking(name, flags | os.O_CLOEXEC, mode))
        else:
            code = errno.EACCES if code == errno.ELOOP and _was_magic(name, flags) else code
            raise OSError(code, os.strerror(code), path) from None
    try:
        _refuse_own(fd, path, terminal=not flags & os.O_PATH)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _has_openat2() -> bool:
    """Say whether the kernel has the call, and whatever confines us permits it."""
    try:
        os.close(_openat2(b"/", FOLDER, 0))
    except OSError:
        return False
    return True


def _was_magic(name: bytes, flags: int) -> bool:
    """Say whether ELOOP came from a magic link, and not from too many links or a forbidden one."""
    try:
        os.close(_openat2(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0))
        if flags & os.O_NOFOLLOW:
            return False
    except OSError:
        pass
    try:
        os.close(os.open(name, os.O_PATH | os.O_CLOEXEC))
    except OSError as error:
        return error.errno != errno.ELOOP
    return True


def named(path: Name, call: Callable[[], R]) -> R:
    """Give an error the name the caller knows."""
    try:
        return call()
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or errno.EIO), path) from None


def _open_walking(name: bytes, flags: int, mode: int, links: int = 0) -> int:
    """Do as openat2(2) would, on kernels that have none."""
    if links > LINKS_MOST:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if flags & os.O_CREAT:
        folder, _, last = name.rpartition(b"/")
        folder = folder or (b"/" if name.startswith(b"/") else b".")
        above = _walked(folder, follow=True)
        try:
            made = flags | os.O_NOFOLLOW
            return os.open(last, made, mode, dir_fd=above)
        except OSError as error:
            if error.errno != errno.ELOOP or flags & (os.O_EXCL | os.O_NOFOLLOW):
                raise
            text = os.readlink(last, dir_fd=above)
        finally:
            os.close(above)
        return _open_walking(os.path.join(folder, text), flags, mode, links + 1)
    here = _walked(name, follow=not flags & os.O_NOFOLLOW)
    if flags & os.O_PATH and not flags & os.O_DIRECTORY:
        return here
    try:
        return os.open(f"/proc/self/fd/{here}", flags & ~os.O_NOFOLLOW)
    finally:
        os.close(here)


def _walked(name: bytes, *, follow: bool) -> int:
    """Return an O_PATH descriptor of what a path leads to; links are followed as texts."""
    links = 0
    here = os.open(b"/" if name.startswith(b"/") else b".", FOLDER)
    pending = name.split(b"/")[::-1]
    try:
        while pending:
            part = pending.pop()
            if part in {b"", b"."}:
                continue
            there = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            if not modes.S_ISLNK(os.fstat(there).st_mode) or not (follow or any(pending)):
                os.close(here)
                here = there
                continue
            try:
                text = os.readlink(b"", dir_fd=there)
            finally:
                os.close(there)
            links += 1
            if links > LINKS_MOST:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if text.startswith(b"/"):
                os.close(here)
                here = os.open(b"/", FOLDER)
            pending += text.split(b"/")[::-1]
    except BaseException:
        os.close(here)
        raise
    return here


# What is the server's own


def _refuse_own(fd: int, path: Name, *, terminal: bool) -> None:
    info = os.fstat(fd)
    if modes.S_ISCHR(info.st_mode) and info.st_rdev == TERMINAL and terminal:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), path)
    if os.major(info.st_dev) == 0 and _on_proc(fd) and _is_ours(fd, info.st_dev):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)


def _on_proc(fd: int) -> bool:
    space = ctypes.create_string_buffer(256)
    try:
        libc.call("fstatfs", fd, space)
    except OSError:
        return True
    return int.from_bytes(space.raw[:4], sys.byteorder) == PROC_MAGIC


def _is_ours(fd: int, device: int) -> bool:
    """Say whether something on a procfs belongs to a thread of ours.

    On another procfs than /proc, which may number processes of another namespace, every process's
    entry counts as ours.
    """
    where = os.readlink(f"/proc/self/fd/{fd}")
    found = [
        root.rstrip("/") + where[len(point.rstrip("/")) :]
        for dev, root, point in proc_mounts()
        if dev == device and is_within(where, point)
    ]
    if not found:
        return True
    first = min(found, key=len).strip("/").partition("/")[0]
    if not first.isdigit():
        return False
    if device != os.stat("/proc").st_dev:
        return True
    ours = os.readlink("/proc/self")
    return first == ours or os.path.lexists(f"/proc/{first}/task/{ours}")


@contextmanager
def followed(path: Name, *, follow: bool = True) -> Iterator[int]:
    """Open what a path leads to, for looking at it or naming it only (O_PATH, open(2))."""
    fd = opened(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def parent(path: Name) -> Iterator[tuple[int, Name]]:
    """Open the folder of a path; yields it and the last name, `.` for a path that ends in none."""
    name = os.fsencode(path)
    folder, _, last = name.rstrip(b"/").rpartition(b"/")
    if last in {b"", b".", b".."}:
        folder, last = name or b".", b"."
    elif not folder:
        folder = b"/" if name.startswith(b"/") else b"."
    try:
        fd = opened(folder, FOLDER)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or errno.EIO), path) from None
    try:
        yield fd, os.fsdecode(last)
    finally:
        os.close(fd)
