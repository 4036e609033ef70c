"""Threads that wait for descriptors and take orders; whatever goes wrong, they go on.

And turns, for threads that compute.
"""

import os
import select
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sandkeeper.errors import Unavailable

__all__ = ["NO_THREAD", "Bell", "Turn", "Worker", "lacks_threads", "started"]

NO_THREAD = "no thread can be started: try again"


def started(thread: threading.Thread) -> threading.Thread:
    """Start a thread; raises Unavailable at the limit of a group, a user or the machine."""
    try:
        thread.start()
    except RuntimeError:
        raise Unavailable(NO_THREAD) from None
    return thread


def lacks_threads(error: BaseException) -> bool:
    """Say whether an error is CPython's word for a thread that could not be started."""
    return isinstance(error, RuntimeError) and str(error) == "can't start new thread"


class Bell:
    """Wakes a thread that waits in poll(2): an eventfd(2) that any thread may ring."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """Have `fd` be readable; nothing happens once the bell is closed."""
        fd = self.fd
        if fd >= 0:
            try:
                os.eventfd_write(fd, 1)
            except BlockingIOError:  # it rings already, 2^64 times
                return

    def hush(self) -> None:
        """Take notice of all rings so far."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """Close it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Worker(ABC):
    """A thread with a poller and orders, for a subclass to say what is done.

    Orders are calls that run on the thread, one after the other. Neither an order nor a descriptor
    that raises ends the thread: the first is told through `failed`, the second is told and given up
    (`_give_up`). `failed` is called on the thread with the reason as text.
    """

    def __init__(self, name: str, *, failed: Callable[[str], None]) -> None:
        self._name = name
        self._failed = failed
        self._poller = select.epoll()
        self._bell = Bell()
        self._poller.register(self._bell.fd, select.EPOLLIN)
        self._orders: deque[Callable[[], None]] = deque()
        self._running = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._running = True
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the orders given so far; a second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._order(self._end)
            thread.join()
        self._poller.close()
        self._bell.close()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def statistics(self) -> dict[str, int]:
        """Return how many orders wait."""
        return {"orders": len(self._orders)}

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        self._bell.ring()

    # On the thread

    @abstractmethod
    def _ready(self, fd: int) -> None:
        """Do what a descriptor is ready for."""

    @abstractmethod
    def _give_up(self, fd: int) -> None:
        """Have nothing to do any more with a descriptor for which `_ready` raised."""

    def _woken(self) -> None:  # noqa: B027 - a hook, not a duty
        """A round begins: something is ready."""

    def _round_over(self) -> None:  # noqa: B027 - the same
        """All that was ready had its turn."""

    def _patience(self) -> float | None:
        """Return for how many seconds to wait for the next round; None: until something comes."""
        return None

    def _end(self) -> None:
        """Leave: no round follows this one."""
        self._running = False

    def _run(self) -> None:
        while self._running:
            events = self._poller.poll(self._patience())
            self._woken()
            for fd, _events in events:
                if fd == self._bell.fd:
                    self._take_orders()
                elif self._running:
                    self._attend(fd)
            self._attempt(self._round_over)

    def _attend(self, fd: int) -> None:
        try:
            self._ready(fd)
        except Exception as error:  # noqa: BLE001 - one descriptor must not end them all
            self._failed(f"{self._name}: descriptor {fd} is given up: {error!r}")
            self._attempt(lambda: self._give_up(fd))

    def _take_orders(self) -> None:
        self._bell.hush()
        while self._orders:
            self._attempt(self._orders.popleft())

    def _attempt(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - nor must one order
            name = getattr(call, "__qualname__", call)  # a partial has none
            self._failed(f"{self._name}: {name}: {error!r}")


class Turn:
    """A lock that is handed to whoever has waited longest: of many threads one computes.

    All share one interpreter, and each that computes makes a request wait; with a plain lock the
    one that has just let go would mostly get it back.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()

    def __exit__(self, *_exc: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave it to others for a while, for what may block; only while it is ours."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()
