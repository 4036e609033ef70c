"""What is told of a watched tree, and to whom."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sandkeeper.files.paths import TEMPORARY_PREFIX, is_temporary
from sandkeeper.linux.paths import useros as os

__all__ = [
    *("CHMOD", "CREATE", "OVERFLOW", "REMOVE", "RENAME", "RESCANNED", "UNWATCHED", "WRITE"),
    *("Audience", "Change", "Entry", "entries_of", "is_ours", "listing"),
]

CREATE, WRITE, REMOVE, RENAME, CHMOD = "CREATE", "WRITE", "REMOVE", "RENAME", "CHMOD"
OVERFLOW, RESCANNED, UNWATCHED = "OVERFLOW", "RESCANNED", "UNWATCHED"

Entry = tuple[bytes, bool]
"""A base name, and whether it is a directory."""

_PREFIX = TEMPORARY_PREFIX.encode()


class Change(NamedTuple):
    """One change: what (CREATE and so on), in which directory (absolute), and the base name."""

    how: str
    directory: bytes
    name: bytes


class Audience(Protocol):
    """Who is told; directories by their absolute paths."""

    def tell(self, how: str, directory: bytes, name: bytes) -> None:
        """Take one change (CREATE and the others above)."""

    def listed(self, directory: bytes, entries: Sequence[Entry], *, told: bool) -> None:
        """Take all that is in a directory now; `told`: as changes, for it was not known before."""

    def supplanted(self, directory: bytes, name: bytes) -> None:
        """Take that the name leads to something else, if it led to anything before."""


def is_ours(name: bytes) -> bool:
    """Say whether it is the name of a temporary file of our own."""
    return name.startswith(_PREFIX) and is_temporary(os.fsdecode(name))


def entries_of(path: bytes) -> list[Entry]:
    """Return what is in a directory; nothing of one that cannot be read."""
    try:
        return listing(path)
    except OSError:
        return []


def listing(path: bytes) -> list[Entry]:
    """Return what is in a directory; raises OSError."""
    with os.scandir(path) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
