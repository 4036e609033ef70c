"""What an entry is: its state, where a link leads, its attributes; of one or of a whole tree."""

import posixpath
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from sandkeeper.files.walk import runs, walk
from sandkeeper.linux.paths import useros as os

__all__ = ["DEPTH_MOST", "Detail", "EntriesPage", "detail", "details", "page"]

DEPTH_MOST = 1 << 20
"""Of a listing that goes all the way down."""

ATTRIBUTES_MOST = 64


@dataclass(frozen=True, slots=True)
class Detail:
    """One entry. `info` is its own, a link's and not its target's; `reached` is the mode of what a
    link leads to (None: nowhere), else the entry's own. `target` is a link's end, all links
    resolved, and `link` what it says itself; `attributes` are extended ones of the `user` namespace
    (xattr(7)), by their names without it.
    """

    path: str
    info: os.stat_result
    reached: int | None
    target: str
    attributes: dict[str, bytes]
    link: str = ""

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.info.st_mode)


def detail(path: str) -> Detail:
    """Look at one entry; blocks. Raises OSError, ValueError for a name with a NUL byte."""
    info = os.lstat(path)
    if not stat.S_ISLNK(info.st_mode):
        return Detail(path, info, info.st_mode, "", _attributes(path))
    reached, target, link = None, "", ""
    with suppress(OSError):
        link = os.readlink(path)
        target = os.path.realpath(path)
        reached = os.stat(path).st_mode
    return Detail(path, info, reached, target, {} if reached is None else _attributes(path), link)


def details(
    root: str, depth: int, check: Callable[[], bool | None] = lambda: None
) -> Iterator[Detail]:
    """Yield what is below `root`, `depth` levels of it, in byte order; blocks.

    Links are not followed but for the root. What goes away meanwhile is left out. Raises OSError
    when the root cannot be read.
    """
    for found in walk(root, check=check, depth=depth):
        with suppress(OSError):
            yield detail(found.path)


@dataclass(frozen=True, slots=True)
class EntriesPage:
    """Some entries of a directory; `total` is how many it has, `last` the last one's name where
    there are more behind it, else empty.
    """

    entries: Iterator[Detail]
    total: int
    last: bytes


def page(root: str, after: bytes, limit: int) -> EntriesPage:
    """Return up to `limit` entries of `root` that come after a name, in byte order; blocks.

    The names are read at once, the entries looked at one by one. Raises as `details`.
    """
    chosen: list[bytes] = []
    total = behind = 0
    for _, names, _ in runs(os.fsencode(root), depth=1):
        start = bisect_right(names, after)
        chosen += names[start : start + limit - len(chosen)]
        total += len(names)
        behind += len(names) - start

    def entries() -> Iterator[Detail]:
        for name in chosen:
            with suppress(OSError):
                yield detail(posixpath.join(root, os.fsdecode(name)))

    return EntriesPage(entries(), total, chosen[-1] if behind > len(chosen) else b"")


def _attributes(path: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with suppress(OSError):  # the file system has none, or the file may not be read
        for name in os.listxattr(path)[:ATTRIBUTES_MOST]:
            if name.startswith("user."):
                with suppress(OSError):
                    found[name.removeprefix("user.")] = os.getxattr(path, name)
    return found
