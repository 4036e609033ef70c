"""Limits of processes: their groups are made before a start, found again later, removed when empty.

A process without limits never comes here. What a run is held by stands in its record (`groups`,
`enforced`), so that the next server finds it; groups that no record names are an earlier server's
leftovers and go as soon as they are empty.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from sandkeeper.errors import StartFailed
from sandkeeper.linux.cgroups import Cgroups, Confinement
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.users import Users
from sandkeeper.log.lines import Log
from sandkeeper.processes.record import RunMeta

__all__ = ["Confined", "Confinements"]

T = TypeVar("T")


class Confinements:
    """Makes and removes groups; `prepare` and `sweep` block, the rest does not."""

    def __init__(self, state: Path, users: Users, log: Log) -> None:
        # Servers with other state folders may share the parent group.
        self._prefix = hashlib.sha256(os.fsencode(state)).hexdigest()[:12] + "."
        self._users = users
        self._log = log
        self._threads = ThreadPoolExecutor(2, "groups")
        self._leaving: dict[str, Confinement] = {}
        self.cgroups = Cgroups({})

    def prepare(self) -> None:
        """Find out what is writable, before the first child: version 2 wants us to be alone."""
        self.cgroups = Cgroups.detect()

    def of(self, meta: RunMeta) -> "Confined | None":
        """Return what holds a run's processes; None without limits."""
        return Confined(self, meta) if meta.limits is not None else None

    def create(self, meta: RunMeta) -> Confinement:
        """Make the groups of a run, or set the limits of those it has; blocks, raises OSError."""
        assert meta.limits is not None
        identity = self._users.named(meta.user)
        uid = os.geteuid() if identity is None else identity.uid
        return self.cgroups.create(self._prefix + meta.id, meta.limits, uid=uid)

    def renew(self, meta: RunMeta) -> None:
        """Set the limits of a run that goes on once more; blocks.

        What starts this server may have taken them away to be able to: systemd cannot put a process
        into a group that hands controllers down (packaging/systemd/sandkeeper-groups.service).
        """
        if not meta.groups or meta.limits is None:
            return
        try:
            groups = self.create(meta)
        except OSError as error:
            self._log.warning(f"limits of run {meta.id} cannot be set again: {error.strerror}")
        else:
            meta.oom_kills = min(meta.oom_kills, groups.oom_kills())  # it may count anew

    def inherit(self, known: set[str]) -> None:
        """Take over the groups of runs that nobody knows any more; removed when they are empty."""
        for name in self.cgroups.names():
            run = name.removeprefix(self._prefix)
            if name.startswith(self._prefix) and run not in known:
                found = self.cgroups.find(name)
                if found is not None:
                    self._leaving[run] = found
        self.sweep_soon()

    def leave(self, run: str, groups: Confinement) -> None:
        """Remove groups now, or when the last survivor in them has ended."""
        self._leaving[run] = groups
        self.sweep_soon()

    def sweep_soon(self) -> None:
        """Try again to remove what is no longer needed."""
        if self._leaving:
            self._submit(self._sweep)

    async def run(self, call: Callable[[], T]) -> T:
        """Have blocking work done on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _submit(self, call: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the server has stopped
            self._threads.submit(call)

    def close(self) -> None:
        """Wait for what is being done."""
        self._threads.shutdown()

    def kill(self, run: str, groups: Confinement) -> None:
        """Kill every process in a run's groups; on a thread."""

        def kill() -> None:
            if not groups.kill():
                self._log.warning(f"some processes of run {run} could not be killed")
            self._sweep()

        self._submit(kill)

    def _sweep(self) -> None:
        for run, groups in list(self._leaving.items()):
            if groups.remove():
                self._leaving.pop(run, None)


class Confined:
    """What holds the processes of one run, over all its attempts."""

    def __init__(self, owner: Confinements, meta: RunMeta) -> None:
        self._owner = owner
        self._meta = meta
        folders = {name: Path(folder) for name, folder in meta.groups.items()}
        self._groups = Confinement(folders, dict(meta.enforced))

    async def enter(self, spawn: Spawn) -> Spawn:
        """Make ready for an attempt; returns how its child is started within, then `entered`.

        Raises StartFailed when a limit cannot be set.
        """
        try:
            self._groups, entrances = await self._owner.run(self._make)
        except OSError as error:
            raise StartFailed(f"its limits cannot be set: {error.strerror}") from None
        meta = self._meta
        meta.groups = {name: str(folder) for name, folder in self._groups.folders.items()}
        meta.enforced = dict(self._groups.enforced)
        meta.oom_kills = self._groups.oom_kills()
        return replace(spawn, cgroups=entrances, rlimits=dict(self._groups.rlimits))

    def _make(self) -> tuple[Confinement, tuple[int, ...]]:
        made = self._owner.create(self._meta)
        try:
            return made, made.entrances()
        except OSError:
            made.remove()
            raise

    def entered(self) -> None:
        """The child is born, or could not be: it needs its way in no more."""
        self._groups.close()

    def ran_out_of_memory(self) -> bool:
        """Say whether a member was killed for memory in this attempt."""
        return self._groups.oom_kills() > self._meta.oom_kills

    def kill(self) -> None:
        """Kill every member, also those that left group and session; returns at once."""
        if self._groups.folders:
            self._owner.kill(self._meta.id, self._groups)

    def leave(self) -> None:
        """The run is over: the groups go with the last survivor."""
        if self._groups.folders:
            self._owner.leave(self._meta.id, self._groups)
