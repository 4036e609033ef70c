"""Locks of paths: who changes what a path leads to does so alone."""

import threading

__all__ = ["PathLocks"]


class PathLocks:
    """One lock for each path that is in use now; several are taken in a fixed order."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    def hold(self, *paths: str) -> "_Hold":
        """Hold the locks of `paths` while inside."""
        return _Hold(self, paths if len(paths) == 1 else tuple(sorted(set(paths))))

    def take(self, path: str) -> None:
        """Wait for the lock of a path, and have it until it is given back."""
        with self._guard:
            known = self._locks.get(path)
            lock, users = (threading.Lock(), 0) if known is None else known
            self._locks[path] = lock, users + 1
        lock.acquire()

    def give_back(self, path: str) -> None:
        """Leave the lock of a path to whoever waits for it."""
        with self._guard:
            lock, users = self._locks[path]
            if users == 1:
                del self._locks[path]
            else:
                self._locks[path] = lock, users - 1
        lock.release()


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
