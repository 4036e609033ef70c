"""The names below a watched root, as far as its notices have been followed.

Notices tell of a directory that leaves its name, not of what it held: who is to say which paths
that cost must have known them. A directory that was only read is kept as one text of its names,
and as a set from its first change on. All trees together have one bound (`NameStore`); what does
not fit is *unlisted*: what is in it is not known.
"""

import threading
from collections.abc import Collection, Iterable, Iterator

__all__ = ["NameStore", "NameTree", "joined"]

NAMES_BYTES = 64 << 20
DIRECTORY_BYTES = 250
NAME_BYTES = 100


class NameStore:
    """Counts what all trees of names hold; any thread."""

    def __init__(self, most: int = NAMES_BYTES) -> None:
        self._most = most
        self._lock = threading.Lock()
        self.held = 0

    def take(self, size: int) -> bool:
        """Take room (or give it back, where `size` is negative); False: there is none."""
        with self._lock:
            if size > 0 and self.held + size > self._most:
                return False
            self.held += size
            return True


class NameTree:
    """What is below a root; paths are relative to it, the root's own is empty."""

    def __init__(self, store: NameStore) -> None:
        self._store = store
        self._directories: dict[bytes, bytes | set[bytes] | None] = {}

    def clear(self) -> None:
        """Forget all."""
        while self._directories:
            self._forget(next(iter(self._directories)))

    def has(self, directory: bytes) -> bool:
        """Say whether it is a directory of which the names have been listed."""
        return directory in self._directories

    def may_have(self, directory: bytes) -> bool:
        """Say whether it is the root, or may be a name in a directory that has been listed.

        A directory that is one text has not changed since: what is below it comes from its listing.
        """
        parent, _, name = directory.rpartition(b"/")
        if not directory or parent not in self._directories:
            return not directory
        names = self._directories[parent]
        return not isinstance(names, set) or name in names

    def names(self, directory: bytes) -> Collection[bytes] | None:
        """Return what is in a directory; None where that is not known."""
        names = self._directories.get(directory)
        if isinstance(names, bytes):
            return names.split(b"/") if names else ()
        return names

    def holds(self, directory: bytes, name: bytes) -> bool | None:
        """Say whether the name is there; None where that is not known."""
        names = self._changeable(directory)
        return None if names is None else name in names

    def list(self, directory: bytes, names: Iterable[bytes]) -> None:
        """Have exactly these be there."""
        self._forget(directory)
        text = b"/".join(names)
        self._directories[directory] = text if self._store.take(_size(text)) else None

    def add(self, directory: bytes, name: bytes) -> None:
        """Have a name be there."""
        names = self._changeable(directory)
        if names is None or name in names:
            return
        if self._store.take(NAME_BYTES + len(name)):
            names.add(name)
        else:
            self._unlist(directory)

    def remove(self, directory: bytes, name: bytes) -> Iterator[bytes | None]:
        """Drop a name and all below it, if it is there.

        Yields what is dropped: paths, and None for each directory of which the names are not known.
        """
        names = self._changeable(directory)
        path = joined(directory, name)
        if names is not None and name not in names:
            return
        if names is not None:
            names.discard(name)
            self._store.take(-NAME_BYTES - len(name))
        yield path
        pending = [path]
        while pending:
            directory = pending.pop()
            if directory not in self._directories:
                continue
            below = self.names(directory)
            self._forget(directory)
            if below is None:
                yield None
                continue
            for each in below:
                yield (path := joined(directory, each))
                pending.append(path)

    def _changeable(self, directory: bytes) -> set[bytes] | None:
        names = self._directories.get(directory)
        if not isinstance(names, bytes):
            return names
        opened = set(self.names(directory) or ())
        if not self._store.take(_size(opened) - _size(names)):
            self._unlist(directory)
            return None
        self._directories[directory] = opened
        return opened

    def _unlist(self, directory: bytes) -> None:
        self._forget(directory)
        self._directories[directory] = None

    def _forget(self, directory: bytes) -> None:
        names = self._directories.pop(directory, None)
        if names is not None:
            self._store.take(-_size(names))


def joined(directory: bytes, name: bytes) -> bytes:
    """Return the path of a name in a directory."""
    return directory + b"/" + name if directory else name


def _size(names: bytes | set[bytes]) -> int:
    if isinstance(names, bytes):
        return DIRECTORY_BYTES + len(names)
    return DIRECTORY_BYTES + NAME_BYTES * len(names) + sum(map(len, names))
