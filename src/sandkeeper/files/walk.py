"""Walking a tree: lexical, depth first, a directory before what is in it.

Only names and directory entries' types are read (getdents64(2)): no file is looked at. Links are
not followed, except the root itself. What cannot be read below the root is passed over.
"""

import posixpath
from bisect import bisect_left
from collections.abc import Callable, Iterator

from sandkeeper.files.paths import is_temporary
from sandkeeper.linux.paths import useros as os

__all__ = ["Run", "runs"]

Run = tuple[bytes, list[bytes], bool]
"""What stands before the names to make them paths below the root; the names of neighbours in one
directory; whether they are directories: then it is one name, and what is in it follows."""


def runs(
    root: bytes,
    *,
    excluded: frozenset[bytes] = frozenset(),
    hidden: bool = True,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Run]:
    """Yield everything below `root` in byte order; raises OSError when `root` cannot be read.

    Directories named in `excluded` are left out with all they hold, and so is every entry whose
    name begins with a dot unless `hidden` (our own temporary files always are); neither rule looks
    at the root. `stopped` is asked once for each directory; once it is true the walk ends. Names
    come many at once: a step for each file would cost as much as reading the directories.
    """
    stack = _runs(root, b"", excluded, hidden)[::-1]
    while stack:
        prefix, names, is_directory = run = stack.pop()
        yield run
        if not is_directory:
            continue
        if stopped():
            return
        path = prefix + names[0]
        try:
            stack += _runs(posixpath.join(root, path), path + b"/", excluded, hidden)[::-1]
        except OSError:
            continue


def _runs(path: bytes, prefix: bytes, excluded: frozenset[bytes], hidden: bool) -> list[Run]:
    """Read one directory."""
    with os.scandir(path) as found:
        entries = list(found)
    directories = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    names = sorted([entry.name for entry in entries])
    dotted = slice(bisect_left(names, b"."), bisect_left(names, b"/"))
    names[dotted] = [n for n in names[dotted] if hidden and not is_temporary(os.fsdecode(n))]
    if not directories:
        return [(prefix, names, False)]
    made: list[Run] = []
    plain: list[bytes] = []
    for name in names:
        if name not in directories:
            plain.append(name)
        elif name not in excluded:
            made += [(prefix, plain, False), (prefix, [name], True)]
            plain = []
    return [*made, (prefix, plain, False)]
