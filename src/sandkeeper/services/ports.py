"""Which ports the processes of the sandbox listen on.

`core.sockets` reads /proc in a worker thread; here passes are shared: whoever asks for the same
tree while a pass over it runs gets that pass's answer, so a hundred waiters cost as much as one.

Where any pid can be asked about, what is told is what the workload's user could see: who holds a
socket is told by the kernel to its own user only (proc_pid_fd(5)). What is asked about processes
that this server started is not narrowed: they may hold capabilities, which hides them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sandkeeper.core.identity import Identity, acting_for
from sandkeeper.core.procs import group_members
from sandkeeper.core.sockets import (
    Socket,
    is_loopback,
    is_routable,
    listeners,
    routable_ports,
    sockets_of,
)

__all__ = ["Ports", "Socket", "group_members", "is_loopback", "is_routable", "routable_ports"]

T = TypeVar("T")


class Ports:
    """Answers questions about sockets without blocking the event loop."""

    def __init__(self, identity: Identity | None = None) -> None:
        self._identity = identity
        self._running: dict[tuple[str, int], asyncio.Task[Any]] = {}

    async def of_tree(self, pid: int) -> list[Socket]:
        """Return the sockets of a process tree; raises OSError when /proc/net is unreadable."""
        return await self._shared(("tree", pid), lambda: asyncio.to_thread(sockets_of, pid))

    async def visible_of_tree(self, pid: int) -> list[Socket]:
        """Return what of it the workload's user may see; raises as `of_tree`."""
        return await self._shared(("visible", pid), lambda: self._seen(sockets_of, pid))

    async def listeners(self) -> list[Socket]:
        """Return every socket of the machine that waits for others.

        Pid 0 and no name where the workload's user may not see who holds it.
        """
        return await self._shared(("all", 0), lambda: self._seen(listeners))

    async def routable(self, pid: int) -> set[int]:
        """Return the ports on which the tree can be reached from outside."""
        return await self._shared(("routable", pid), lambda: asyncio.to_thread(routable_ports, pid))

    async def members(self, group: int) -> list[int]:
        """Return the living processes of a group or session."""
        return await self._shared(("group", group), lambda: asyncio.to_thread(group_members, group))

    async def _seen(self, look: Callable[..., T], *arguments: int) -> T:
        def seen() -> T:
            with acting_for(self._identity):
                return look(*arguments)

        return await asyncio.to_thread(seen)

    async def _shared(self, key: tuple[str, int], start: Callable[[], Awaitable[T]]) -> T:
        """Join the pass that runs for `key`, or start one; leaving it does not cancel it."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.ensure_future(start())
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        result: T = await asyncio.shield(task)
        return result
