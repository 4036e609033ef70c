"""Threads for blocking work, of which no kind of work can take all.

A thread that computes has a place; there are few, for all threads share one interpreter with the
event loop. Work that waits (for a FIFO, a device, a file system that does not answer) needs none:
once a thread has waited for a while and others want a place, its place goes to them and it waits on
as a thread of its own. What is bounded, and what happens at the bound: one kind of work has `each`
places at most, the rest of it queues; work that waits has WAITING_EACH threads for a kind and
WAITING_ALL in all, and what comes of that kind then is refused.
"""

import asyncio
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from sandkeeper.errors import Unavailable
from sandkeeper.linux.worker import started

__all__ = ["Crew"]

T = TypeVar("T")

LOOK_SECONDS = 0.1
FUTEX = {"x86_64": "202", "aarch64": "98", "riscv64": "98"}.get(os.uname().machine, "")
WAITING_EACH = 128
WAITING_ALL = 384


class _Job:
    __slots__ = ("call", "done", "function", "kind", "loop", "thread", "waits")

    def __init__(self, kind: str, function: Callable[[], Any]) -> None:
        self.kind = kind
        self.function = function
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Any] = self.loop.create_future()
        self.thread: int | None = None
        self.call = ""
        self.waits = False


class Crew:
    """A few places and the threads that have them; event loop's thread only."""

    def __init__(self, name: str, places: int, each: int) -> None:
        self._name = name
        self._places = places
        self._each = each
        self._queues: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._running: set[_Job] = set()
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._handed: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = 0
        self._looking: asyncio.TimerHandle | None = None
        self._closed = False

    def run(self, kind: str, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Run `function` in a thread; what is awaited gives what it returns, or raises.

        When that is cancelled before it has begun it never does; later it goes on to its end.
        It raises Unavailable when too much of its kind waits already, and after `close`.
        """
        job = _Job(kind, function)
        if self._closed:
            job.done.set_exception(Unavailable("the server is stopping"))
            return job.done
        if self._waiting.get(kind, 0) >= WAITING_EACH:
            text = f"{WAITING_EACH} operations of this kind hang"
            job.done.set_exception(Unavailable(text))
            return job.done
        if not self._queues and self._has_place() and self._taken.get(kind, 0) < self._each:
            self._hand(job)  # as nearly always
        else:
            self._queues.setdefault(kind, deque()).append(job)
            self._start()
        return job.done

    def close(self) -> None:
        """Let running work finish; nothing new is taken and what has not begun is dropped."""
        self._closed = True
        for queue in self._queues.values():
            for job in queue:
                job.done.cancel()
        self._queues.clear()
        for _ in range(self._idle):
            self._handed.put(None)
        self._idle = 0
        if self._looking is not None:
            self._looking.cancel()

    def _has_place(self) -> bool:
        return sum(self._taken.values()) < self._places

    def _start(self) -> None:
        """Give free places to what waits, a kind after the other."""
        while self._has_place():
            kind = next((one for one in self._queues if self._taken.get(one, 0) < self._each), None)
            if kind is None:
                break
            queue = self._queues.pop(kind)
            job = queue.popleft()
            if queue:
                self._queues[kind] = queue  # behind all others
            if not job.done.done():
                self._hand(job)
        if self._queues and self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _hand(self, job: _Job) -> None:
        _count(self._taken, job.kind, 1)
        self._running.add(job)
        if self._idle:
            self._idle -= 1
            self._handed.put(job)  # last: the thread waits for the interpreter from here on
            return
        # A thread that hangs must not keep the server from ending.
        thread = threading.Thread(target=self._work, args=[job], name=self._name, daemon=True)
        try:
            started(thread)
        except Unavailable as error:
            _count(self._taken, job.kind, -1)
            self._running.discard(job)
            job.done.set_exception(error)

    def _work(self, first: _Job) -> None:
        job: _Job | None = first
        mine = threading.get_native_id()
        while job is not None:
            job.thread = mine
            result, error = None, None
            try:
                result = job.function()
            except BaseException as caught:  # noqa: BLE001 - it is raised where it is awaited
                error = caught
            job.thread = None
            try:
                job.loop.call_soon_threadsafe(self._end, job, result, error)
            except RuntimeError:  # the loop is closed: the server has stopped
                return
            del result, error
            job = self._handed.get()

    def _end(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._running.discard(job)
        _count(self._waiting if job.waits else self._taken, job.kind, -1)
        if job.done.done():
            pass
        elif error is not None:
            job.done.set_exception(error)
        else:
            job.done.set_result(result)
        if self._closed or self._idle >= self._places:
            self._handed.put(None)
        else:
            self._idle += 1
            if self._queues:
                self._start()

    def _look(self) -> None:
        """Take the places of those who wait, for others."""
        self._looking = None
        for job in list(self._running):
            if sum(self._waiting.values()) >= WAITING_ALL:
                break
            if not job.waits and _is_in_one_call(job):
                job.waits = True
                _count(self._taken, job.kind, -1)
                _count(self._waiting, job.kind, 1)
        self._start()


def _is_in_one_call(job: _Job) -> bool:
    """Say whether a job was in the same call of the kernel at the look before.

    The line of /proc/<pid>/task/<tid>/syscall has the call's number, arguments and stack
    (proc_pid_syscall(5)). A thread that waits for the interpreter or for a lock is in futex(2):
    that one would compute. Kernels without the file never tell; then each kind has its bound only.
    """
    before, job.call = job.call, ""
    thread = job.thread
    if thread is None:
        return False
    with suppress(OSError), open(f"/proc/self/task/{thread}/syscall", encoding="ascii") as file:
        job.call = file.read()
    number = job.call.partition(" ")[0]
    return job.call == before and number.isdigit() and number != FUTEX != ""


def _count(counts: dict[str, int], kind: str, change: int) -> None:
    counts[kind] = counts.get(kind, 0) + change
    if not counts[kind]:
        del counts[kind]
