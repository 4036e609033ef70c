"""Which ports the processes of the sandbox listen on.

`core.sockets` reads /proc in a worker thread; here passes are shared: whoever asks for the same
tree while a pass over it runs gets that pass's answer, so a hundred waiters cost as much as one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

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

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], asyncio.Task[Any]] = {}

    async def of_tree(self, pid: int) -> list[Socket]:
        """Return the sockets of a process tree; raises OSError when /proc/net is unreadable."""
        return await self._shared(("tree", pid), lambda: asyncio.to_thread(sockets_of, pid))

    async def listeners(self) -> list[Socket]:
        """Return every socket of the machine that waits for others."""
        return await self._shared(("all", 0), lambda: asyncio.to_thread(listeners))

    async def routable(self, pid: int) -> set[int]:
        """Return the ports on which the tree can be reached from outside."""
        return await self._shared(("routable", pid), lambda: asyncio.to_thread(routable_ports, pid))

    async def members(self, group: int) -> list[int]:
        """Return the living processes of a group or session."""
        return await self._shared(("group", group), lambda: asyncio.to_thread(group_members, group))

    async def _shared(self, key: tuple[str, int], start: Callable[[], Awaitable[T]]) -> T:
        """Join the pass that runs for `key`, or start one; leaving it does not cancel it."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.ensure_future(start())
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        result: T = await asyncio.shield(task)
        return result
