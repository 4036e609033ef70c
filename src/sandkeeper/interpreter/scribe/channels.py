"""The sockets of a kernel, read by the event loop: a message at a time, none kept.

ZeroMQ's descriptor is readable when its state has changed, not while there is something to read
(`ZMQ_FD`, zmq_getsockopt(3)): so everything is taken until nothing is left, also after a send.
"""

import asyncio
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq

from sandkeeper.interpreter.scribe.engine import EngineFailed

__all__ = ["KernelChannel", "opened_socket"]

AT_ONCE, AT_ONCE_BYTES = 64, 4 << 20
"""So much of one channel is taken before others have their turn."""
RECONNECT_MS, RECONNECT_MOST_MS = 10, 1000
MESSAGE_BYTES = 512 << 20
MESSAGES = 1000
"""So many wait in our process; a kernel that can be made to waits then."""

_context: "zmq.Context[Any] | None" = None


def _zmq() -> "zmq.Context[Any]":
    global _context
    if _context is None:
        _context = zmq.Context()
        _context.set(zmq.MAX_SOCKETS, 16_384)
    return _context


def opened_socket(path: str, uid: int) -> int:
    """Return a descriptor (O_PATH) of a socket that a user has made; raises OSError, EngineFailed.

    A name may lead elsewhere a moment later, and we may connect to sockets that the workload may
    not: what is connected to is what was looked at.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    info = os.fstat(fd)
    if stat.S_ISSOCK(info.st_mode) and info.st_uid == uid:
        return fd
    os.close(fd)
    raise EngineFailed("what the kernel listens on is not its own socket")


class KernelChannel:
    """A socket of `kind` connected to another; `take` gets each message as frames."""

    def __init__(
        self,
        kind: int,
        opened: int | str,
        identity: bytes,
        take: Callable[[list[bytes]], None],
        *,
        lost: Callable[[], None] | None = None,
        most: int = MESSAGE_BYTES,
    ) -> None:
        """`opened` is a Unix socket and becomes ours, or the address of a TCP socket.

        `lost` is told when the connection breaks.

        So it does for a message of more than `most` bytes, which would have to be held whole.
        """
        self._loop = asyncio.get_running_loop()
        self._opened = opened if isinstance(opened, int) else -1
        self._is_open = True
        self._take = take
        self._due: asyncio.Handle | None = None
        self.seen = self._seen_before = 0
        self._lost = lost
        self._socket = made = _zmq().socket(kind)
        made.linger = 0
        made.set(zmq.RECONNECT_IVL, RECONNECT_MS)  # it may not listen yet
        made.set(zmq.RECONNECT_IVL_MAX, RECONNECT_MOST_MS)
        made.set(zmq.RCVHWM, MESSAGES)
        made.set(zmq.SNDHWM, 0)
        made.set(zmq.IDENTITY, identity)
        made.set(zmq.MAXMSGSIZE, most)
        if kind == zmq.SUB:
            made.set(zmq.SUBSCRIBE, b"")
        self._watching = made.get_monitor_socket(zmq.EVENT_DISCONNECTED) if lost else None
        if self._watching is not None and lost is not None:
            self._loop.add_reader(self._watching.get(zmq.FD), self._broken, lost)
            self._loop.call_soon(self._broken, lost)
        by_name = isinstance(opened, str)
        self._endpoint = f"tcp://{opened}" if by_name else f"ipc:///proc/self/fd/{opened}"
        made.connect(self._endpoint)
        self._fd = made.get(zmq.FD)
        self._loop.add_reader(self._fd, self._ready)
        self._soon()

    def send(self, frames: list[bytes]) -> None:
        """Send a message; what is sent waits here if the kernel does not read."""
        self._socket.send_multipart(frames, zmq.NOBLOCK)
        self._soon()

    def look(self) -> None:
        """Note how much has come, for `relieve`."""
        self._seen_before = self.seen

    def relieve(self) -> None:
        """Let go of what has come of a message that is not whole, if none has since `look`.

        ZeroMQ bounds the frames of a message in size, not in number.
        """
        if self._is_open and self.seen == self._seen_before:
            self._connect_again()
            if self._lost is not None:
                self._lost()

    def close(self) -> None:
        """Close it; a second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._fd)
        if self._due is not None:
            self._due.cancel()
        if self._watching is not None:
            self._loop.remove_reader(self._watching.get(zmq.FD))
            self._socket.disable_monitor()
            self._watching.close()
        self._socket.close()
        if self._opened >= 0:
            os.close(self._opened)

    def _broken(self, lost: Callable[[], None]) -> None:
        if not self._has_broken():
            return
        self._ready()  # what came before
        if self._is_open:
            # ZeroMQ comes again after a peer that went away, not after what it could not read.
            self._connect_again()
            lost()

    def _connect_again(self) -> None:
        with suppress(zmq.ZMQError):
            self._socket.disconnect(self._endpoint)
        self._socket.connect(self._endpoint)

    def _has_broken(self) -> bool:
        broken = False
        with suppress(zmq.Again):
            while self._watching is not None and self._is_open:
                self._watching.recv_multipart(zmq.NOBLOCK)
                broken = True
        return broken

    def _soon(self) -> None:
        if self._due is None:
            self._due = self._loop.call_soon(self._ready)

    def _ready(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        size = 0
        for _ in range(AT_ONCE):
            if not self._is_open:
                return
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.seen += 1
            size += sum(map(len, frames))
            with suppress(Exception):  # one message that makes no sense costs itself alone
                self._take(frames)
            if size > AT_ONCE_BYTES:
                break
        self._soon()
