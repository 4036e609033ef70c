"""Trees: read recursively with limits, write many files of which all or none are committed.

Blocking, as `files.service`.
"""

import posixpath
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from sandkeeper.errors import BadInput, NoDirectory, Task, Unprocessable, failure
from sandkeeper.files.changing.replace import Draft, make_directories
from sandkeeper.files.globs import any_of
from sandkeeper.files.service import Fault, Files
from sandkeeper.files.walk import Found, walk
from sandkeeper.files.work import Cancel
from sandkeeper.linux.paths import useros as os
from sandkeeper.linux.paths.below import is_below
from sandkeeper.pieces import used_up

__all__ = [
    "DEFAULT_BYTES",
    "DEFAULT_FILES",
    "MAX_BYTES",
    "MAX_FILES",
    "Tree",
    "TreeFile",
    "TreeQuery",
    "Trees",
]

MAX_FILES = 1_000_000
MAX_BYTES = 1 << 30
MAX_WRITES = 20_000


DEFAULT_FILES = 10_000
DEFAULT_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class TreeQuery:
    """What of a tree is wanted; `max_bytes` bounds the contents together."""

    content: bool = False
    patterns: tuple[str, ...] = ()
    exclude_directories: frozenset[str] = frozenset()
    exclude_hidden: bool = False
    max_files: int = DEFAULT_FILES
    max_bytes: int = DEFAULT_BYTES


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file of a tree: its own state, and what its content is read from (None: no content)."""

    relative: str
    info: os.stat_result
    source: os.stat_result | None


@dataclass(slots=True)
class Tree:
    """A whole tree, looked at but not yet read; paths are relative to `root`."""

    root: str
    files: list[TreeFile] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)


class Trees:
    """Trees of the sandbox."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def require_directory(self, root: str) -> None:
        """Raise BadInput unless `root` is, or leads to, a directory; Unprocessable if unknown."""
        try:
            if stat.S_ISDIR(os.stat(root).st_mode):
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        except Fault as error:
            raise failure(Unprocessable, Task.LIST_DIRECTORY, "stat", root, error) from None
        raise NoDirectory

    def survey(self, root: str, query: TreeQuery, cancel: Cancel) -> Tree:
        """Look at everything below `root`.

        Raises BadInput (no directory), Unprocessable past a limit.
        """
        self.require_directory(root)
        tree = Tree(root)
        wanted = any_of(query.patterns)
        size = 0

        def enter(found: Found) -> bool:
            return found.name not in query.exclude_directories

        shown = walk(root, enter=enter, hidden=not query.exclude_hidden, check=cancel.check)
        try:
            for found in shown:
                if found.is_directory:
                    tree.directories.append(found.relative)
                    _limit(len(tree.directories), MAX_FILES, "directories", "at most")
                elif wanted is None or wanted(os.fsencode(found.name)):
                    size += _add(tree, found, query.content)
                    _limit(len(tree.files), query.max_files, "files", "maxFiles")
                    _limit(size, query.max_bytes, "bytes of content", "maxBytes")
        except OSError as error:
            raise failure(Unprocessable, Task.LIST_DIRECTORY, "open", root, error) from None
        self._files.owners.refresh()
        return tree

    def contents(self, tree: Tree) -> Iterator[tuple[TreeFile, Iterator[bytes] | None]]:
        """Open file after file, each to be read before the next, and let go of it.

        One that went away is left out, one that grew is cut. What cannot be read has no content.
        """
        for item in used_up(tree.files):
            if item.source is None:
                yield item, None
                continue
            path = os.path.join(tree.root, item.relative)
            try:
                yield item, self._files.part(path, item.source)
            except FileNotFoundError:
                continue
            except OSError:
                yield item, None

    # Writing

    def write(self, root: str, contents: Mapping[str, str], cancel: Cancel) -> None:
        """Write `contents` (relative path → text) below `root`: staged first, then committed.

        Raises BadInput for a key that leads out of the root, Unprocessable, StorageFull. When
        staging fails nothing is changed and the directories made for it are removed again; each
        file is replaced as a whole.
        """
        wanted = _targets(root, contents)
        made: list[str] = []
        drafts: list[Draft] = []
        try:
            made += self._directory(root, Task.CREATE_ROOT)
            for path, text in wanted:
                cancel.check()
                made += self._directory(os.path.dirname(path), Task.CREATE_PARENT)
                drafts.append(self._stage(path, text))
            while drafts:
                self._commit(drafts.pop(0))
        except BaseException:
            for draft in drafts:
                draft.discard()
            for path in reversed(made):
                with suppress(OSError):  # not empty: somebody else uses it by now
                    os.rmdir(path)
            raise

    def _directory(self, path: str, task: Task) -> list[str]:
        try:
            return make_directories(path, 0o755)
        except Fault as error:
            raise failure(Unprocessable, task, "mkdir", path, error) from None

    def _stage(self, path: str, text: str) -> Draft:
        draft: Draft | None = None
        try:
            draft = self._files.draft(path, 0o644)
            draft.write(text.encode())
            draft.seal()
        except Fault as error:
            if draft is not None:
                draft.discard()
            raise failure(Unprocessable, Task.WRITE_FILE, "open", path, error) from None
        return draft

    def _commit(self, draft: Draft) -> None:
        try:
            draft.commit()
        except OSError as error:
            raise failure(Unprocessable, Task.WRITE_FILE, "write", draft.path, error) from None

    def delete(self, root: str, recursive: bool, cancel: Cancel) -> None:
        """Delete a directory; raises Unprocessable, also for a missing one."""
        task = Task.DELETE_DIRECTORY
        try:
            info = os.stat(root)
        except Fault as error:
            raise failure(Unprocessable, task, "stat", root, error) from None
        if not stat.S_ISDIR(info.st_mode):
            raise Unprocessable(f"{root}: path points to a file, not a directory", task=task)
        try:
            if os.path.islink(root):
                os.unlink(root)
            else:
                self._files.delete_directory(root, recursive, cancel)
        except OSError as error:
            operation = "unlinkat" if recursive else "remove"
            raise failure(Unprocessable, task, operation, root, error) from None


def _targets(root: str, contents: Mapping[str, str]) -> list[tuple[str, str]]:
    """Place the keys below the root, in order; raises BadInput for one that escapes."""
    if len(contents) > MAX_WRITES:
        raise BadInput(f"more than {MAX_WRITES} files in one request")
    placed: dict[str, str] = {}
    for key in sorted(contents):
        path = posixpath.normpath(posixpath.join(root, key.lstrip("/")))
        if not is_below(path, root):
            raise BadInput(f"path {key!r} is not below the directory")
        placed[path] = contents[key]
    for path in placed:
        parent = os.path.dirname(path)
        while len(parent) > len(root):
            if parent in placed:
                raise BadInput(f"{parent!r} would be both a file and a directory")
            parent = os.path.dirname(parent)
    return sorted(placed.items())


def _add(tree: Tree, found: Found, content: bool) -> int:
    """Add a file; returns the bytes of content it will bring."""
    try:
        info = os.lstat(found.path)
        source = info
        if stat.S_ISLNK(info.st_mode):
            with suppress(OSError):
                source = os.stat(found.path)
    except FileNotFoundError:
        return 0
    readable = content and stat.S_ISREG(source.st_mode)
    tree.files.append(TreeFile(found.relative, info, source if readable else None))
    return source.st_size if readable else 0


def _limit(value: int, limit: int, what: str, name: str) -> None:
    if value > limit:
        raise Unprocessable(f"the tree has more than {limit} {what} ({name})")
