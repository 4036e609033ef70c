"""The renderer as the server sees it: started for a backlog, let go when there is none.

Making lines of a flood takes an interpreter for itself, and while it is the server's, everybody
else's lines and answers wait for it. A process of its own has its own. What it gets is whole: a
state and the bytes behind it, for lines and the next state. So the law of `exported` is the
server's alone: whatever becomes of the renderer, the block is made once more, in here.
"""

import asyncio
import marshal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

from sandkeeper.linux.children.child import Child
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.observability import renderer_main
from sandkeeper.observability.renderer_main import LENGTH, LENGTHS
from sandkeeper.observability.rendering import Piece, State

__all__ = ["Renderer"]

ANSWER_SECONDS = 5.0
"""One that takes longer is stopped, or has no processor for itself: then nothing is gained."""
IDLE_SECONDS = 5.0
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)}
"""Blocks of lines come and go: their memory need not each time (mallopt(3))."""
AGAIN_SECONDS = 30.0
"""So long nobody tries after one that did not answer."""


class Renderer:
    """At most one such process. `wanted` and `render` are for any thread, the rest the loop's.

    `start` begins, `close` ends.
    """

    def __init__(self, children: Children) -> None:
        self._children = children
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._used = 0.0
        self._not_before = 0.0
        self._asked = False
        self._looking: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Be ready to start one."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Let it go, and start none any more."""
        self._loop = None
        if self._looking is not None:
            self._looking.cancel()
        self._let_go()

    @property
    def is_ready(self) -> bool:
        """Whether there is one to ask."""
        return self._socket is not None

    def wanted(self) -> None:
        """Have one started soon, if there is none and one may be."""
        loop = self._loop
        if loop is None or self._asked or self.is_ready or monotonic() < self._not_before:
            return
        self._asked = True
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            loop.call_soon_threadsafe(self._begin)

    def render(
        self, state: State, pieces: Sequence[Piece]
    ) -> tuple[bytes | bytearray, State] | None:
        """Return what `rendering.render` does; None where it cannot be had from there."""
        with self._lock:
            sock = self._socket
            if sock is None:
                return None
            self._used = monotonic()
            try:
                order = marshal.dumps((state, list(pieces)))
                sock.sendall(LENGTH.pack(len(order)) + order)
                behind, size = LENGTHS.unpack(_received(sock, LENGTHS.size))
                after: State = marshal.loads(_received(sock, behind))
                lines = _received(sock, size)
            except (OSError, EOFError, struct.error):
                self._not_before = monotonic() + AGAIN_SECONDS
                self._socket = None
                sock.close()
                return None
            return lines, after

    def _begin(self) -> None:
        self._asked = False
        if self._loop is None or self.is_ready:
            return
        ours, its = socket.socketpair()
        with its:
            argv = [sys.executable, "-I", "-S", renderer_main.__file__, str(its.fileno())]
            fds = (its.fileno(),)
            spawn = Spawn(
                argv, ALLOCATION, stderr=subprocess.DEVNULL, new_session=True, pass_fds=fds
            )
            try:
                child = self._children.spawn(spawn)
            except (OSError, ValueError):
                ours.close()
                self._not_before = monotonic() + AGAIN_SECONDS
                return
        self._loop.add_reader(child.pidfd.number, self._reap, child)
        ours.settimeout(ANSWER_SECONDS)
        self._used = monotonic()
        self._socket = ours
        self._look()

    def _reap(self, child: Child) -> None:
        asyncio.get_running_loop().remove_reader(child.pidfd.number)
        child.reap()

    def _look(self) -> None:
        """Let it go once nobody has asked it for a while."""
        if self._loop is None or not self.is_ready:
            return
        if monotonic() - self._used > IDLE_SECONDS:
            self._let_go()
        if self.is_ready:
            self._looking = self._loop.call_later(IDLE_SECONDS, self._look)

    def _let_go(self) -> None:
        """Close its socket, at which it ends; one that is being asked is left for the next look."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            sock, self._socket = self._socket, None
            if sock is not None:
                sock.close()
        finally:
            self._lock.release()


def _received(sock: socket.socket, size: int) -> bytearray:
    """Receive so many bytes; raises EOFError when the other end is closed before."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        got = sock.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return buffer
