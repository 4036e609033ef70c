"""What E2B's control plane sees of a fleet: for each team its own sandboxes."""

from time import time

from sandkeeper.api.control.source import (
    PAUSED,
    RUNNING,
    Sandbox,
    SandboxOrder,
    SandboxPage,
    Wanted,
)
from sandkeeper.errors import Conflict, NotFound
from sandkeeper.fleet.claims import page_of
from sandkeeper.fleet.keys import Team
from sandkeeper.fleet.objects import ClaimRecord
from sandkeeper.fleet.source import Fleet
from sandkeeper.observability.machine_use import Use

__all__ = ["TeamSource"]

KEPT_SECONDS = 366 * 86400
"""Said of what is paused, which nothing ends."""


class TeamSource:
    """A `SandboxSource`: the sandboxes of one team."""

    def __init__(self, fleet: Fleet, team: Team) -> None:
        self._fleet = fleet
        self._team = team

    async def create(self, order: SandboxOrder) -> Sandbox:
        """Return a sandbox for an order."""
        return self._sandbox(await self._fleet.create(self._team, order))

    async def page(self, wanted: Wanted) -> SandboxPage:
        """Return some of the team's."""
        found, after = await page_of(self._fleet.claims, self._team.name, wanted)
        return SandboxPage([self._sandbox(one) for one in found], after)

    async def get(self, name: str) -> Sandbox:
        """Return one."""
        return self._sandbox(await self._known(name))

    async def end(self, name: str) -> None:
        """End it."""
        await self._fleet.end(await self._known(name))

    async def keep(self, name: str, seconds: float, *, shorten: bool = True) -> Sandbox:
        """Have it end later, or sooner."""
        self._team.check_seconds(seconds)
        record = await self._known(name)
        if record.state == RUNNING and (shorten or time() + seconds > record.ends_at):
            record = await self._fleet.keep(record, seconds)
        return self._sandbox(record)

    async def pause(self, name: str) -> None:
        """Suspend it."""
        record = await self._known(name)
        if record.state == PAUSED:
            raise Conflict(f"sandbox {name} is paused already")
        await self._fleet.pause(record)

    async def resume(self, name: str, seconds: float) -> None:
        """Have it run again, for so long; raises BadInput before anything, for too long a time."""
        self._team.check_seconds(seconds)
        record = await self._known(name)
        if record.state == PAUSED:
            await self._fleet.resume(record)
            await self._fleet.mark_running(record, seconds)

    async def use(self, name: str) -> Use:
        """Return how much it uses."""
        return await self._fleet.pods.use(await self._known(name))

    async def _known(self, name: str) -> ClaimRecord:
        found = await self._fleet.find(name)
        if found is None or found.team != self._team.name or not found.is_there:
            raise NotFound(f"sandbox {name[:64]!r} was not found")
        return found

    def _sandbox(self, record: ClaimRecord) -> Sandbox:
        size = self._fleet.pools.size(record.template)
        return Sandbox(
            id=record.id,
            template=record.template,
            state=record.state,
            started_at=record.started_at,
            ends_at=record.ends_at or record.started_at + KEPT_SECONDS,
            metadata=record.metadata,
            cpu_count=size.cpu_count,
            memory=size.memory,
            disk=size.disk,
            token=self._fleet.token_of(record.id),
            domain=self._fleet.settings.domain,
        )
