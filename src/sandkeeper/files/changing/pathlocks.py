"""Locks of paths: who changes what a path leads to does so alone."""

import threading

__all__ = ["PathLocks"]


class PathLocks:
    """A lock for each path that is in use now; several are taken in a fixed order."""

    def __init__(self) -> None:
        self._locks: dict[str, threading.Lock] = {}

    def hold(self, *paths: str) -> "_Hold":
        """Hold the locks of `paths` while inside."""
        return _Hold(self, paths if len(paths) == 1 else tuple(sorted(set(paths))))

    def take(self, path: str) -> None:
        """Wait until nobody has a path, and have it until it is given back."""
        mine = threading.Lock()
        mine.acquire()
        # One step for all threads: where somebody else has it, his lock is what is returned.
        while (held := self._locks.setdefault(path, mine)) is not mine:
            with held:
                continue

    def give_back(self, path: str) -> None:
        """Leave a path to whoever waits for it."""
        self._locks.pop(path).release()


class _Hold:
    """The locks of some paths; a plain class, for every write of a small file passes here."""

    __slots__ = ("_locks", "_paths")

    def __init__(self, locks: PathLocks, paths: tuple[str, ...]) -> None:
        self._locks = locks
        self._paths = paths

    def __enter__(self) -> None:
        for path in self._paths:
            self._locks.take(path)

    def __exit__(self, *_exc: object) -> None:
        for path in reversed(self._paths):
            self._locks.give_back(path)
