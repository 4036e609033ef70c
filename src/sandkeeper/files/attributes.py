"""What a file is and whom it belongs to: stat, chmod, chown, disk usage. Blocking."""

import grp
import pwd
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from sandkeeper.errors import BadInput, NotFound, Task, Unprocessable, failure
from sandkeeper.files.conditions import Conditions
from sandkeeper.files.service import Fault, Files
from sandkeeper.files.walk import Found, walk
from sandkeeper.files.work import Cancel
from sandkeeper.linux.identity import INVALID
from sandkeeper.linux.paths import useros as os
from sandkeeper.numerals import natural

__all__ = ["Attributes", "TreeUsage"]


@dataclass(slots=True)
class TreeUsage:
    """What a tree takes: `disk` in allocated bytes, `apparent` in bytes of content.

    A file with several names in the tree counts once; other file systems are left out, and so
    is what cannot be read, of which `unreadable` tells the number.
    """

    disk: int = 0
    apparent: int = 0
    files: int = 0
    directories: int = 0
    unreadable: int = 0
    filesystem_size: int = 0
    filesystem_free: int = 0


class Attributes:
    """Attributes of files."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def look(self, path: str) -> tuple[os.stat_result, str]:
        """Return the entry's own state (a link's, not its target's) and where a link leads.

        Raises NotFound, Unprocessable.
        """
        try:
            info = os.lstat(path)
            self._files.owners.refresh()
            return info, os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
        except FileNotFoundError as error:
            raise failure(NotFound, None, "lstat", path, error) from None
        except Fault as error:
            raise failure(Unprocessable, None, "lstat", path, error) from None

    def change(
        self,
        path: str,
        mode: int | None,
        owner: str,
        group: str,
        recursive: bool,
        conditions: Conditions,
        attributes: Mapping[str, str | None],
        cancel: Cancel,
    ) -> int:
        """Set mode, owner, group, extended attributes where given; returns how many were changed.

        `attributes` are of the `user` namespace, by their names without it; None takes one away.

        A link is given the owner itself and has no mode; what it leads to is left alone. Raises
        BadInput, NotFound, Unprocessable, PreconditionFailed.
        """
        uid, gid = _user(owner), _group(group)
        changed = 0
        try:
            with self._files.locks.hold(path):
                if conditions:
                    conditions.check(os.stat(path))
                for entry in self._entries(path, recursive, cancel):
                    _set(entry, mode, uid, gid)
                    _mark(entry, attributes)
                    changed += 1
        except FileNotFoundError as error:
            raise failure(NotFound, None, "stat", path, error) from None
        except Fault as error:
            raise failure(Unprocessable, Task.CHANGE_ATTRIBUTES, "chmod", path, error) from None
        return changed

    def _entries(self, path: str, recursive: bool, cancel: Cancel) -> Iterator[str]:
        """Yield what is to be changed, a directory after what is in it."""
        if recursive and stat.S_ISDIR(os.lstat(path).st_mode):
            if os.path.samestat(os.stat(path), os.stat("/")):
                raise Unprocessable("refusing to change everything below /")
            found = [item.path for item in walk(path, check=cancel.check)]
            yield from reversed(found)
        yield path

    def usage(self, path: str, cancel: Cancel) -> TreeUsage:
        """Add up what is at and below `path`; raises NotFound, Unprocessable."""
        total = TreeUsage()
        try:
            top = os.lstat(path)
            _count(total, top)
            if stat.S_ISDIR(top.st_mode):
                self._add(total, path, top, cancel)
            if not stat.S_ISLNK(top.st_mode):
                disk = os.statvfs(path)
                total.filesystem_size = disk.f_blocks * disk.f_frsize
                total.filesystem_free = disk.f_bavail * disk.f_frsize
        except FileNotFoundError as error:
            raise failure(NotFound, None, "lstat", path, error) from None
        except Fault as error:
            raise failure(Unprocessable, None, "open", path, error) from None
        return total

    def _add(self, total: TreeUsage, path: str, top: os.stat_result, cancel: Cancel) -> None:
        seen: set[tuple[int, int]] = set()
        device = top.st_dev

        def unreadable(_path: str, _error: OSError) -> None:
            total.unreadable += 1

        def here(found: Found) -> bool:
            with suppress(OSError):
                return os.lstat(found.path).st_dev == device
            return False

        for found in walk(path, check=cancel.check, on_error=unreadable, enter=here):
            try:
                info = os.lstat(found.path)
            except OSError:
                continue
            if info.st_nlink > 1 and not found.is_directory:
                if (info.st_dev, info.st_ino) in seen:
                    continue
                seen.add((info.st_dev, info.st_ino))
            _count(total, info)


def _count(total: TreeUsage, info: os.stat_result) -> None:
    total.disk += info.st_blocks * 512
    if stat.S_ISDIR(info.st_mode):
        total.directories += 1
    else:
        total.files += 1
        total.apparent += info.st_size


def _set(path: str, mode: int | None, uid: int, gid: int) -> None:
    if uid >= 0 or gid >= 0:
        os.chown(path, uid, gid, follow_symlinks=False)
    if mode is not None and not os.path.islink(path):
        os.chmod(path, mode)


def _mark(path: str, attributes: Mapping[str, str | None]) -> None:
    if not attributes or os.path.islink(path):
        return
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name, value in attributes.items():
            if value is not None:
                os.setxattr(fd, f"user.{name}", value.encode())
            elif f"user.{name}" in os.listxattr(fd):
                os.removexattr(fd, f"user.{name}")
    finally:
        os.close(fd)


def _user(name: str) -> int:
    if not name or natural(name) is not None:
        return _number(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise BadInput(f"no user has the name {name!r}") from None


def _group(name: str) -> int:
    if not name or natural(name) is not None:
        return _number(name)
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise BadInput(f"no group has the name {name!r}") from None


def _number(text: str) -> int:
    if not text:
        return -1
    number = natural(text, INVALID)
    if number is None or number == INVALID:
        raise BadInput(f"{text[:20]} is no user or group id")
    return number
