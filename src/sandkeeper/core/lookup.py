"""Paths as the workload's user may go them: never through the server's own entry in /proc.

A thread that acts for a user (`core.identity`) still belongs to the server's thread group, and a
process may always look at itself: the kernel lets it follow its own /proc/self/cwd, root, exe and
fd/N, whatever lies above what they lead to, and read its own maps (`same_thread_group` in
`__ptrace_may_access` and `proc_fd_permission`). A process of the user cannot. So while a thread
acts, every path is resolved by openat2(2) (Linux 5.6) with RESOLVE_NO_MAGICLINKS, what is then done
goes by the descriptor, and what turns out to be of our own /proc entry, in whichever mount of it,
is refused with EACCES. Where openat2 is missing the links are followed here, as texts.

/dev/tty is the same kind of door: the terminal of whoever opens it, so it is ENXIO, as for a
process without one.

The functions have the names, arguments and errors of `os`; for a thread that acts for nobody they
are those of `os`. `core.useros` is how a module uses them.
"""

import ctypes
import errno
import os
import stat as modes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sandkeeper.core.identity import is_acting
from sandkeeper.core.mounts import proc_mounts

__all__ = [
    "chmod",
    "chown",
    "exists",
    "followed",
    "getxattr",
    "isdir",
    "isfile",
    "islink",
    "lexists",
    "link",
    "listdir",
    "listxattr",
    "lstat",
    "mkdir",
    "open",
    "readlink",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "stat",
    "statvfs",
    "symlink",
    "unlink",
    "utime",
]

OPENAT2 = 437  # on every architecture
RESOLVE_NO_MAGICLINKS = 0x02
AT_FDCWD = -100
PROC_MAGIC = 0x9FA0
TERMINAL = os.makedev(5, 0)
LINKS_MOST = 40
FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

Name = str | bytes
R = TypeVar("R")

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _openat2(path: bytes, flags: int, mode: int) -> int:
    making = flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY)
    how = _How(flags, mode & 0o7777 if making else 0, RESOLVE_NO_MAGICLINKS)
    fd = int(_libc.syscall(OPENAT2, AT_FDCWD, path, ctypes.byref(how), ctypes.sizeof(how)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def _opened(path: Name, flags: int, mode: int = 0) -> int:
    """Open a path; raises OSError with its name, EACCES for what is the server's own."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    try:
        fd = _openat2(name, flags | os.O_CLOEXEC, mode)
    except OSError as error:
        code = error.errno or errno.EIO
        if code in {errno.ENOSYS, errno.EPERM, errno.E2BIG} and not _has_openat2():
            fd = _named(path, lambda: _open_walking(name, flags | os.O_CLOEXEC, mode))
        else:
            code = errno.EACCES if code == errno.ELOOP and _leads_somewhere(name) else code
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


def _leads_somewhere(name: bytes) -> bool:
    """Say whether ELOOP came from a link that the kernel itself could have followed."""
    try:
        os.close(os.open(name, os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _named(path: Name, call: Callable[[], R]) -> R:
    """Give an error the name the caller knows."""
    try:
        return call()
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or errno.EIO), path) from None


def _open_walking(name: bytes, flags: int, mode: int) -> int:
    """Do as openat2(2) would, on kernels that have none."""
    if flags & os.O_CREAT:
        folder, _, last = name.rpartition(b"/")
        parent = _walked(folder or (b"/" if name.startswith(b"/") else b"."), follow=True)
        try:
            made = flags | os.O_NOFOLLOW
            return os.open(last, made, mode, dir_fd=parent)
        except OSError as error:
            if error.errno != errno.ELOOP or flags & (os.O_EXCL | os.O_NOFOLLOW):
                raise
        finally:
            os.close(parent)
        flags &= ~os.O_CREAT
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
    if _libc.fstatfs(fd, space) != 0:
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
        if dev == device and (where + "/").startswith(point.rstrip("/") + "/")
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


# The names of os


@contextmanager
def followed(path: Name, *, follow: bool = True) -> Iterator[int]:
    """Open what a path leads to, for looking at it or naming it only (O_PATH, open(2))."""
    fd = _opened(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _parent(path: Name) -> Iterator[tuple[int, Name]]:
    """Open the folder of a path; yields it and the last name, `.` for a path that ends in none."""
    name = os.fsencode(path)
    folder, _, last = name.rstrip(b"/").rpartition(b"/")
    if last in {b"", b".", b".."}:
        folder, last = name or b".", b"."
    elif not folder:
        folder = b"/" if name.startswith(b"/") else b"."
    try:
        fd = _opened(folder, FOLDER)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or errno.EIO), path) from None
    try:
        yield fd, os.fsdecode(last)
    finally:
        os.close(fd)


def _plain(path: object, options: dict[str, Any] | None = None) -> bool:
    """Say whether `os` itself is meant: nobody is acted for, or a descriptor decides."""
    anchored = options is not None and any(
        options.get(name) is not None for name in ("dir_fd", "src_dir_fd", "dst_dir_fd")
    )
    return anchored or isinstance(path, int) or not is_acting()


def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """Open as os.open."""
    if _plain(path, {"dir_fd": dir_fd}):
        return os.open(path, flags, mode, dir_fd=dir_fd)
    return _opened(path, flags, mode)


def stat(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
    """Look as os.stat."""
    if _plain(path, {"dir_fd": dir_fd}):
        return os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    with followed(path, follow=follow_symlinks) as fd:
        return os.fstat(fd)


def lstat(path: Any, *, dir_fd: int | None = None) -> os.stat_result:
    """Look as os.lstat."""
    return stat(path, dir_fd=dir_fd, follow_symlinks=False)


def statvfs(path: Any) -> os.statvfs_result:
    """Ask as os.statvfs."""
    if _plain(path):
        return os.statvfs(path)
    with followed(path) as fd:
        return os.fstatvfs(fd)


def readlink(path: Any, *, dir_fd: int | None = None) -> Any:
    """Read as os.readlink."""
    if _plain(path, {"dir_fd": dir_fd}):
        return os.readlink(path, dir_fd=dir_fd)
    with followed(path, follow=False) as fd:
        if not modes.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        empty: Any = b"" if isinstance(path, bytes) else ""
        return os.readlink(empty, dir_fd=fd)


def listdir(path: Any) -> Any:
    """List as os.listdir."""
    if _plain(path):
        return os.listdir(path)
    fd = _opened(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = os.listdir(fd)
    finally:
        os.close(fd)
    return [os.fsencode(name) for name in names] if isinstance(path, bytes) else names


class _Entry:
    """An os.DirEntry of a folder that was opened; its type is known from the start."""

    __slots__ = ("_folder", "_is_dir", "_is_file", "_is_link", "name")

    def __init__(self, entry: "os.DirEntry[str]", folder: Name) -> None:
        self.name: Any = os.fsencode(entry.name) if isinstance(folder, bytes) else entry.name
        self._folder = folder
        self._is_dir = entry.is_dir(follow_symlinks=False)
        self._is_file = entry.is_file(follow_symlinks=False)
        self._is_link = entry.is_symlink()

    @property
    def path(self) -> Any:
        return os.path.join(self._folder, self.name)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._is_dir or (self._is_link and follow_symlinks and isdir(self.path))

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._is_file or (self._is_link and follow_symlinks and isfile(self.path))

    def is_symlink(self) -> bool:
        return self._is_link

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return stat(self.path, follow_symlinks=follow_symlinks)


@contextmanager
def scandir(path: Any) -> Iterator[Iterator[Any]]:
    """Scan as os.scandir, in a `with` only."""
    if _plain(path):
        with os.scandir(path) as entries:
            yield entries
        return
    fd = _opened(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as entries:
            yield (_Entry(entry, path) for entry in entries)
    finally:
        os.close(fd)


def _within(call: Callable[..., None], path: Any, *arguments: Any, **options: Any) -> None:
    """Do something to a name in its folder."""
    if _plain(path, options):
        call(path, *arguments, **options)
        return
    with _parent(path) as (fd, name):
        _named(path, lambda: call(name, *arguments, **(options | {"dir_fd": fd})))


def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
    """Make as os.mkdir."""
    _within(os.mkdir, path, mode, dir_fd=dir_fd)


def rmdir(path: Any, *, dir_fd: int | None = None) -> None:
    """Remove as os.rmdir."""
    _within(os.rmdir, path, dir_fd=dir_fd)


def unlink(path: Any, *, dir_fd: int | None = None) -> None:
    """Remove as os.unlink."""
    _within(os.unlink, path, dir_fd=dir_fd)


def symlink(source: Any, path: Any, *, dir_fd: int | None = None) -> None:
    """Make as os.symlink."""
    _within(lambda name, **where: os.symlink(source, name, **where), path, dir_fd=dir_fd)


def _both(call: Callable[..., None], source: Any, target: Any, options: dict[str, Any]) -> None:
    if _plain(source, options):
        call(source, target, **options)
        return
    with _parent(source) as (from_fd, from_name), _parent(target) as (to_fd, to_name):
        where = options | {"src_dir_fd": from_fd, "dst_dir_fd": to_fd}
        try:
            call(from_name, to_name, **where)
        except OSError as error:
            code = error.errno or errno.EIO
            raise OSError(code, os.strerror(code), source, None, target) from None


def rename(source: Any, target: Any, **options: Any) -> None:
    """Rename as os.rename."""
    _both(os.rename, source, target, options)


def replace(source: Any, target: Any, **options: Any) -> None:
    """Rename as os.replace."""
    _both(os.replace, source, target, options)


def link(source: Any, target: Any, **options: Any) -> None:
    """Link as os.link; while acting, never what a symbolic link leads to."""
    if not _plain(source, options):
        options["follow_symlinks"] = False
    _both(os.link, source, target, options)


def _reached(call: Callable[..., R], path: Any, *arguments: Any, **options: Any) -> R:
    """Do something to what a path leads to."""
    if _plain(path, options):
        return call(path, *arguments, **options)
    with followed(path) as fd:
        return _named(path, lambda: call(f"/proc/self/fd/{fd}", *arguments, **options))


def chmod(path: Any, mode: int, **options: Any) -> None:
    """Change as os.chmod."""
    _reached(os.chmod, path, mode, **options)


def chown(path: Any, uid: int, gid: int, *, follow_symlinks: bool = True, **options: Any) -> None:
    """Change as os.chown."""
    if follow_symlinks:
        _reached(os.chown, path, uid, gid, **options)
    else:
        _within(os.chown, path, uid, gid, follow_symlinks=False, **options)


def utime(path: Any, times: Any = None, *, follow_symlinks: bool = True, **options: Any) -> None:
    """Change as os.utime."""
    given = options if times is None else options | {"times": times}
    if follow_symlinks:
        _reached(os.utime, path, **given)
    else:
        _within(os.utime, path, follow_symlinks=False, **given)


def listxattr(path: Any) -> list[str]:
    """List as os.listxattr."""
    return _reached(os.listxattr, path)


def getxattr(path: Any, name: str) -> bytes:
    """Read as os.getxattr."""
    return _reached(os.getxattr, path, name)


# The names of os.path


def _is(path: Any, test: Callable[[int], bool], *, follow: bool = True) -> bool:
    try:
        return test(stat(path, follow_symlinks=follow).st_mode)
    except (OSError, ValueError):
        return False


def exists(path: Any) -> bool:
    """Say as os.path.exists."""
    return _is(path, lambda _: True)


def lexists(path: Any) -> bool:
    """Say as os.path.lexists."""
    return _is(path, lambda _: True, follow=False)


def isdir(path: Any) -> bool:
    """Say as os.path.isdir."""
    return _is(path, modes.S_ISDIR)


def isfile(path: Any) -> bool:
    """Say as os.path.isfile."""
    return _is(path, modes.S_ISREG)


def islink(path: Any) -> bool:
    """Say as os.path.islink."""
    return _is(path, modes.S_ISLNK, follow=False)
