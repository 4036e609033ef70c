"""When something changes in a folder here: inotify(7) on it and on the folders in it."""

import os
import select
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from sandkeeper.client.failures import ClientError
from sandkeeper.client.files.trees import FOLDER, Item
from sandkeeper.linux.inotify import Inotify, Mask, notices

__all__ = ["Notices"]

QUIET_SECONDS = 0.05
"""Changes come in bursts: a burst is over when nothing came for so long,"""
BURST_SECONDS = 1.0
"""or when it has lasted for so long."""
WANTED = (
    Mask.MODIFY
    | Mask.ATTRIB
    | Mask.MOVED_FROM
    | Mask.MOVED_TO
    | Mask.CREATE
    | Mask.DELETE
    | Mask.ONLYDIR
    | Mask.DONT_FOLLOW
    | Mask.EXCL_UNLINK
)


class Notices:
    """Waits for changes of what is watched; nothing more is told of them than that they came."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._watches: dict[str, int] = {}
        try:
            self._inotify = Inotify()
        except OSError as error:
            raise ClientError(f"changes cannot be watched: {str(error.strerror).lower()}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._inotify.close()

    def watch(self, items: Mapping[str, Item]) -> bool:
        """Watch the root and the folders of a look; says whether one of them is new.

        Raises ClientError at the machine's limit, and when the root is gone.
        """
        folders = {"", *(path for path, item in items.items() if item.kind == FOLDER)}
        for path in self._watches.keys() - folders:
            self._inotify.remove(self._watches.pop(path))
        known = set(self._watches.values())
        new = False
        for path in sorted(folders):
            number = self._added(path)
            if number is not None and number != self._watches.get(path):
                new = new or number not in known
                self._watches[path] = number
        return new

    def _added(self, path: str) -> int | None:
        try:
            return self._inotify.add(os.fsencode(self._root / path), WANTED)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not path:
                raise ClientError(f"{self._root}: {str(error.strerror).lower()}") from None
            return None
        except OSError as error:
            raise ClientError(
                f"{self._root / path} cannot be watched: {str(error.strerror).lower()} "
                "(fs.inotify.max_user_watches)"
            ) from None

    def wait(self) -> None:
        """Return some moments after something has changed."""
        self._read(None)
        until = time.monotonic() + BURST_SECONDS
        while self._read(QUIET_SECONDS) and time.monotonic() < until:
            pass

    def _read(self, seconds: float | None) -> bool:
        """Take notices as they come, at most for so long; says whether there were any."""
        ready, _, _ = select.select([self._inotify.fd], [], [], seconds)
        if not ready:
            return False
        gone = {one.watch for one in notices(self._inotify.read()) if one.mask & Mask.IGNORED}
        if gone:
            self._watches = {k: v for k, v in self._watches.items() if v not in gone}
        return True
