"""A writer of log lines that never makes its callers wait.

Callers: `submit` from any thread; it appends to a bounded queue and returns.
Writer:  one thread owns the descriptor, writes without blocking and polls for room. It also makes
         the lines that were put into the queue as what makes them.
Blocks:  `pull` sources (process output) are asked for a block only when the queue is empty and the
         descriptor takes data, so a stalled collector leaves them where they are: on disk.

Rest:    making a block takes the interpreter from whoever answers requests. While there are
         some, the thread rests after each block for twice as long as that took.

What the queue cannot hold is counted, and the count is written as a line of its own as soon as
there is room.
"""

import errno
import fcntl
import os
import select
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import thread_time

from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.trusted import UntrustedFile, open_trusted_output
from sandkeeper.linux.worker import Bell

__all__ = ["Sink", "open_target"]

QUEUE_BYTES = 1 << 20
DISK_SECONDS = 0.2
REST_SECONDS = 0.005
"""The longest rest."""
PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""Errors of a disk that may pass; every other one means that the target is gone."""

Make = Callable[[], bytes]
Pull = Callable[[], tuple[bytes | bytearray, Callable[[], None]] | None]


STREAMS = {
    **dict.fromkeys(("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"), "stdout"),
    **dict.fromkeys(("/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"), "stderr"),
}
"""Paths that are other names of a stream."""


def open_target(target: str, workload: Identity | None = None) -> int:
    """Open `stdout`, `stderr`, `none` or a path for writing without blocking.

    A terminal or pipe is reopened through /proc/self/fd (proc_pid_fd(5)), which gives an open file
    description of our own: O_NONBLOCK on the inherited one would change it for every process that
    shares it. A file is written through what was inherited, for its place is shared with whoever
    else writes there, and all of them are made to append (`share_one_end`). A path that is somebody
    else's symbolic link is refused: whoever may write to its folder would choose which file a
    privileged server writes to. With a workload's user nothing is used that it could have made or
    led us to: a log that it can read or edit is worse than no start. Raises OSError.
    """
    share_one_end()
    target = STREAMS.get(target, target)
    if target == "none":
        return os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    if target not in {"stdout", "stderr"}:
        fd = _open_path(target, workload)
        _end_torn_line(fd)
        return fd
    number = 1 if target == "stdout" else 2
    try:
        if stat.S_ISREG(os.fstat(number).st_mode):
            return os.dup(number)
        return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # sockets cannot be reopened, and a closed stream has nothing to open
        with suppress(OSError):
            return os.dup(number)
        return os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)


def share_one_end() -> None:
    """Have all that goes to standard output and error append, where these are files.

    Both may be one file by two openings, or the log's as well: whoever wrote at a place of its own
    would write over the others, and after a rotation by cutting the file off, far behind its end.
    """
    for number in (1, 2):
        with suppress(OSError):  # closed
            if stat.S_ISREG(os.fstat(number).st_mode):
                flags = fcntl.fcntl(number, fcntl.F_GETFL)
                fcntl.fcntl(number, fcntl.F_SETFL, flags | os.O_APPEND)


def _open_path(path: str, workload: Identity | None) -> int:
    flags = os.O_RDWR | os.O_APPEND
    if workload is not None:
        try:
            return open_trusted_output(path, flags, 0o600, workload=workload)
        except UntrustedFile as error:
            raise PermissionError(errno.EPERM, f"it is not safe to use: {error}", path) from None
    _refuse_planted(path)
    flags |= os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _refuse_planted(path: str) -> None:
    with suppress(FileNotFoundError):
        facts = os.lstat(path)
        if stat.S_ISLNK(facts.st_mode) and facts.st_uid not in {0, os.geteuid()}:
            raise PermissionError(errno.EPERM, "it is a symbolic link of another user", path)


def _end_torn_line(fd: int) -> None:
    """Begin on a line of our own where a killed server left half of one."""
    facts = os.fstat(fd)
    filled = stat.S_ISREG(facts.st_mode) and facts.st_size > 0
    if filled and os.pread(fd, 1, facts.st_size - 1) != b"\n":
        os.write(fd, b"\n")


class Sink:
    """One descriptor, one writing thread, a bounded queue and optional pulled blocks.

    `dropped_line(count)` makes the line that tells of dropped ones. `statistics()` gives the
    queue's depth in bytes, the lines dropped so far and the bytes written. `rouse` is called, from
    any thread, when there is something new: `wake` at once, unless the owner gathers news first.
    `asked` returns a number that grows with each request.
    """

    def __init__(
        self,
        fd: int,
        *,
        dropped_line: Callable[[int], bytes],
        pull: Pull | None = None,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._fd = fd
        self._is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
        self._dropped_line = dropped_line
        self.pull = pull
        self._limit = queue_bytes
        self.rouse: Callable[[], None] = self.wake
        self.asked: Callable[[], int] = int
        self._queue: deque[bytes | Make] = deque()
        self._queued = 0
        self._dropped = 0
        self._dropped_total = 0
        self._written = 0
        self._lock = threading.Lock()
        self._bell = Bell()
        self._closing = False
        self._deadline_polls = 0
        self._thread: threading.Thread | None = None
        self._paused = threading.Event()

    def start(self) -> None:
        """Start the writing thread."""
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()

    def submit(self, line: bytes) -> None:
        """Queue one line (with its newline), or count it as dropped when the queue is full."""
        self.put(line, len(line))

    def put(self, line: bytes | Make, size: int) -> None:
        """Queue a line, or what makes it on the writing thread, as so many bytes."""
        with self._lock:
            if self._queued + size > self._limit:
                self._count_dropped()
                return
            idle = not self._queue
            self._queue.append(line)
            self._queued += size
        if idle:
            self.rouse()

    def _count_dropped(self) -> None:
        self._dropped += 1
        self._dropped_total += 1

    def wake(self) -> None:
        """Have the writer look for work: lines, or a source that has something new."""
        self._bell.ring()

    @property
    def alive(self) -> bool:
        """Whether the thread runs: it ends when the target is gone."""
        return self._thread is not None and self._thread.is_alive()

    def statistics(self) -> dict[str, int]:
        """Return queued bytes, dropped lines and written bytes."""
        return {
            "queuedBytes": self._queued,
            "droppedLines": self._dropped_total,
            "writtenBytes": self._written,
        }

    def close(self, timeout: float = 1.0) -> None:
        """Write what is queued for at most `timeout` seconds, then stop the thread."""
        self._closing = True
        self._paused.set()
        self._deadline_polls = max(1, int(timeout * 20))
        self.wake()
        if self._thread is not None:
            self._thread.join(timeout + 1.0)

    def _take(self) -> bytes:
        with self._lock:
            queue, self._queue = self._queue, deque()
            self._queued = 0
            dropped, self._dropped = self._dropped, 0
        lines = [one if isinstance(one, bytes) else self._made(one) for one in queue]
        if dropped:
            lines.append(self._dropped_line(dropped))
        return b"".join(lines)

    def _made(self, make: Make) -> bytes:
        """Make a line; one that cannot be made ends no thread, and is told as dropped."""
        try:
            return make()
        except Exception:  # noqa: BLE001 - whatever it is, the lines behind it are still to come
            with self._lock:
                self._count_dropped()
            return b""

    def _run(self) -> None:
        waiting = select.poll()  # not select(2), which knows no descriptor above 1023
        waiting.register(self._bell.fd, select.POLLIN)
        while True:
            block = self._take()
            if block:
                if not self._write(block):
                    return
                continue
            if self.pull is not None and not self._closing:
                began, asked = thread_time(), self.asked()
                pulled = self.pull()
                if pulled is not None:
                    took = thread_time() - began  # what others made for us kept nobody
                    data, acknowledge = pulled
                    if data and not self._write(data):
                        return
                    acknowledge()
                    if self.asked() != asked:
                        self._paused.wait(min(2 * took, REST_SECONDS))
                    continue
            if self._closing:
                return
            waiting.poll()
            self._bell.hush()

    def _write(self, data: bytes | bytearray) -> bool:
        """Write all of `data`; False when the target is gone or closing took too long."""
        view = memoryview(data)
        while view:
            try:
                written = self._write_some(view)
            except BlockingIOError:
                if not self._wait_for_room():
                    return False
                continue
            except OSError as error:
                if error.errno not in PASSING or not self._wait_for_the_disk():
                    return False
                continue
            self._written += written
            view = view[written:]
        return True

    def _write_some(self, view: memoryview) -> int:
        if not self._is_socket:
            return os.write(self._fd, view)
        with socket.socket(fileno=os.dup(self._fd)) as sock:
            return sock.send(view, socket.MSG_DONTWAIT)

    def _wait_for_the_disk(self) -> bool:
        """Pause: a full disk may have room again; until then lines wait and are dropped."""
        if self._closing:
            return False
        self._paused.wait(DISK_SECONDS)
        return True

    def _wait_for_room(self) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        while not poller.poll(50 if self._closing else 200):
            if self._closing:
                self._deadline_polls -= 1
                if self._deadline_polls <= 0:
                    return False
        return True
