"""Which ports the processes of the sandbox listen on.

`network.sockets` reads /proc in a worker thread; here passes are shared. Whoever asks for the same
tree while a pass over it runs gets that pass's answer. Who waits for ports is served by one pass
for all of them, ten times a second at most and for a quarter of the time at most.

Where any pid can be asked about, what is told is what the workload's user could see: who holds a
socket is told by the kernel to its own user only (proc_pid_fd(5)). What is asked about processes
that this server started is not narrowed: they may hold capabilities, which hides them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from sandkeeper.linux.identity import Identity, acting_for
from sandkeeper.linux.procs import group_members
from sandkeeper.network.sockets import (
    Socket,
    TreePorts,
    is_routable,
    listeners,
    listening_trees,
    sockets_of,
)

__all__ = ["Ports", "Socket", "group_members", "is_routable"]

T = TypeVar("T")

LOOK_SECONDS = 0.1
TOLD_AT_ONCE = 64
FIRST = asyncio.FIRST_COMPLETED


@dataclass(eq=False, slots=True)
class _Waiter:
    """Who waits for ports of one tree; `leader` says whose, for a process may be restarted."""

    leader: Callable[[], int]
    wanted: frozenset[int]
    loopback: bool
    open: asyncio.Future[None]
    seen: TreePorts | None = None

    def met_by(self, found: TreePorts | None) -> bool:
        if found is None or found == self.seen:
            return False
        self.seen = found
        return self.wanted <= (found.listening if self.loopback else found.routable)


class Ports:
    """Answers questions about sockets without blocking the event loop."""

    def __init__(self, identity: Identity | None = None) -> None:
        self._identity = identity
        self._running: dict[tuple[str, int], asyncio.Task[Any]] = {}
        self._waiters: set[_Waiter] = set()
        self._passing: asyncio.Task[None] | None = None
        self._next_pass: asyncio.Future[None] | None = None
        self._hurry = asyncio.Event()

    async def of_tree(self, pid: int) -> list[Socket]:
        """Return the sockets of a process tree that the workload's user may see.

        Raises OSError when the kernel does not list them.
        """
        return await self._shared(("tree", pid), lambda: self._seen(sockets_of, pid))

    async def listeners(self) -> list[Socket]:
        """Return every socket of the machine that waits for others.

        Pid 0 and no name where the workload's user may not see who holds it.
        """
        return await self._shared(("all", 0), lambda: self._seen(listeners))

    async def members(self, group: int) -> list[int]:
        """Return the living processes of a group or session."""
        return await self._shared(("group", group), lambda: asyncio.to_thread(group_members, group))

    async def of_trees(self, leaders: Iterable[int]) -> dict[int, TreePorts | None]:
        """Return what each tree listens on, in one pass; raises OSError as `of_tree` does."""
        return await asyncio.to_thread(listening_trees, set(leaders))

    async def _seen(self, look: Callable[..., T], *arguments: int) -> T:
        def seen() -> T:
            with acting_for(self._identity):
                return look(*arguments)

        return await asyncio.to_thread(seen)

    async def opened(
        self,
        leader: Callable[[], int],
        wanted: Iterable[int],
        *,
        loopback: bool = False,
        gone: "asyncio.Future[Any] | None" = None,
    ) -> bool:
        """Wait until the tree of `leader()` listens on all ports, reachable for others.

        With `loopback` those count too that only this machine reaches. Once `gone` is done it is
        looked at once more; False when they were not open then. Raises OSError when the sockets
        cannot be listed.
        """
        waiter = _Waiter(
            leader, frozenset(wanted), loopback, asyncio.get_running_loop().create_future()
        )
        self._waiters.add(waiter)
        try:
            self._look_soon()
            await asyncio.wait({waiter.open, *([gone] if gone else [])}, return_when=FIRST)
            if not waiter.open.done():
                await asyncio.wait({waiter.open, self.passed()}, return_when=FIRST)
            if waiter.open.done():
                waiter.open.result()
            return waiter.open.done()
        finally:
            self._waiters.discard(waiter)
            if waiter.open.done() and not waiter.open.cancelled():
                waiter.open.exception()  # retrieved, also when the wait itself was cancelled

    def passed(self) -> "asyncio.Future[None]":
        """Return what is done when a pass has been made that begins after now."""
        if self._next_pass is None:
            self._next_pass = asyncio.get_running_loop().create_future()
        self._look_soon()
        return self._next_pass

    def _look_soon(self) -> None:
        self._hurry.set()
        if self._passing is None or self._passing.done():
            self._passing = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiters or self._next_pass is not None:
            self._hurry.clear()
            began = loop.time()
            asked, self._next_pass = self._next_pass, None
            await self._look_once()
            if asked is not None and not asked.done():
                asked.set_result(None)
            took = loop.time() - began
            # Who has just come is served soon, who has been here for long when it is time.
            await self._rest(3 * took, max(LOOK_SECONDS, 3 * took))

    async def _rest(self, least: float, most: float) -> None:
        await asyncio.sleep(least)
        try:
            async with asyncio.timeout(most - least):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def _look_once(self) -> None:
        waiters = list(self._waiters)
        leaders = {waiter: waiter.leader() for waiter in waiters}
        error: OSError | None = None
        found: dict[int, TreePorts | None] = {}
        try:
            found = await asyncio.to_thread(listening_trees, set(leaders.values()) - {0})
        except OSError as caught:
            error = caught
        told = 0
        for waiter, leader in leaders.items():
            if waiter.open.done():
                continue
            if error is not None:
                waiter.open.set_exception(error)
            elif waiter.met_by(found.get(leader)):
                waiter.open.set_result(None)
            else:
                continue
            told += 1
            if told % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _shared(self, key: tuple[str, int], start: Callable[[], Awaitable[T]]) -> T:
        """Join the pass that runs for `key`, or start one; leaving it does not cancel it."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.ensure_future(start())
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        result: T = await asyncio.shield(task)
        return result
