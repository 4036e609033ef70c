"""The workload as a whole: written down, stopped, started again."""

import asyncio
import signal
from contextlib import suppress

from sandkeeper.errors import SandkeeperError
from sandkeeper.linux.children.members import SessionMembers
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.spec import SavedProcess
from sandkeeper.processes.startup import StartupCommand
from sandkeeper.terminals.registry import Terminals

__all__ = ["Workload"]

KILL_SECONDS = 5.0


class Workload:
    """All processes, the terminals and the command of the start."""

    def __init__(
        self, processes: Processes, terminals: Terminals, startup: StartupCommand, command: str
    ) -> None:
        self._processes = processes
        self._terminals = terminals
        self._startup = startup
        self._command = command
        self._command_ended = False

    def saved(self) -> list[SavedProcess]:
        """Describe what runs, oldest first, so that it can be started again."""
        running = (one for one in self._processes.registered() if not one.is_over)
        return [SavedProcess.of(one.meta) for one in running]

    async def stop(self, seconds: float) -> list[str]:
        """Stop everything, by force what is not over after `seconds`; returns processes' names.

        What left its process's group but not its session ends as well.
        """
        running = [process for process in self._processes.registered() if not process.is_over]
        self._command_ended |= self._startup.running
        terminals = [one for one in self._terminals.registered() if not one.is_over]
        leaders = {process.leader for process in running} - {0}
        members = await asyncio.to_thread(SessionMembers.of, leaders)
        try:
            for terminal in terminals:
                terminal.close()
            await asyncio.gather(
                self._processes.stop_all(seconds),
                self._startup.end(seconds),
                *(_over(terminal.over, seconds + KILL_SECONDS) for terminal in terminals),
            )
            await members.end(signal.SIGKILL, after=0.0)
        finally:
            members.close()
        return [process.meta.name for process in running]

    async def relaunch(self, saved: list[SavedProcess]) -> list[str]:
        """Start processes again, with ids of their own; returns what went wrong, by name."""
        failures: list[str] = []
        for one in saved:
            try:
                await self._processes.start(one.spec(one.limits))
            except SandkeeperError as error:
                failures.append(f"{one.name}: {error}")
        return failures

    async def begin_again(self, saved: list[SavedProcess]) -> list[str]:
        """Start what `stop` ended, but for terminals; returns what went wrong, by name.

        Of `saved` those are left out that run: a stop may have been interrupted.
        """
        if self._command_ended:
            self._command_ended = False
            await self.begin()
        running = {
            process.meta.name for process in self._processes.registered() if not process.is_over
        }
        return await self.relaunch([one for one in saved if one.name not in running])

    async def begin(self) -> None:
        """Run the command of the start, if there is one."""
        await self._startup.run(self._command)


async def _over(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
