"""The command given at start (`-c`): run once, not tracked, its output on our standard error."""

import asyncio
import os
import signal
from contextlib import suppress

from msgspec.structs import replace

from sandkeeper.linux.children.child import Child
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.tool import readable
from sandkeeper.linux.identity import Identity
from sandkeeper.log.lines import Log
from sandkeeper.processes.launch import in_shell
from sandkeeper.settings import Environment

__all__ = ["StartupCommand"]


class StartupCommand:
    """Starts the command through the shell in `/` and reaps it when it ends."""

    def __init__(
        self,
        children: Children,
        environment: Environment,
        log: Log,
        identity: Identity | None,
    ) -> None:
        self._children = children
        self._environment = environment
        self._log = log
        self._task: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self.identity = identity

    async def run(self, command: str) -> None:
        """Start it; a failure is logged, the server goes on. An empty command does nothing."""
        if not command:
            return
        made = in_shell(command, {}, self._environment, self.identity)
        stderr = os.dup(2)
        try:
            child = await self._children.start(replace(made, cwd="/", stdout=stderr, stderr=stderr))
        except (OSError, ValueError) as error:
            self._log.error(f"cannot run the startup command: {error}")
            return
        finally:
            os.close(stderr)
        self._child = child
        self._task = asyncio.ensure_future(self._reap(child))

    async def _reap(self, child: Child) -> None:
        await readable(child.pidfd.number)
        status = child.reap()
        if status.code != 0:
            how = f"signal {status.signal}" if status.signal else f"exit code {status.code}"
            self._log.warning(f"the startup command ended with {how}")

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._task is not None and not self._task.done()

    async def end(self, seconds: float) -> None:
        """Stop it if it runs: SIGTERM to its group, SIGKILL after `seconds`."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._child is None or self._task is None or self._task.done():
                return
            with suppress(ProcessLookupError):
                self._child.signal_group(number)
            await asyncio.wait([self._task], timeout=seconds)

    def close(self) -> None:
        """Stop waiting for it; it goes on."""
        if self._task is not None:
            self._task.cancel()
