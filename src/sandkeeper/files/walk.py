"""Walking a tree: in byte order, depth first, a directory before what is in it; no recursion.

Only names and directory entries' types are read (getdents64(2)): no file is looked at. Links are
not followed, except the root itself. Our own temporary files are left out. `runs` yields many names
at once, for a step for each file costs as much as reading the directories; `walk` one by one.
"""

import posixpath
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sandkeeper.files.paths import is_temporary
from sandkeeper.linux.paths import useros as os
from sandkeeper.pieces import in_order

__all__ = ["Found", "Run", "runs", "walk"]

Run = tuple[bytes, list[bytes], bool]
"""What stands before the names to make them paths below the root; the names of neighbours in one
directory; whether they are directories: then it is one name, and what is in it follows."""

OnError = Callable[[str, OSError], None]


@dataclass(frozen=True, slots=True)
class Found:
    """One entry: `relative` to where the walk began, `is_directory` of itself, not a link's."""

    path: str
    relative: str
    is_directory: bool

    @property
    def name(self) -> str:
        """The last component."""
        return self.relative.rpartition("/")[2]


def walk(
    root: str,
    *,
    enter: Callable[[Found], bool] | None = None,
    hidden: bool = True,
    files_first: bool = False,
    check: Callable[[], bool | None] = lambda: None,
    on_error: OnError | None = None,
    depth: int = 0,
) -> Iterator[Found]:
    """Yield everything below `root` as `runs` does, entry by entry."""
    base = root if root.endswith("/") else root + "/"

    def found(path: bytes, is_directory: bool) -> Found:
        relative = os.fsdecode(path)
        return Found(base + relative, relative, is_directory)

    met = runs(
        os.fsencode(root),
        enter=None if enter is None else lambda path: enter(found(path, True)),
        hidden=hidden,
        files_first=files_first,
        check=check,
        on_error=on_error,
        depth=depth,
    )
    for prefix, names, is_directory in met:
        for name in names:
            yield found(prefix + name, is_directory)


def runs(
    root: bytes,
    *,
    enter: Callable[[bytes], bool] | None = None,
    hidden: bool = True,
    files_first: bool = False,
    check: Callable[[], bool | None] = lambda: None,
    on_error: OnError | None = None,
    depth: int = 0,
) -> Iterator[Run]:
    """Yield everything below `root`; raises OSError when `root` itself cannot be read.

    `enter` says of a directory's path below the root whether it is yielded and entered. Unless
    `hidden`, names that begin with a dot are left out, with all they hold. Neither rule looks at
    the root. With `files_first` a directory's own files come before what is deeper. `depth` levels
    are read (0: all); directories of the last one are yielded, and not entered.

    `check` is called before a directory below the root is read; the walk ends when it returns true
    or raises. A directory that went away is passed over, and so is one that cannot be read, after
    `on_error` with its path below the root; it may raise.
    """

    def listed(path: bytes, prefix: bytes) -> list[Run]:
        found = _listed(path, prefix, hidden, enter)
        if files_first:
            found.sort(key=_is_directory)
        found.reverse()
        return found

    stack = listed(root, b"")
    while stack:
        prefix, names, is_directory = run = stack.pop()
        yield run
        if not is_directory:
            continue
        if check():
            return
        path = prefix + names[0]
        if depth and path.count(b"/") + 1 >= depth:
            continue
        try:
            stack += listed(posixpath.join(root, path), path + b"/")
        except FileNotFoundError:
            continue
        except OSError as error:
            if on_error is not None:
                on_error(os.fsdecode(path), error)


def _listed(
    path: bytes, prefix: bytes, hidden: bool, enter: Callable[[bytes], bool] | None
) -> list[Run]:
    """Read one directory."""
    names: list[bytes] = []
    directories: set[bytes] = set()
    with os.scandir(path) as found:
        for entry in found:  # a list of a million of them takes 0.1 s to be freed
            names.append(entry.name)
            if entry.is_dir(follow_symlinks=False):
                directories.add(entry.name)
    names = in_order(names)
    dotted = slice(bisect_left(names, b"."), bisect_left(names, b"/"))
    names[dotted] = [n for n in names[dotted] if hidden and not is_temporary(os.fsdecode(n))]
    if not directories:
        return [(prefix, names, False)]
    made: list[Run] = []
    plain: list[bytes] = []
    for name in names:
        if name not in directories:
            plain.append(name)
        elif enter is None or enter(prefix + name):
            made += [(prefix, plain, False), (prefix, [name], True)]
            plain = []
    return [*made, (prefix, plain, False)]


def _is_directory(run: Run) -> bool:
    return run[2]
