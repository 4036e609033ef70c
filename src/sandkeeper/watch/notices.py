"""The kernel's notices for all watchers of one user: one inotify instance, read by one thread.

inotify(7) gives a file one watch per instance, so watchers that look at the same directory share
its watch; it goes with the last of them. A `Tap` is one watcher's share: it adds and removes
watches as if the instance were its own, and gets what comes for them.

What is bounded, and what happens at the bound: a tap holds HELD_MOST notices that its watcher has
not looked at; what comes then is dropped and told as the kernel tells an overflow of its own queue
(fs.inotify.max_queued_events). All taps together hold as many pairs of watcher and directory as
the kernel would let one user watch (fs.inotify.max_user_watches).
"""

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from queue import SimpleQueue
from struct import unpack
from termios import FIONREAD

from sandkeeper.errors import Unavailable
from sandkeeper.linux.inotify import Inotify, Mask, Notice, notices
from sandkeeper.linux.worker import Bell, Turn, started

__all__ = ["Ask", "NoticeHub", "Tap"]

HELD_MOST = 65_536
RELEASED_AT_ONCE = 1024
LIMIT = "/proc/sys/fs/inotify/max_user_watches"

Ask = Callable[[], None]


class Tap:
    """One watcher's watches and notices; everything but `ask` and `wake` in its own thread."""

    def __init__(self, instance: "_Instance", turn: Turn) -> None:
        self._instance = instance
        self._turn = turn
        self._items: SimpleQueue[list[Notice] | Ask | None] = SimpleQueue()
        self._given = 0
        self._taken = 0
        self._lost = False
        self.watches: set[int] = set()

    def add(self, path: bytes, mask: int) -> int:
        """Watch `path`; the same number comes back for the same file. Only while it is our turn.

        Raises OSError, ENOSPC at the limit of watches.
        """
        with self._turn.aside():
            return self._instance.add(self, path, mask)

    def remove(self, watch: int) -> None:
        """Stop a watch; one that is gone already is no error."""
        self._instance.remove(self, [watch])

    def ask(self, question: Ask) -> None:
        """Have `question` come out of `take` behind all that happened before now."""
        self._instance.ask(self, question)

    def wake(self) -> None:
        """Have `take` return."""
        self._items.put(None)

    def take(self) -> list[Notice] | Ask | None:
        """Wait for notices, a question or a call to wake up."""
        item = self._items.get()
        if isinstance(item, list) and item[0].mask & Mask.OVERFLOW:
            self._lost = False  # what comes from here on will be looked at after the overflow
        return item

    def done(self, count: int) -> None:
        """Say that so many notices have been looked at."""
        self._taken += count

    def give(self, batch: list[Notice]) -> None:
        """Take what the instance has for it, in the instance's thread."""
        if self._lost:
            return
        if self._given - self._taken > HELD_MOST:
            self._lost = True
            self._items.put([Notice(-1, Mask.OVERFLOW, 0, b"")])
            return
        self._given += len(batch)
        self._items.put(batch)

    def give_question(self, question: Ask) -> None:
        """Take a question that has come through, in the instance's thread."""
        self._items.put(question)


class _Instance:
    """One inotify instance and its thread, from the first tap to the last."""

    def __init__(self) -> None:
        """Raises OSError EMFILE at the user's limit of instances, Unavailable without a thread."""
        self._inotify = Inotify()
        self._bell = Bell()
        self._lock = threading.Lock()
        self._owners: dict[int, list[Tap]] = {}
        self._adding: list[Tap] = []
        self._doomed: set[int] = set()
        self._questions: deque[tuple[Tap, Ask]] = deque()
        self._pairs = 0
        self._most = _limit()
        self._closing = False
        self.taps: set[Tap] = set()
        try:
            started(threading.Thread(target=self._run, name="notices", daemon=True))
        except Unavailable:
            self._inotify.close()
            self._bell.close()
            raise

    def add(self, tap: Tap, path: bytes, mask: int) -> int:
        # A notice may come before its watch is known to be the tap's: meanwhile it gets them all.
        with self._lock:
            if self._pairs >= self._most:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))
            self._adding.append(tap)
        watch = -1
        try:
            watch = self._inotify.add(path, mask)
            return watch
        finally:
            with self._lock:
                self._adding.remove(tap)
                if watch >= 0 and watch not in tap.watches:
                    tap.watches.add(watch)
                    self._owners.setdefault(watch, []).append(tap)
                    self._pairs += 1
                if not self._adding and self._doomed:
                    for each in self._doomed.difference(self._owners):
                        self._inotify.remove(each)
                    self._doomed.clear()

    def remove(self, tap: Tap, watches: list[int]) -> None:
        with self._lock:
            for watch in watches:
                if watch not in tap.watches:
                    continue
                self._forget(tap, watch)
                if watch in self._owners:
                    continue
                if self._adding:  # one of them may just have been given this very watch
                    self._doomed.add(watch)
                else:
                    self._inotify.remove(watch)

    def _forget(self, tap: Tap, watch: int) -> None:
        tap.watches.discard(watch)
        self._pairs -= 1
        owners = self._owners[watch]
        owners.remove(tap)
        if not owners:
            del self._owners[watch]

    def ask(self, tap: Tap, question: Ask) -> None:
        self._questions.append((tap, question))
        self._bell.ring()

    def close(self) -> None:
        """Have the thread give the instance back."""
        self._closing = True
        self._bell.ring()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._bell.fd, select.POLLIN)
        poll.register(self._inotify.fd, select.POLLIN)
        while not self._closing:
            poll.poll()
            self._bell.hush()
            asked = len(self._questions)
            self._read(self._queued())
            for _ in range(asked):
                tap, question = self._questions.popleft()
                tap.give_question(question)
        with self._lock:
            self._inotify.close()
            self._bell.close()

    def _queued(self) -> int:
        size: int = unpack("i", ioctl(self._inotify.fd, FIONREAD, b"\0\0\0\0"))[0]
        return size

    def _read(self, size: int) -> None:
        """Read what was there; under a steady stream the queue may never be empty."""
        while size > 0 and (data := self._inotify.read()):
            size -= len(data)
            for tap, batch in self._sorted(data).items():
                tap.give(batch)

    def _sorted(self, data: bytes) -> dict[Tap, list[Notice]]:
        batches: dict[Tap, list[Notice]] = {}
        with self._lock:
            for notice in notices(data):
                taps = self._taps_for(notice)
                for tap in taps:
                    batches.setdefault(tap, []).append(notice)
                if notice.mask & Mask.IGNORED:
                    for tap in list(self._owners.get(notice.watch, ())):
                        self._forget(tap, notice.watch)
        return batches

    def _taps_for(self, notice: Notice) -> "list[Tap] | set[Tap]":
        if notice.mask & Mask.OVERFLOW:
            return self.taps
        taps = self._owners.get(notice.watch, [])
        if self._adding:
            return {*taps, *self._adding}
        return taps


class NoticeHub:
    """The instance of one user while somebody needs it; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._instance: _Instance | None = None
        self.turn = Turn()

    @contextmanager
    def tapped(self) -> Iterator[Tap]:
        """Give a thread its tap while inside; raises OSError EMFILE at the limit of instances.

        The thread acts for the user whom instance and watches count against.
        """
        with self._lock:
            if self._instance is None:
                self._instance = _Instance()
            instance = self._instance
            tap = Tap(instance, self.turn)
            instance.taps.add(tap)
        try:
            yield tap
        finally:
            self._leave(instance, tap)

    def _leave(self, instance: _Instance, tap: Tap) -> None:
        with self._lock:
            instance.taps.discard(tap)
            if not instance.taps:
                self._instance = None
                instance.close()
                return
        watches = list(tap.watches)
        for start in range(0, len(watches), RELEASED_AT_ONCE):
            instance.remove(tap, watches[start : start + RELEASED_AT_ONCE])


def _limit() -> int:
    try:
        with open(LIMIT, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1 << 20
