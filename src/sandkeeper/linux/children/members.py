"""The members of a session: found once, signalled by pidfd, so that no stranger can be hit."""

import asyncio
import math
import os
import signal
import time
from contextlib import suppress

from sandkeeper.linux.children.tool import readable
from sandkeeper.linux.fds import lacks_descriptors
from sandkeeper.linux.procs import read_process, read_processes
from sandkeeper.linux.worker import lacks_threads

__all__ = ["SessionMembers"]

LACK_PAUSE_SECONDS = 0.1


class SessionMembers:
    """Processes that were in a session (or its leader's group) when it was looked at."""

    def __init__(self, pidfds: list[int]) -> None:
        self._pidfds = pidfds

    @classmethod
    def find(cls, leader: int, *, leader_too: bool = False) -> "SessionMembers":
        """Look through /proc once; blocks for some milliseconds."""
        return cls.of({leader}, leaders_too=leader_too)

    @classmethod
    async def found(
        cls, leader: int, *, leader_too: bool = False, patience: float = math.inf
    ) -> "SessionMembers":
        """Find them on a worker thread, again and again where we lack descriptors or threads.

        Nobody is found where that goes on for `patience` seconds.
        """
        until = time.monotonic() + patience
        while True:
            try:
                return await asyncio.to_thread(cls.find, leader, leader_too=leader_too)
            except (OSError, RuntimeError) as error:
                if not (lacks_descriptors(error) or lacks_threads(error)):
                    raise
            if time.monotonic() > until:
                return cls([])
            await asyncio.sleep(LACK_PAUSE_SECONDS)

    @classmethod
    def of(cls, leaders: set[int], *, leaders_too: bool = False) -> "SessionMembers":
        """Find those of several leaders in one look."""
        pidfds: list[int] = []
        for one in read_processes().values() if leaders else ():
            if leaders.isdisjoint((one.session, one.group)):
                continue
            if one.pid in leaders and not leaders_too:
                continue
            with suppress(OSError):
                pidfd = os.pidfd_open(one.pid)
                again = read_process(one.pid)
                if again is not None and again.started == one.started:
                    pidfds.append(pidfd)
                else:
                    os.close(pidfd)
        return cls(pidfds)

    def signal(self, number: int) -> None:
        """Signal all that still run."""
        for pidfd in self._pidfds:
            with suppress(OSError):
                signal.pidfd_send_signal(pidfd, number)

    async def end(self, number: int, *, after: float) -> None:
        """Wait for their end; signal what is left `after` seconds later."""
        with suppress(TimeoutError):
            async with asyncio.timeout(after):
                for pidfd in self._pidfds:
                    await readable(pidfd)
                return
        self.signal(number)

    def close(self) -> None:
        """Close the pidfds."""
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._pidfds = []
