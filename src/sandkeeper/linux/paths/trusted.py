"""What steers the server, or is written by it outside its own folder: opened on trusted ways only.

A file is obeyed if nobody but root and the server's own user can have had a hand in it, and in the
way to it. Looking at the file alone is not enough: a link leads to any file that root has, and who
may write to a folder on the way chooses what is found behind it. So the way is walked one name at a
time, each from the descriptor of a folder that has been judged already (path_resolution(7)):

- a folder belongs to root or us, and nobody else may write to it; in a sticky one (sticky(7)), such
  as /tmp, others can make entries, but neither replace nor remove ours: what is ours there counts,
  if it is no hard link that somebody else can have made;
- a symbolic link in such a folder is followed in the same way, in a sticky one if it is ours;
- the file is a regular one, so that nothing hangs on a FIFO or a device, and obeys the same rule.

What may be written by a group counts as ours if the group is root's or our own, the workload is not
in it, and no access control list says more.

Whom to keep out is one of two rules. What is *read* must be out of reach of everybody else. What is
*written* on the operator's word (the log, say) is only kept from the workload's user: /var/log
belongs to a group of the system in some distributions, and no harm is in that.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.statefiles import UntrustedFile, write_atomically

__all__ = [
    "UntrustedFile",
    "is_kept_from",
    "open_trusted",
    "open_trusted_folder",
    "open_trusted_output",
    "read_trusted",
    "write_trusted",
]

LINKS = 40
"""As many symbolic links as the kernel follows (path_resolution(7))."""

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ACL = "system.posix_acl_access"


class _Rule(msgspec.Struct, frozen=True):
    """Who must not have had a hand in it: everybody else, or with `only` just the workload."""

    workload: Identity | None
    only: bool = False

    def foreign_owner(self, info: os.stat_result, *, crowded: bool = False) -> bool:
        if self.only and not crowded:
            return self.workload is not None and info.st_uid == self.workload.uid
        return info.st_uid not in {0, os.geteuid()}

    def writable(self, fd: int, info: os.stat_result) -> bool:
        """Say whether those who are kept out may write to what `fd` has open."""
        if info.st_mode & stat.S_IWOTH:
            return True
        if not info.st_mode & stat.S_IWGRP:
            return False  # it is the mask of an access control list, too (acl(5))
        groups = {self.workload.gid, *self.workload.groups} if self.workload else set[int]()
        if info.st_gid in groups or _has_acl(fd):
            return True
        return not self.only and info.st_gid not in {0, os.getegid()}


def _has_acl(fd: int) -> bool:
    try:
        os.getxattr(f"/proc/self/fd/{fd}", _ACL)
    except OSError as error:
        return error.errno not in {errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT}
    return True


def _rule(workload: Identity | None, *, only: bool = False) -> _Rule:
    """Return the rule; a workload that is the server's own user cannot be kept out."""
    return _Rule(None if workload is None or workload.is_ours else workload, only)


class _Place(msgspec.Struct, frozen=True):
    """Where a way ends: `name` in the open folder `fd`; `entry` is what is there now, or -1.

    `crowded`: others may make entries beside it.
    """

    fd: int
    name: str
    entry: int
    crowded: bool


class _Walk:
    """One way, from the root down; `make` is the mode of folders that are made where missing.

    `crowded`: others may make entries in the folder that was entered last.
    """

    def __init__(self, path: str, rule: _Rule, make: int | None) -> None:
        self._rule = rule
        self._make = make
        self._names = deque(path.split("/"))
        self._links = 0
        self.crowded = False
        self._entry = -1
        self._fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._judge_folder(self._fd)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close what is open; harmless twice."""
        for fd in {self._fd, self._entry} - {-1}:
            os.close(fd)
        self._fd = self._entry = -1

    def to_the_end(self) -> _Place:
        """Walk all names; the folder of the last one is open then."""
        while self._names:
            name = self._names.popleft()
            if name in {"", "."}:
                continue
            if not self._look(name):
                return _Place(self._fd, name, -1, self.crowded)
            info = os.fstat(self._entry)
            if stat.S_ISLNK(info.st_mode):
                self._follow(info)
            elif any(rest not in {"", "."} for rest in self._names):
                self._enter()
            else:
                return _Place(self._fd, name, self._entry, self.crowded)
        # The root itself, or a link that ends in `/`.
        self._entry = os.open(".", _LOOK | os.O_DIRECTORY, dir_fd=self._fd)
        return _Place(self._fd, ".", self._entry, crowded=False)

    def _look(self, name: str) -> bool:
        """Open a name; False when the last one does not exist."""
        try:
            self._entry = os.open(name, _LOOK, dir_fd=self._fd)
        except FileNotFoundError:
            if self._make is not None:
                with suppress(FileExistsError):
                    os.mkdir(name, self._make, dir_fd=self._fd)
                self._entry = os.open(name, _LOOK, dir_fd=self._fd)
            elif any(rest not in {"", "."} for rest in self._names):
                raise
            else:
                return False
        return True

    def _follow(self, info: os.stat_result) -> None:
        self._links += 1
        if self._links > LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if self.crowded and (self._rule.foreign_owner(info, crowded=True) or info.st_nlink != 1):
            raise UntrustedFile(f"{_name(self._entry)} is a symbolic link of another user")
        target = os.readlink("", dir_fd=self._entry)
        os.close(self._entry)
        self._entry = -1
        if target.startswith("/"):
            os.close(self._fd)
            self._fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._judge_folder(self._fd)
        self._names.extendleft(reversed(target.split("/")))

    def _enter(self) -> None:
        self._judge_folder(self._entry)
        os.close(self._fd)
        self._fd, self._entry = self._entry, -1

    def _judge_folder(self, fd: int) -> None:
        self.crowded = _judged_folder(fd, self._rule)


def _judged_folder(fd: int, rule: _Rule) -> bool:
    """Return whether others may make entries in a folder; raises UntrustedFile, OSError."""
    info = os.fstat(fd)
    if not stat.S_ISDIR(info.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), _name(fd))
    if rule.foreign_owner(info):
        raise UntrustedFile(f"{_name(fd)} belongs to another user, the workload say")
    if not rule.writable(fd, info):
        return False
    if info.st_mode & stat.S_ISVTX:
        return True
    raise UntrustedFile(f"{_name(fd)} can be written by others, by the workload say")


def _judge_file(fd: int, rule: _Rule, *, crowded: bool, shared: bool = False) -> None:
    info = os.fstat(fd)
    if rule.foreign_owner(info, crowded=crowded):
        raise UntrustedFile(f"{_name(fd)} belongs to another user, the workload say")
    if not shared and rule.writable(fd, info):
        raise UntrustedFile(f"{_name(fd)} can be written by others, by the workload say")
    if crowded and info.st_nlink != 1:
        raise UntrustedFile(f"{_name(fd)} is a hard link, which others can have made")


def _name(fd: int) -> str:
    """Return where a descriptor leads, for people."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "it"


@contextmanager
def _walked(path: str | Path, rule: _Rule, make: int | None = None) -> Iterator[_Place]:
    where = os.fspath(path)
    walk = _Walk(where if where.startswith("/") else f"{os.getcwd()}/{where}", rule, make)
    try:
        yield walk.to_the_end()
    finally:
        walk.close()


def open_trusted(path: str | Path, *, workload: Identity | None = None, only: bool = False) -> int:
    """Open a regular file for reading that nobody but root and we can have written, or led us to.

    `only` keeps nobody but the workload's user out. The descriptor is the caller's. Raises
    UntrustedFile with the reason, FileNotFoundError, and OSError as open(2) does. Never waits for
    a FIFO or a device.
    """
    return _open_file(path, _rule(workload, only=only))


def _open_file(path: str | Path, rule: _Rule) -> int:
    with _walked(path, rule) as place:
        if place.entry < 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if not stat.S_ISREG(os.fstat(place.entry).st_mode):
            raise UntrustedFile(f"{_name(place.entry)} is not a regular file")
        _judge_file(place.entry, rule, crowded=place.crowded)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(place.name, flags, dir_fd=place.fd)
        try:
            if not os.path.sameopenfile(fd, place.entry):
                raise UntrustedFile(f"{path} was replaced meanwhile")
        except BaseException:
            os.close(fd)
            raise
        return fd


def read_trusted(
    path: str | Path, limit: int, *, workload: Identity | None = None, only: bool = False
) -> bytes:
    """Return the content of such a file; raises as `open_trusted`, and OSError above `limit`."""
    with open(open_trusted(path, workload=workload, only=only), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit} bytes", str(path))
    return data


def open_trusted_folder(
    path: str | Path,
    *,
    make: int | None = None,
    workload: Identity | None = None,
    only: bool = False,
) -> int:
    """Open a folder in which nobody else can replace what is ours; the caller closes it.

    `make` is the mode of folders that are made where they are missing. `only` keeps nobody but the
    workload's user out. Raises UntrustedFile, OSError.
    """
    rule = _rule(workload, only=only)
    with _walked(path, rule, make) as place:
        if place.entry < 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        _judged_folder(place.entry, rule)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place.entry)


def open_trusted_output(
    path: str | Path, flags: int, mode: int, *, workload: Identity, shared: bool = False
) -> int:
    """Open or make a file to write to that the workload's user neither made nor led us to.

    A FIFO, a terminal or another character device is fine: the operator named it. `shared`: the
    workload may write to the file as well, it just must not choose which one that is. `mode` is
    for a new file. Raises UntrustedFile, OSError.
    """
    rule = _rule(workload, only=True)
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with _walked(path, rule) as place:
        if place.entry < 0:
            return os.open(place.name, flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=place.fd)
        kind = os.fstat(place.entry).st_mode
        device = stat.S_ISCHR(kind)
        if not (device or stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            raise UntrustedFile(f"{_name(place.entry)} is nothing to write lines to")
        # Only root makes devices, and what others write to one leaves no trace on it.
        if not device or place.crowded:
            _judge_file(place.entry, rule, crowded=place.crowded, shared=shared or device)
        fd = os.open(place.name, flags, dir_fd=place.fd)
        if os.path.sameopenfile(fd, place.entry):
            return fd
        os.close(fd)
        raise UntrustedFile(f"{path} was replaced meanwhile")


def write_trusted(path: Path, data: bytes, *, mode: int = 0o600, folders: int = 0o755) -> None:
    """Replace a file in a folder that nobody else rules; missing folders are made.

    Raises UntrustedFile, OSError.
    """
    fd = open_trusted_folder(path.parent, make=folders)
    try:
        write_atomically(Path(f"/proc/self/fd/{fd}") / path.name, data, mode=mode)
    finally:
        os.close(fd)


def is_kept_from(path: str, workload: Identity) -> bool:
    """Say whether the workload cannot choose what is found at an absolute path, now or later."""
    if not path.startswith("/"):
        return False
    rule = _rule(workload, only=True)
    walk = _Walk(path, rule, None)
    try:
        place = walk.to_the_end()
        if place.entry < 0:
            return not place.crowded
        if stat.S_ISDIR(os.fstat(place.entry).st_mode):
            return not _judged_folder(place.entry, rule)
        _judge_file(place.entry, rule, crowded=place.crowded)
    except FileNotFoundError:
        return not walk.crowded
    except (OSError, UntrustedFile):
        return False
    finally:
        walk.close()
    return True
