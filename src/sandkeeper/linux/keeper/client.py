"""The keeper: a tiny process that holds pipes and pidfds over the death of the server.

A named pipe lives as long as somebody has it open. If the server is killed and a child writes a
last line and exits, nobody would, and the line would be gone with the pipe's buffer; and a process
that ended without a witness leaves no exit status. So every run's pipes and its pidfd are also
open in the keeper, which does nothing but hold them until the next server asks (`get`).
"""

import array
import errno
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sandkeeper.linux.children.child import Child
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.localsockets import connected, listening
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.keeper import holder

__all__ = ["Keeper"]

SEND_SECONDS = 2.0
ANSWER_SECONDS = 5.0
"""A busy machine lets a keeper wait; one that takes longer is stopped."""


class Keeper:
    """Our end of the keeper's socket; all methods block shortly, so call them in a thread.

    Losing the keeper costs nothing while the server lives: `processes.keeping` notices and has it
    replaced. A `put` that comes first starts another one, and `restarted` (called on the same
    thread) has everything put again.
    """

    def __init__(self, path: Path, children: Children, *, restarted: Callable[[], None]) -> None:
        self._path = path
        self._children = children
        self._socket: socket.socket | None = None
        self._child: Child | None = None
        self._restarted = restarted
        self._lock = threading.Lock()

    @property
    def child(self) -> Child | None:
        """The keeper's process if this server started it; whoever supervises us must reap it."""
        return self._child

    def statistics(self) -> dict[str, int | bool]:
        """Return whether it is there, and its process id if this server started it (else 0)."""
        ours, child = self._socket, self._child
        number = ours.fileno() if ours is not None else -1
        if number < 0:
            return {"connected": False, "pid": 0}
        poller = select.poll()
        poller.register(number, 0)
        return {"connected": not poller.poll(0), "pid": child.pid if child else 0}

    def open(self) -> None:
        """Connect to the keeper of an earlier server, or start one; raises OSError."""
        with self._lock:
            self._open()

    def put(self, key: str, fds: tuple[int, ...], *, patience: float = SEND_SECONDS) -> None:
        """Have descriptors held under a key, in place of what it held; raises OSError.

        `patience` are the seconds to wait for a keeper that is stopped; then BlockingIOError.
        """
        with self._lock:
            try:
                self._send(b"put " + key.encode(), fds, patience)
                return
            except BlockingIOError:
                raise
            except OSError:
                self._close()
                self._open()
                self._send(b"put " + key.encode(), fds)
        self._restarted()

    def put_copies(self, key: str, fds: tuple[int, ...]) -> None:
        """Do as `put`, and close the descriptors, which are copies made for this."""
        try:
            self.put(key, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def drop(self, key: str) -> None:
        """Have a key forgotten."""
        with self._lock, suppress(OSError):
            self._send(b"drop " + key.encode(), ())

    def get(self, key: str) -> list[int]:
        """Return copies of the descriptors under a key; they are the caller's to close.

        Empty where the keeper has nothing, or does not answer: then it is left for another.
        """
        with self._lock, suppress(OSError):
            try:
                self._send(b"get " + key.encode(), ())
                return self._answer(key)
            except OSError:
                self._close()  # a late answer would be taken for the next one's
                raise
        return []

    def _answer(self, key: str) -> list[int]:
        assert self._socket is not None
        if not _ready(self._socket, select.POLLIN, SEND_SECONDS):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        message, fds, _, _ = socket.recv_fds(self._socket, 256, holder.MAX_FDS)
        for fd in fds:
            os.set_inheritable(fd, False)
        if not message:
            raise BrokenPipeError("the keeper has ended")
        if message == key.encode():
            return fds
        for fd in fds:
            os.close(fd)
        return []

    def watchable(self) -> int:
        """Return a copy of our end's descriptor, the caller's to close; -1 without a keeper.

        It hangs up (poll(2)) when the keeper ends, whatever `put` does meanwhile.
        """
        with self._lock:
            if self._socket is None:
                return -1
            try:
                return os.dup(self._socket.fileno())
            except OSError:
                return -1

    def answers(self) -> bool:
        """Say whether it answers in time, on a connection of its own: a `put` must not wait.

        Every version of the keeper answers a `get`.
        """
        try:
            with self._connect() as asked:
                asked.send(b"get ?")
                return _ready(asked, select.POLLIN, ANSWER_SECONDS) and bool(asked.recv(256))
        except OSError:
            return False

    def replace(self, *, stopped: bool) -> Child | None:
        """Start another keeper if ours is gone or `stopped`; raises OSError.

        Returns the child that was the keeper until now, which may still run.
        """
        with self._lock:
            old = self._child
            if stopped or not self._is_connected():
                self._close()
                self._start()
                self._socket = self._connect()
            return old if old is not self._child else None

    def _is_connected(self) -> bool:
        if self._socket is None:
            return False
        poller = select.poll()
        poller.register(self._socket, 0)
        return not poller.poll(0)

    def close(self) -> None:
        """Disconnect; the keeper stays while it holds something."""
        with self._lock:
            self._close()

    def _send(self, message: bytes, fds: tuple[int, ...], patience: float = SEND_SECONDS) -> None:
        if self._socket is None:
            raise BrokenPipeError("the keeper is not connected")
        # As socket.send_fds does, without its layers: every start passes here twice.
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([message], passed)
        except BlockingIOError:
            if not _ready(self._socket, select.POLLOUT, patience):
                raise
            self._socket.sendmsg([message], passed)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> None:
        with suppress(OSError):
            self._socket = self._connect()
            return
        self._start()
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        return connected(self._path, socket.SOCK_SEQPACKET, SEND_SECONDS)

    def _start(self) -> None:
        with listening(self._path, socket.SOCK_SEQPACKET) as listener:
            argv = [sys.executable, "-I", "-S", holder.__file__]
            spawn = Spawn(
                [*argv, str(self._path), str(listener.fileno())],
                {},
                stderr=subprocess.DEVNULL,
                oom_score=None,
                new_session=True,
                pass_fds=(listener.fileno(),),
            )
            self._child = self._children.spawn(spawn)


def _ready(sock: socket.socket, events: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(sock, events)
    return bool(poller.poll(seconds * 1000))
