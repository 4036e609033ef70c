"""Walking a tree: lexical, depth first, a directory before what is in it.

Only names and directory entries' types are read (getdents64(2)): no file is looked at. Links are
not followed, except the root itself. What cannot be read below the root is passed over.
"""

import os
import posixpath
from collections.abc import Callable, Iterator
from operator import attrgetter

from sandkeeper.core.paths import is_temporary

__all__ = ["Entry", "walk"]

Entry = tuple[bytes, bytes, bool]
"""Path below the root, base name, whether it is a directory."""

_by_name = attrgetter("name")


def walk(
    root: bytes,
    *,
    excluded: frozenset[bytes] = frozenset(),
    hidden: bool = True,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Entry]:
    """Yield everything below `root` in byte order; raises OSError when `root` cannot be read.

    Directories named in `excluded` are left out with all they hold, and so is every entry whose
    name begins with a dot unless `hidden` (our own temporary files always are); neither rule looks
    at the root. `stopped` is asked once for each directory; once it is true the walk ends.
    """
    stack: list[tuple[bytes, Iterator[os.DirEntry[bytes]]]] = [(b"", iter(_listing(root)))]
    while stack:
        prefix, entries = stack[-1]
        for entry in entries:
            name = entry.name
            if name[0] == 46 and (not hidden or is_temporary(os.fsdecode(name))):
                continue
            if not entry.is_dir(follow_symlinks=False):
                yield prefix + name, name, False
                continue
            if name in excluded:
                continue
            path = prefix + name
            yield path, name, True
            if stopped():
                return
            below = _readable(posixpath.join(root, path))
            if below:
                stack.append((path + b"/", iter(below)))
                break
        else:
            stack.pop()


def _listing(path: bytes) -> list[os.DirEntry[bytes]]:
    with os.scandir(path) as entries:
        return sorted(entries, key=_by_name)


def _readable(path: bytes) -> list[os.DirEntry[bytes]]:
    try:
        return _listing(path)
    except OSError:
        return []
