"""What a tree looks like, and how two looks at it differ, without holding either in memory.

A snapshot is a stream of entries in one fixed order: a directory before what is in it, siblings by
the bytes of their names. Two streams in that order are compared side by side.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sandkeeper.files.walk import runs
from sandkeeper.linux.paths import useros as os

__all__ = [
    "EntryFacts",
    "LeftOut",
    "TreeChange",
    "TreeEntry",
    "compare",
    "key_of",
    "look",
    "similar",
]

NANO = 10**9
Kind = Literal["added", "modified", "deleted"]


class EntryFacts(NamedTuple):
    """What is compared: `mode` with the type, times in nanoseconds, `target` of a link."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    ctime: int
    target: bytes
    device: int


@dataclass(slots=True)
class TreeEntry:
    """One name: `path` relative to the root; `info` and `full` only of a tree that is there."""

    path: str
    key: bytes
    facts: EntryFacts
    info: os.stat_result | None = None
    full: str = ""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory itself, not a link to one."""
        return stat.S_ISDIR(self.facts.mode)


@dataclass(slots=True)
class TreeChange:
    """A difference; `entry` is the present state, None for what was deleted."""

    kind: Kind
    path: str
    entry: TreeEntry | None


def key_of(path: str) -> bytes:
    """Return what sorts as the stream does: NUL is smaller than any byte of a name."""
    return os.fsencode(path).replace(b"/", b"\0")


class LeftOut:
    """Paths that are not looked at, with all below them; grows by what turns out unreadable."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = {path.strip("/") for path in paths} - {""}
        self.unreadable: list[str] = []

    def __contains__(self, path: str) -> bool:
        return path in self.paths

    def covers(self, path: str) -> bool:
        """Say whether a path or a directory above it is left out."""
        while path:
            if path in self.paths:
                return True
            path = path.rpartition("/")[0]
        return False

    def holds(self, path: str) -> bool:
        """Say whether something below a path is left out."""
        return any(one.startswith(path + "/") for one in self.paths)

    def unreadable_at(self, path: str) -> None:
        """Note a directory that cannot be read: what is in it is neither changed nor deleted."""
        self.paths.add(path)
        self.unreadable.append(path)


def look(root: str, left_out: LeftOut, check: Callable[[], None]) -> Iterator[TreeEntry]:
    """Yield everything below `root`; raises OSError when the root itself cannot be read.

    Our own temporaries are passed over. `check` is called for each directory and may raise.
    """

    def enter(path: bytes) -> bool:
        return os.fsdecode(path) not in left_out

    def unreadable(path: str, _error: OSError) -> None:
        left_out.unreadable_at(path)

    base = root if root.endswith("/") else root + "/"
    met = runs(os.fsencode(root), enter=enter, check=check, on_error=unreadable)
    for below in (prefix + name for prefix, names, _ in met for name in names):
        path = os.fsdecode(below)
        if path in left_out.paths:
            continue
        full = base + path
        try:
            info = os.lstat(full)
            target = os.readlink(full) if stat.S_ISLNK(info.st_mode) else ""
        except FileNotFoundError:
            continue
        except OSError:
            left_out.unreadable_at(path)
            continue
        yield TreeEntry(path, below.replace(b"/", b"\0"), _facts(info, target), info, full)


def _facts(info: os.stat_result, target: str) -> EntryFacts:
    return EntryFacts(
        info.st_mode,
        info.st_uid,
        info.st_gid,
        info.st_size if stat.S_ISREG(info.st_mode) else 0,
        info.st_mtime_ns,
        info.st_ctime_ns,
        os.fsencode(target),
        info.st_rdev if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode) else 0,
    )


def similar(old: EntryFacts, new: EntryFacts) -> bool:
    """Say whether nothing but the change time differs; the times of directories do not count."""
    if (old.mode, old.uid, old.gid) != (new.mode, new.uid, new.gid):
        return False
    if stat.S_ISDIR(new.mode):
        return True
    if (old.size, old.target, old.device) != (new.size, new.target, new.device):
        return False
    return not stat.S_ISREG(new.mode) or _same_time(old.mtime, new.mtime)


def _same_time(one: int, other: int) -> bool:
    """Images often keep whole seconds only."""
    if one % NANO == 0 or other % NANO == 0:
        return one // NANO == other // NANO
    return one == other


def compare(
    present: Iterator[TreeEntry],
    pristine: Iterator[TreeEntry],
    left_out: LeftOut,
    same: Callable[[TreeEntry, TreeEntry], bool],
) -> Iterator[TreeChange]:
    """Yield the differences in order; of a deleted directory only itself.

    `same(old, new)` judges entries of one path. Raises what the two streams raise.
    """
    old, new = next(pristine, None), next(present, None)
    gone = b""  # everything below it went with it
    while old is not None or new is not None:
        if old is not None and gone and old.key.startswith(gone):
            old = next(pristine, None)
        elif new is not None and (old is None or new.key < old.key):
            yield TreeChange("added", new.path, new)
            new = next(present, None)
        elif old is not None and (new is None or old.key < new.key):
            gone = old.key + b"\0"
            if not left_out.covers(old.path):
                yield TreeChange("deleted", old.path, None)
            old = next(pristine, None)
        elif old is not None and new is not None:
            if old.is_directory and not new.is_directory:
                gone = old.key + b"\0"
            if not same(old, new):
                yield TreeChange("modified", new.path, new)
            old, new = next(pristine, None), next(present, None)
