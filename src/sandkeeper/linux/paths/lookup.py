"""Functions of `os` that look a path up, for the workload's user while a thread acts for it.

They have the names, arguments and errors of `os`, and are those of `os` for a thread that acts for
nobody. Otherwise they go by `linux.paths.resolving`. A module uses them by `linux.paths.useros`.
"""

import errno
import os
import stat as modes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sandkeeper.linux.identity import HERE
from sandkeeper.linux.paths.resolving import LINKS_MOST, Name, followed, named, opened, parent

__all__ = [
    "chmod",
    "chown",
    "exists",
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
    "realpath",
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

R = TypeVar("R")


def _plain(path: object, options: dict[str, Any] | None = None) -> bool:
    """Say whether `os` itself is meant: nobody is acted for, or a descriptor decides."""
    if HERE.identity is None or isinstance(path, int):
        return True
    return options is not None and any(
        options.get(name) is not None for name in ("dir_fd", "src_dir_fd", "dst_dir_fd")
    )


def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """Open as os.open."""
    if HERE.identity is None or _plain(path, {"dir_fd": dir_fd}):
        return os.open(path, flags, mode, dir_fd=dir_fd)
    return opened(path, flags, mode)


def stat(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
    """Look as os.stat."""
    if HERE.identity is None or _plain(path, {"dir_fd": dir_fd}):
        return os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    with followed(path, follow=follow_symlinks) as fd:
        return os.fstat(fd)


def lstat(path: Any, *, dir_fd: int | None = None) -> os.stat_result:
    """Look as os.lstat."""
    if HERE.identity is None:
        return os.lstat(path, dir_fd=dir_fd)
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
    fd = opened(path, os.O_RDONLY | os.O_DIRECTORY)
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
    fd = opened(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(fd) as entries:
            yield (_Entry(entry, path) for entry in entries)
    finally:
        os.close(fd)


def _within(call: Callable[..., None], path: Any, *arguments: Any, **options: Any) -> None:
    """Do something to a name in its folder."""
    if HERE.identity is None or _plain(path, options):
        call(path, *arguments, **options)
        return
    with parent(path) as (fd, name):
        named(path, lambda: call(name, *arguments, **(options | {"dir_fd": fd})))


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
    if HERE.identity is None or _plain(source, options):
        call(source, target, **options)
        return
    with parent(source) as (from_fd, from_name), parent(target) as (to_fd, to_name):
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
    if HERE.identity is None or _plain(path, options):
        return call(path, *arguments, **options)
    # What /proc/self/fd/N leads to is not followed further, not even where it is a link itself.
    with followed(path, follow=options.pop("follow_symlinks", True)) as fd:
        return named(path, lambda: call(f"/proc/self/fd/{fd}", *arguments, **options))


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


def listxattr(path: Any, *, follow_symlinks: bool = True) -> list[str]:
    """List as os.listxattr."""
    return _reached(os.listxattr, path, follow_symlinks=follow_symlinks)


def getxattr(path: Any, attribute: str, *, follow_symlinks: bool = True) -> bytes:
    """Read as os.getxattr."""
    return _reached(os.getxattr, path, attribute, follow_symlinks=follow_symlinks)


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


def realpath(path: Any) -> Any:
    """Follow links as os.path.realpath; one that may not be read stays, as what is missing does."""
    if _plain(path):
        return os.path.realpath(path)
    pending = os.path.join(os.getcwdb(), os.fsencode(path)).split(b"/")[::-1]
    done, links = b"/", 0
    while pending:
        part = pending.pop()
        if part == b"..":
            done = os.path.dirname(done)
        if part in {b"", b".", b".."}:
            continue
        there = os.path.join(done, part)
        text = _text_of(there) if links < LINKS_MOST else b""
        if not text:
            done = there
            continue
        links += 1
        done = b"/" if text.startswith(b"/") else done
        pending += text.split(b"/")[::-1]
    return done if isinstance(path, bytes) else os.fsdecode(done)


def _text_of(link: bytes) -> bytes:
    try:
        text: bytes = readlink(link)
    except (OSError, ValueError):
        return b""
    return text
