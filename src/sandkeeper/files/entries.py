"""What a stat(2) result says, in the words of the wire: modes, names of owners, ETags."""

import grp
import json
import os
import pwd
import stat
from collections.abc import Callable
from functools import lru_cache

__all__ = ["Owners", "etag", "file_type", "parse_octal", "permissions", "unix_mode"]

# The reference prints Go's mode word, whose special bits stand elsewhere (io/fs.FileMode).
_TYPE_BITS = {
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFDIR: 1 << 31,
}
_SPECIAL_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


@lru_cache(maxsize=256)
def permissions(mode: int) -> str:
    """Write `st_mode` as the octal text of Go's mode word: `644`, `1000000777` for a link."""
    word = stat.S_IMODE(mode) & 0o777 | _TYPE_BITS.get(stat.S_IFMT(mode), 0)
    for bit, moved in _SPECIAL_BITS:
        if mode & bit:
            word |= moved
    return f"{word:o}"


def unix_mode(mode: int) -> str:
    """Write permission and special bits as chmod(1) takes them: `1777`, `0`."""
    return f"{stat.S_IMODE(mode):o}"


def parse_octal(text: str) -> int:
    """Read plain octal digits of at most 32 bits (`644`, `0644`); raises ValueError, its text Go's.

    No sign, no `0o`, no underscore: what strconv.ParseUint(text, 8, 32) takes.
    """
    if not text or any(digit not in "01234567" for digit in text):
        raise ValueError(f"strconv.ParseUint: parsing {_quoted(text)}: invalid syntax")
    if len(text.lstrip("0")) > 11 or int(text, 8) >= 1 << 32:
        raise ValueError(f"strconv.ParseUint: parsing {_quoted(text)}: value out of range")
    return int(text, 8)


def _quoted(text: str) -> str:
    return json.dumps(text[:64], ensure_ascii=False)


_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character-device",
    stat.S_IFBLK: "block-device",
}


def file_type(mode: int) -> str:
    """Name the type of what has this `st_mode`."""
    return _TYPES.get(stat.S_IFMT(mode), "unknown")


def etag(info: os.stat_result) -> str:
    """Make the strong validator of a file's state: any write, chmod or replacement changes it."""
    return (
        f'"{info.st_mtime_ns:x}-{info.st_size:x}-{info.st_ino:x}'
        f'-{info.st_ctime_ns:x}-{info.st_dev:x}"'
    )


class Owners:
    """Names of users and groups, looked up once as long as their files do not change."""

    def __init__(self) -> None:
        self._users = _Names("/etc/passwd", lambda number: pwd.getpwuid(number).pw_name)
        self._groups = _Names("/etc/group", lambda number: grp.getgrgid(number).gr_name)

    def user(self, uid: int) -> str:
        """Return a user's name, else the number as text."""
        return self._users.known.get(uid) or self._users.look_up(uid)

    def group(self, gid: int) -> str:
        """Return a group's name, else the number as text."""
        return self._groups.known.get(gid) or self._groups.look_up(gid)

    def knows(self, info: os.stat_result) -> bool:
        """Say whether both names of a file are known: to look one up may ask another machine."""
        return info.st_uid in self._users.known and info.st_gid in self._groups.known

    def refresh(self) -> None:
        """Forget names if the files have changed; call it before a batch."""
        self._users.refresh()
        self._groups.refresh()


class _Names:
    LIMIT = 10_000

    def __init__(self, source: str, find: Callable[[int], str]) -> None:
        self._source = source
        self._find = find
        self._stamp = -1
        self.known: dict[int, str] = {}

    def refresh(self) -> None:
        try:
            stamp = os.stat(self._source).st_mtime_ns
        except OSError:
            stamp = 0
        if stamp != self._stamp or len(self.known) > self.LIMIT:
            self.known = {}
            self._stamp = stamp

    def look_up(self, number: int) -> str:
        try:
            name = self._find(number)
        except (KeyError, OverflowError):
            name = str(number)
        self.known[number] = name
        return name
