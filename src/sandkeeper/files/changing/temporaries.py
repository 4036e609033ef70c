"""Where our temporary files are, so that a crash leaves none after the next start.

The journal is one file of fixed slots. Before a temporary is created its path is written into a
free slot; when it is gone the slot's first byte becomes NUL. Both are single small pwrite(2) calls
into the page cache, which survives a kill -9. At the next start `sweep` removes what is still
named there; nothing but a name with our own prefix is ever removed.
"""

import threading
from contextlib import suppress
from pathlib import Path

from sandkeeper.files.changing.removal import remove_tree
from sandkeeper.files.paths import is_temporary
from sandkeeper.linux.paths import useros as os
from sandkeeper.linux.paths.statefiles import open_plain

__all__ = ["Temporaries", "remove_temporary"]

MOST_SLOTS = 1 << 16
SLOT_BYTES = 4096  # PATH_MAX: no longer path can be opened, so none can be created


class Temporaries:
    """The journal of temporaries in flight; all methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._slots = 0

    def __repr__(self) -> str:
        return f"<Temporaries {self._slots - len(self._free)} in flight>"

    @property
    def in_flight(self) -> int:
        """How many temporaries exist now."""
        return self._slots - len(self._free)

    def open(self) -> list[str]:
        """Open the journal and sweep; returns what was removed. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = open_plain(self._path, os.O_RDWR | os.O_CREAT)
        removed = [path for path in self._left_over() if remove_temporary(path)]
        os.ftruncate(self._fd, 0)
        return removed

    def close(self) -> None:
        """Close the journal; temporaries made later are not recorded."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def enter(self, path: str) -> int:
        """Record `path` before it is created; returns the slot."""
        try:
            slot = self._free.pop()
        except IndexError:
            with self._lock:
                slot = self._slots
                self._slots += 1
        self._write(slot, os.fsencode(path)[: SLOT_BYTES - 1] + b"\0")
        return slot

    def leave(self, slot: int) -> None:
        """Free a slot once its temporary has been renamed or removed."""
        self._write(slot, b"\0")
        self._free.append(slot)  # behind that: from here on it is another's

    def _write(self, slot: int, data: bytes) -> None:
        # A full disk must not fail a write that may succeed elsewhere (ENOSPC here only means
        # that a crash right now would leave one temporary behind).
        if self._fd >= 0:
            try:
                os.pwrite(self._fd, data, slot * SLOT_BYTES)
            except OSError:
                return

    def _left_over(self) -> list[str]:
        size = os.fstat(self._fd).st_size
        found = []
        for offset in range(0, min(size, MOST_SLOTS * SLOT_BYTES), SLOT_BYTES):
            name = os.pread(self._fd, SLOT_BYTES, offset).split(b"\0", 1)[0]
            if name:
                found.append(os.fsdecode(name))
        return found


def remove_temporary(path: str) -> bool:
    """Remove one temporary file or directory; says whether it was one and is gone now."""
    if not is_temporary(os.path.basename(path)):
        return False
    try:
        os.unlink(path)
    except IsADirectoryError:
        with suppress(OSError):
            remove_tree(path)
        return not os.path.lexists(path)
    except OSError:
        return False
    return True
