"""Carries bytes between pairs of TCP sockets without copying them: one thread for all pairs.

Way of a byte: socket → pipe → socket by splice(2); nothing of it enters this process. A direction
borrows a pipe from a small pool only while bytes are in it, so a thousand quiet pairs cost two
registrations each.

Flow:   a direction reads only when its pipe is empty and writes only when it is not, so a slow
        receiver stops its sender and nobody else.
Ends:   end of file on one side becomes shutdown(SHUT_WR) on the other once all bytes are through;
        the other direction goes on (half-close). An error on either socket ends both directions,
        and where that is wanted closing the other resets it, too: nobody takes it for an end.
        So does the kernel then when this whole process is killed.
Owner:  the caller owns the sockets and closes them when the future is done.
"""

import asyncio
import os
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from fcntl import F_SETPIPE_SZ, fcntl

import msgspec

from sandkeeper.linux.worker import Worker
from sandkeeper.network.pacing import unpace_local

__all__ = ["Part", "Relay", "duplicate", "is_reset_when_closed", "reset_when_closed"]

PIPE_BYTES = 1 << 20
POOLED_PIPES = 32
ROUNDS = 4
"""How often a direction may go round before the next one gets its turn."""

Pipe = tuple[int, int]


class Part(msgspec.Struct):
    """A counted part of a stream: `taken` from its source so far, `moved` to its target."""

    count: int
    taken: int = 0
    moved: int = 0

    @property
    def left(self) -> int:
        """What is still at the source, or behind it."""
        return self.count - self.taken


class _Pipes:
    """Empty pipes, ready to be borrowed."""

    def __init__(self) -> None:
        self._free: list[Pipe] = []

    def take(self) -> Pipe:
        if self._free:
            return self._free.pop()
        pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with suppress(OSError):  # a user without privilege has a quota; the default size works too
            fcntl(pipe[0], F_SETPIPE_SZ, PIPE_BYTES)
        return pipe

    def give(self, pipe: Pipe) -> None:
        if len(self._free) < POOLED_PIPES:
            self._free.append(pipe)
        else:
            self.drop(pipe)

    def drop(self, pipe: Pipe) -> None:
        for fd in pipe:
            os.close(fd)

    def close(self) -> None:
        while self._free:
            self.drop(self._free.pop())


class _Direction:
    """One way of a pair; with a `part` it ends with that, or early, and leaves the target open."""

    __slots__ = (
        *("_is_short", "_part", "_pipe", "_pipes", "_source", "_target"),
        *("done", "full", "moved"),
    )

    def __init__(
        self,
        source: socket.socket,
        target: socket.socket,
        pipes: _Pipes,
        part: Part | None = None,
    ) -> None:
        self._part = part
        self._source = source
        self._target = target
        self._pipes = pipes
        self._pipe: Pipe | None = None
        self._is_short = False
        self.full = 0
        self.done = False
        self.moved = 0

    def pump(self) -> None:
        """Move what can be moved now; raises OSError when a side is broken.

        A read that was not as long as it might have been took all there was: the kernel tells of
        more, and one that finds nothing costs as much as one that does.
        """
        for _ in range(ROUNDS):
            if self.done or not (self._fill() and self._drain()):
                return
            if self._is_short:
                self._release()
                return

    def _fill(self) -> bool:
        """Read into the pipe if it is empty; False when there is nothing to write."""
        if self.full:
            return True
        wanted = PIPE_BYTES if self._part is None else min(PIPE_BYTES, self._part.left)
        pipe = self._pipe or self._pipes.take()
        self._pipe = pipe
        try:
            count = wanted and os.splice(
                self._source.fileno(), pipe[1], wanted, flags=os.SPLICE_F_NONBLOCK
            )
        except BlockingIOError:
            self._release()
            return False
        if count == 0:
            self._release()
            self.done = True
            if self._part is None:
                with suppress(OSError):  # the target may be gone already
                    self._target.shutdown(socket.SHUT_WR)
            return False
        self.full = count
        self._is_short = count < wanted
        if self._part is not None:
            self._part.taken += count
        return True

    def _drain(self) -> bool:
        """Write out of the pipe; False when the target takes no more for now."""
        assert self._pipe is not None
        try:
            count = os.splice(
                self._pipe[0], self._target.fileno(), self.full, flags=os.SPLICE_F_NONBLOCK
            )
        except BlockingIOError:
            return False
        self.full -= count
        self.moved += count
        if self._part is not None:
            self._part.moved += count
        return not self.full

    def _release(self) -> None:
        if self._pipe is not None:
            self._pipes.give(self._pipe)
            self._pipe = None

    def abandon(self) -> None:
        """Give up; a pipe with bytes in it cannot be lent again."""
        self.done = True
        if self._pipe is not None:
            (self._pipes.drop if self.full else self._pipes.give)(self._pipe)
            self._pipe = None


class _Pair:
    """Two sockets and their directions; `forward` is the one from left to right."""

    __slots__ = ("backward", "forward", "future", "left", "loop", "resets", "right", "wanted")

    def __init__(
        self,
        left: socket.socket,
        right: socket.socket,
        pipes: _Pipes,
        *,
        both: bool,
        part: Part | None = None,
    ) -> None:
        self.left = left
        self.right = right
        self.forward = _Direction(left, right, pipes)
        self.forward.done = not both
        self.backward = _Direction(right, left, pipes, part)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[int] = self.loop.create_future()
        self.resets = False
        self.wanted: dict[int, int] = {}

    def wants(self) -> dict[int, int]:
        """Return the events each socket is waited for; a socket without any is left out."""
        events = {self.left.fileno(): 0, self.right.fileno(): 0}
        for direction, source, target in (
            (self.forward, self.left, self.right),
            (self.backward, self.right, self.left),
        ):
            if direction.done:
                continue
            if direction.full:
                events[target.fileno()] |= select.EPOLLOUT
            else:
                events[source.fileno()] |= select.EPOLLIN
        return {fd: mask for fd, mask in events.items() if mask}

    def waiting(self, fd: int) -> "tuple[_Direction, ...]":
        """Return the directions that wait for a socket: to be read from, to be written to."""
        near, far = self.forward, self.backward
        if fd != self.left.fileno():
            near, far = far, near
        if near.full:
            return (far,) if far.full else ()
        return (near, far) if far.full else (near,)

    @property
    def moved(self) -> int:
        return self.forward.moved + self.backward.moved

    @property
    def done(self) -> bool:
        return self.forward.done and self.backward.done


class Relay(Worker):
    """The thread and its pairs; started by the first pair."""

    def __init__(self, *, failed: Callable[[str], None]) -> None:
        """`failed` is called on the thread when a pair or an order had to be given up."""
        super().__init__("relay", failed=failed)
        self._pipes = _Pipes()
        self._pairs: dict[int, _Pair] = {}

    async def join(
        self,
        left: socket.socket,
        right: socket.socket,
        *,
        both: bool = True,
        silence: float | None = None,
        resets: bool = False,
    ) -> int:
        """Carry bytes until both directions have ended; returns how many were carried.

        With `both=False` only those from right to left are; `silence` ends a pair that moved
        nothing for so many seconds. With `resets` closing a socket is a reset (`reset_when_closed`)
        unless what was for it has come to its end of file. The sockets must not block and stay
        the caller's; cancelling stops the carrying before this returns.
        """
        pair = _Pair(left, right, self._pipes, both=both)
        pair.resets = resets
        if resets:
            for sock in (left, right):
                reset_when_closed(sock)
        await self._carried(pair, silence)
        return pair.future.result()

    async def carry(
        self,
        source: socket.socket,
        target: socket.socket,
        part: Part,
        *,
        silence: float | None = None,
    ) -> bool:
        """Carry a part one way, to its end or that of either side; False if silence ended it.

        Otherwise as `join`, but nothing is shut down: both connections go on.
        """
        pair = _Pair(target, source, self._pipes, both=False, part=part)
        return await self._carried(pair, silence)

    async def _carried(self, pair: _Pair, silence: float | None) -> bool:
        if not self.alive:
            self.start()
        for sock in (pair.left, pair.right):
            unpace_local(sock)
        self._order(lambda: self._take(pair))
        try:
            before = -1
            while not pair.future.done() and pair.moved != before:
                before = pair.moved
                await asyncio.wait([pair.future], timeout=silence)
            return pair.future.done()
        finally:
            # The thread must be done with the descriptors before the caller closes them.
            if not pair.future.done():
                self._order(lambda: self._drop(pair))
                await asyncio.wait([pair.future])

    def stop(self) -> None:
        """Stop the thread; pairs that are left end as they are."""
        super().stop()
        self._pipes.close()

    def _ready(self, fd: int) -> None:
        if fd in self._pairs:  # the pair may have ended in this same batch
            pair = self._pairs[fd]
            self._turn(pair, pair.waiting(fd))

    def _give_up(self, fd: int) -> None:
        if fd in self._pairs:
            self._end_pair(self._pairs[fd])

    def _end(self) -> None:
        super()._end()
        for pair in set(self._pairs.values()):
            self._end_pair(pair)

    def _take(self, pair: _Pair) -> None:
        if not self._running:
            self._end_pair(pair)
            return
        self._pairs[pair.left.fileno()] = self._pairs[pair.right.fileno()] = pair
        self._turn(pair, (pair.forward, pair.backward))

    def _drop(self, pair: _Pair) -> None:
        if not pair.done or self._pairs.get(pair.left.fileno()) is pair:
            self._end_pair(pair)

    def _turn(self, pair: _Pair, directions: tuple[_Direction, ...]) -> None:
        try:
            for direction in directions:
                direction.pump()
            if not pair.done:
                self._arm(pair)
                return
        except OSError:
            pass  # reset by either side: the pair is over, and its owner closes both sockets
        self._end_pair(pair)

    def _arm(self, pair: _Pair) -> None:
        """Ask epoll for exactly what is wanted: a socket nobody waits for must not be reported."""
        wanted = pair.wants()
        if wanted == pair.wanted:
            return
        for fd in pair.wanted.keys() - wanted.keys():
            self._poller.unregister(fd)
        for fd, mask in wanted.items():
            if fd not in pair.wanted:
                self._poller.register(fd, mask)
            elif pair.wanted[fd] != mask:
                self._poller.modify(fd, mask)
        pair.wanted = wanted

    def _end_pair(self, pair: _Pair) -> None:
        for fd in pair.wanted:
            with suppress(OSError):
                self._poller.unregister(fd)
        pair.wanted = {}
        for sock, to_it in ((pair.left, pair.backward), (pair.right, pair.forward)):
            self._pairs.pop(sock.fileno(), None)
            if pair.resets and to_it.done:  # a reset would drop what it has not taken yet
                reset_when_closed(sock, wanted=False)
        pair.forward.abandon()
        pair.backward.abandon()
        with suppress(RuntimeError):  # the loop may have been closed under us
            pair.loop.call_soon_threadsafe(_settle, pair.future, pair.moved)


def _settle(future: asyncio.Future[int], value: int) -> None:
    if not future.done():
        future.set_result(value)


def reset_when_closed(sock: socket.socket, *, wanted: bool = True) -> None:
    """Have the other end see a closing as a failure, or as an end again (SO_LINGER, socket(7))."""
    with suppress(OSError):  # it is closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", wanted, 0))


def is_reset_when_closed(sock: socket.socket) -> bool:
    """Say whether that is so; raises OSError."""
    return bool(struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0])


def duplicate(transport: asyncio.BaseTransport) -> socket.socket:
    """Return a socket of our own for a transport's connection: it cannot be closed under us."""
    return socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
