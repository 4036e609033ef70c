"""A watched directory, or tree of directories: from the kernel's notices to changes of paths.

What holds:

- Every directory is watched before it is read, and everything found in a new one is told as
  created. So a path that exists is told at least once, perhaps twice.
- A notice is about the past: by now its directory may stand elsewhere. The tree follows moves in
  the order of the notices, and whenever it attaches a directory it asks the kernel which watch
  really stands there. In doubt it reads again.
- When the kernel's queue overflows, OVERFLOW is told, the tree is read again, everything in it is
  told as created, and RESCANNED is told.
- A new directory that cannot be watched or read, because a limit of the machine is reached, is
  told as UNWATCHED.
- Our own temporary files do not show; their renaming is told as WRITE, or as CREATE (and WRITE if
  there is content) of a target that is new.
"""

import errno
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from stat import S_ISDIR
from typing import Protocol

from sandkeeper.files.paths import is_replacement
from sandkeeper.linux.inotify import Mask, Notice
from sandkeeper.linux.paths import useros as os
from sandkeeper.watch.audience import (
    CHMOD,
    CREATE,
    OVERFLOW,
    REMOVE,
    RENAME,
    RESCANNED,
    UNWATCHED,
    WRITE,
    Audience,
    Entry,
    is_ours,
    listing,
)
from sandkeeper.watch.nodes import Node

__all__ = ["WatchPlaces", "WatchTree"]

_ENTRIES = Mask.MODIFY | Mask.ATTRIB | Mask.MOVED_FROM | Mask.MOVED_TO | Mask.CREATE | Mask.DELETE
_ENTRIES |= Mask.EXCL_UNLINK  # what is still written to a removed file has no name here any more
_SELF = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
_GONE = Mask.DELETE_SELF | Mask.UNMOUNT | Mask.IGNORED
_COOKIES = 1024
_CLOSED_OR_GONE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP}


class WatchPlaces(Protocol):
    """Where watches are kept: `linux.inotify.Inotify`, or a share in one."""

    def add(self, path: bytes, mask: int) -> int:
        """Watch `path`; the same number comes back for the same file. Raises OSError."""

    def remove(self, watch: int) -> None:
        """Stop a watch; one that is gone already is no error."""


class WatchTree:
    """What is told of a root. Call `arm` once, then `handle` for each notice until `ended`.

    `shown` is how the root is written in changes; links in it are followed. Paths that contain one
    of the texts `ignored` are not told, and directories whose whole content that concerns are not
    watched. `between` is called now and then during long walks; it may raise to end them. What may
    block is done inside `aside`, but for adding a watch.
    """

    def __init__(
        self,
        inotify: WatchPlaces,
        shown: bytes,
        *,
        recursive: bool,
        ignored: Iterable[bytes],
        audience: Audience,
        between: Callable[[], None],
        aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._inotify = inotify
        self._shown = shown.rstrip(b"/")
        self._real = os.path.realpath(shown).rstrip(b"/")
        self._recursive = recursive
        self._ignored = tuple(ignored)
        self._audience = audience
        self._tell = audience.tell
        self._between = between
        self._aside = aside
        self._nodes: dict[int, Node] = {}
        self._moving: dict[int, Node] = {}
        self._unsettled: list[int] = []
        self._replacing: dict[int, bool] = {}
        self.identity = (0, 0)
        """Device and inode of the root."""
        self._root = Node(-1, None, b"")
        self._armed = False
        self.ended = False

    @property
    def watched(self) -> int:
        """How many directories are watched."""
        return len(self._nodes)

    def arm(self) -> None:
        """Watch everything; raises OSError if the root, or for want of watches all, cannot be."""
        watch = self._inotify.add(self._real or b"/", _ENTRIES | _SELF)
        self._root.watch = watch
        self._nodes[watch] = self._root
        with self._aside():
            about = os.stat(self._real or b"/")
        self.identity = (about.st_dev, about.st_ino)
        if self._recursive:
            self._read(self._root, tell=False)
        self._armed = True

    def handle(self, notice: Notice) -> None:
        """Follow one notice."""
        if notice.mask & Mask.OVERFLOW:
            self._rescan()
            return
        node = self._nodes.get(notice.watch)
        if node is None:
            return  # a watch that has been given up; its last notices were still queued
        if not notice.name or notice.mask & Mask.IGNORED:
            self._handle_self(node, notice.mask)
        elif is_ours(notice.name):
            self._note_temporary(notice)
        elif (directory := self._path(node)) is not None:
            self._handle_entry(node, directory, notice)

    def settle(self) -> None:
        """Give up what was on the move at the last call and still is; call it behind some notices.

        The halves of a move stand close together, and who was found ahead may never hear of one.
        """
        for cookie in self._unsettled:
            self._drop_unnamed(self._moving.pop(cookie, None))
        self._unsettled = list(self._moving)

    def _handle_self(self, node: Node, mask: int) -> None:
        if node is self._root:
            if mask & _GONE:
                self._end(REMOVE)
            elif mask & Mask.MOVE_SELF:
                self._end(RENAME)
            elif mask & Mask.ATTRIB:
                self._tell_root(CHMOD)
        elif mask & Mask.IGNORED:
            self._nodes.pop(node.watch, None)
        elif mask & Mask.MOVE_SELF and node.parent is None:
            # Both halves of a move come before this: it went where nobody watches.
            self._moving = {key: each for key, each in self._moving.items() if each is not node}
            self._drop(node)

    def _note_temporary(self, notice: Notice) -> None:
        """Remember a temporary file that leaves its name: the other half tells for where."""
        if notice.mask & Mask.MOVED_FROM:
            if len(self._replacing) >= _COOKIES:
                self._replacing.pop(next(iter(self._replacing)))
            self._replacing[notice.cookie] = is_replacement(os.fsdecode(notice.name))

    def _handle_entry(self, node: Node, directory: bytes, notice: Notice) -> None:
        mask, name = notice.mask, notice.name
        if mask & Mask.CREATE:
            self._appeared(node, directory, name, is_directory=bool(mask & Mask.ISDIR))
        elif mask & Mask.MOVED_TO:
            self._moved_in(node, directory, notice)
        elif mask & Mask.MOVED_FROM:
            self._emit(RENAME, directory, name)
            self._moved_out(node, directory, notice)
        elif mask & Mask.DELETE:
            self._emit(REMOVE, directory, name)
            if mask & Mask.ISDIR:
                self._drop_unnamed(node.detach(name))
        elif mask & Mask.MODIFY:
            self._emit(WRITE, directory, name)
        elif mask & Mask.ATTRIB:
            self._emit(CHMOD, directory, name)
            if mask & Mask.ISDIR and name not in node.children:
                self._try_again(node, directory, name)

    def _try_again(self, node: Node, directory: bytes, name: bytes) -> None:
        """Watch a directory that could not be read until its mode changed."""
        child = self._attach(node, directory, name) if self._recursive else None
        if child is not None:
            self._read(child, tell=True)

    def _moved_out(self, node: Node, directory: bytes, notice: Notice) -> None:
        child = node.detach(notice.name)
        # RENAME_EXCHANGE is told as two moves: what came with the first leaves with the second.
        found = self._look_at(node, notice.name)
        if found is not None:
            self._appeared(node, directory, notice.name, is_directory=S_ISDIR(found.st_mode))
        if child is not None and child.parent is None:
            self._moving[notice.cookie] = child

    def _moved_in(self, node: Node, directory: bytes, notice: Notice) -> None:
        is_directory = bool(notice.mask & Mask.ISDIR)
        replaced = self._replacing.pop(notice.cookie, None)
        moved = self._moving.pop(notice.cookie, None)
        self._supplant(directory, notice.name)
        if replaced and not is_directory:
            self._emit(WRITE, directory, notice.name)
            return
        self._appeared(node, directory, notice.name, is_directory=is_directory)
        if replaced is False and not is_directory:
            found = self._look_at(node, notice.name)
            if found is not None and found.st_size > 0:
                self._emit(WRITE, directory, notice.name)
        self._drop_unnamed(moved)  # it has moved on already, or was not what has moved

    def _appeared(self, node: Node, directory: bytes, name: bytes, *, is_directory: bool) -> None:
        child = None
        if is_directory and self._recursive:
            child = self._attach(node, directory, name)  # first: telling may have to wait
        self._emit(CREATE, directory, name)
        if child is not None:
            self._read(child, tell=True)

    def _look_at(self, node: Node, name: bytes) -> os.stat_result | None:
        try:
            with self._aside():
                return os.lstat(self._join(self._real_path(node), name))
        except OSError:
            return None

    def _attach(self, parent: Node, directory: bytes, name: bytes) -> Node | None:
        """Watch a directory below `parent`, wherever the tree thought it was."""
        if self._hides(self._join(directory, name) + b"/"):
            return None
        path = self._join(self._real_path(parent), name)
        try:
            watch = self._inotify.add(path, _ENTRIES | _SELF | Mask.DONT_FOLLOW)
        except OSError as error:
            self._drop_unnamed(parent.detach(name))  # what was here is not, or is closed
            self._miss(error, directory, name)
            return None
        node = self._nodes.get(watch)
        if node is self._root or (node is not None and node.is_above(parent)):
            return None
        if node is None:
            node = self._nodes[watch] = Node(watch, None, name)
        elif node.parent is not None and node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]
        stranger = parent.children.get(name)
        if stranger is not None and stranger is not node:
            self._drop(stranger)
            self._supplant(directory, name)
        node.parent, node.name = parent, name
        parent.children[name] = node
        return node

    def _read(self, top: Node, *, tell: bool) -> None:
        """Read a directory and those below it, watching each before it is read."""
        stack = [top]
        while stack:
            node = stack.pop()
            directory = self._path(node)
            if directory is None:
                continue
            entries = self._entries(node, directory)
            if entries is None:
                self._close_off(node)
                continue
            self._audience.listed(directory, entries, told=tell)
            folders = [name for name, is_directory in entries if is_directory]
            for name in node.children.keys() - set(folders):
                self._drop_unnamed(node.detach(name))
            if self._recursive:
                attached = [self._attach(node, directory, name) for name in folders]
                stack += [child for child in attached if child is not None]
            self._between()

    def _close_off(self, node: Node) -> None:
        """Have a directory that cannot be read any more be one that never could."""
        if node.parent is not None:
            self._drop_unnamed(node.parent.detach(node.name))
        else:
            self._tell_root(UNWATCHED)

    def _entries(self, node: Node, directory: bytes) -> list[Entry] | None:
        """Return what is in a directory; None where that is for nobody to see, or it is gone."""
        try:
            with self._aside():
                found = listing(self._real_path(node))
        except OSError as error:
            self._miss(error, *os.path.split(directory))
            return None if error.errno in _CLOSED_OR_GONE else []
        entries = [entry for entry in found if not is_ours(entry[0])]
        if self._ignored:
            entries = [e for e in entries if not self._hides(self._join(directory, e[0]))]
        return entries

    def _miss(self, error: OSError, directory: bytes, name: bytes) -> None:
        """Pass over what is unreadable or gone (that is or will be told), nothing else."""
        if error.errno in _CLOSED_OR_GONE:
            return
        if self._armed:
            self._emit(UNWATCHED, directory, name)
        elif error.errno != errno.ENAMETOOLONG:  # deeper than a path can say: nobody names it
            raise error

    def _rescan(self) -> None:
        self._tell_root(OVERFLOW)
        try:
            with self._aside():
                about = os.stat(self._real or b"/")
        except OSError:
            about = None
        if about is None or (about.st_dev, about.st_ino) != self.identity:
            self._end(REMOVE)
            return
        before = set(self._nodes)
        self._nodes = {self._root.watch: self._root}
        self._root.children = {}
        self._moving.clear()
        self._replacing.clear()
        self._read(self._root, tell=True)
        for watch in before.difference(self._nodes):
            self._inotify.remove(watch)
        self._tell_root(RESCANNED)

    def _drop_unnamed(self, node: Node | None) -> None:
        if node is not None and node.parent is None:
            self._drop(node)

    def _drop(self, top: Node) -> None:
        """Stop watching a directory and those below it."""
        stack = [top]
        while stack:
            node = stack.pop()
            stack += node.children.values()
            node.children, node.parent = {}, None
            if self._nodes.get(node.watch) is node:
                del self._nodes[node.watch]
                self._inotify.remove(node.watch)

    def _end(self, how: str) -> None:
        self._tell_root(how)
        self.ended = True

    def _tell_root(self, how: str) -> None:
        parent, _, name = self._shown.rpartition(b"/")
        self._tell(how, parent or b"/", name)

    def _emit(self, how: str, directory: bytes, name: bytes) -> None:
        if not (self._ignored and self._hides(self._join(directory, name))):
            self._tell(how, directory, name)

    def _supplant(self, directory: bytes, name: bytes) -> None:
        if not (self._ignored and self._hides(self._join(directory, name))):
            self._audience.supplanted(directory, name)

    def _hides(self, path: bytes) -> bool:
        return any(text in path for text in self._ignored)

    def _path(self, node: Node) -> bytes | None:
        below = node.below(self._root)
        return None if below is None else self._shown + below or b"/"

    def _real_path(self, node: Node) -> bytes:
        return self._real + (node.below(self._root) or b"") or b"/"

    @staticmethod
    def _join(directory: bytes, name: bytes) -> bytes:
        return (b"/" if directory == b"/" else directory + b"/") + name
