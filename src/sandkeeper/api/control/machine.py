"""This machine as the one sandbox there is: made when it is asked for, never twice at once.

Who creates a sandbox while there is one gets that one, as it is then wanted: a machine cannot be
two. Its end ends every process and terminal that this server started; the machine stays, and the
next sandbox has another id. What is known of it is kept in the state folder.
"""

import asyncio
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from sandkeeper.api.control.source import (
    PAUSED,
    RUNNING,
    Sandbox,
    SandboxOrder,
    SandboxPage,
    Wanted,
)
from sandkeeper.errors import Conflict, NotFound
from sandkeeper.linux.clocks import STILL_SECONDS, WORK, WorkTimer
from sandkeeper.linux.paths.statefiles import (
    Damaged,
    UntrustedFile,
    decoded,
    read_own,
    write_atomically,
)
from sandkeeper.linux.users import Users
from sandkeeper.log.lines import Log
from sandkeeper.observability.machine_use import MachineUse, Use
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes
from sandkeeper.terminals.registry import Terminals
from sandkeeper.terminals.terminal import Terminal

__all__ = ["ThisMachine", "is_one_of_ours"]

FILE_NAME = "control.json"
STOP_SECONDS = 5.0
PREFIX = "sk"
_ID = re.compile(PREFIX + "[0-9a-f]{18}")


def is_one_of_ours(name: str) -> bool:
    """Say whether an id looks like those of this machine."""
    return _ID.fullmatch(name) is not None


class _Kept(msgspec.Struct, omit_defaults=True):
    """What is known of the sandbox; `ends_uptime` is by `WORK` (linux.clocks), in this boot."""

    id: str
    template: str
    started_at: float
    ends_at: float
    ends_uptime: float
    boot: str
    state: str = RUNNING
    metadata: dict[str, str] = {}
    pause_at_end: bool = False
    trusted: bool = False


class ThisMachine:
    """A `SandboxSource` of one; event loop's thread only.

    `set_env` has programs start with variables; its second argument is `Order.trusted`. `token` is
    that of this server.
    """

    def __init__(
        self,
        *,
        state: Path,
        boot: str,
        log: Log,
        processes: Processes,
        terminals: Terminals,
        users: Users,
        use: MachineUse,
        set_env: Callable[[Mapping[str, str], bool], None],
        token: str = "",
    ) -> None:
        self._path = state / FILE_NAME
        self._boot = boot
        self._log = log
        self._processes = processes
        self._terminals = terminals
        self._users = users
        self._use = use
        self._set_env = set_env
        self._token = token
        self._timer: WorkTimer | None = None
        self._ending: asyncio.Task[None] | None = None
        self._kept = self._read()

    def begin(self) -> None:
        """Take up the sandbox of an earlier server."""
        self._arm()

    # Source

    async def create(self, order: SandboxOrder) -> Sandbox:
        """Return the machine, as it is wanted."""
        now = time.time()
        known = self._kept
        if known is not None and known.state == PAUSED:
            self._signal_all(known, signal.SIGCONT)
        self._kept = _Kept(
            id=known.id if known is not None else PREFIX + secrets.token_hex(9),
            template=order.template,
            started_at=known.started_at if known is not None else now,
            ends_at=now + order.seconds,
            ends_uptime=WORK.now() + order.seconds,
            boot=self._boot,
            metadata=dict(order.metadata),
            pause_at_end=order.pause_at_end,
            trusted=order.trusted,
        )
        await asyncio.to_thread(self._set_env, order.env, order.trusted)
        await self._changed()
        return await self._sandbox(self._kept)

    async def page(self, wanted: Wanted) -> SandboxPage:
        """Return the machine while it is a sandbox."""
        kept = self._kept
        if kept is None or not wanted.fits(
            kept.state, kept.template, kept.started_at, kept.metadata
        ):
            return SandboxPage([])
        return SandboxPage([await self._sandbox(kept)])

    async def get(self, name: str) -> Sandbox:
        """Return it."""
        return await self._sandbox(self._known(name))

    async def end(self, name: str) -> None:
        """End all that runs."""
        await self._end(self._known(name))

    async def keep(self, name: str, seconds: float, *, shorten: bool = True) -> Sandbox:
        """Have it end later, or sooner."""
        kept = self._known(name)
        if self._give(kept, seconds, shorten=shorten):
            await self._changed()
        return await self._sandbox(kept)

    async def pause(self, name: str) -> None:
        """Stop what runs, by SIGSTOP."""
        kept = self._known(name)
        if kept.state == PAUSED:
            raise Conflict(f"sandbox {name} is paused already")
        self._signal_all(kept, signal.SIGSTOP)
        kept.state = PAUSED
        await self._changed()

    async def resume(self, name: str, seconds: float) -> None:
        """Let it go on, for so long at least."""
        kept = self._known(name)
        if kept.state == PAUSED:
            self._signal_all(kept, signal.SIGCONT)
            kept.state = RUNNING
            self._give(kept, seconds, shorten=False)
            await self._changed()

    async def use(self, name: str) -> Use:
        """Return how much is used."""
        self._known(name)
        return await asyncio.to_thread(self._use.look)

    def away(self, name: str) -> str:
        """Return why calls for a sandbox are not answered; empty when they are.

        Any id is answered that no sandbox of ours has had: clients without a control plane make
        one up.
        """
        kept = self._kept
        if kept is not None and kept.id == name:
            return "is paused" if kept.state == PAUSED else ""
        return "was not found" if is_one_of_ours(name) else ""

    # What happens

    def _known(self, name: str) -> _Kept:
        if self._kept is None or self._kept.id != name:
            raise NotFound(f"sandbox {name[:64]!r} was not found")
        return self._kept

    async def _sandbox(self, kept: _Kept) -> Sandbox:
        use = await asyncio.to_thread(self._use.look)
        return Sandbox(
            id=kept.id,
            template=kept.template,
            state=kept.state,
            started_at=kept.started_at,
            ends_at=self._ends_at(kept),
            metadata=kept.metadata,
            cpu_count=use.cpu_count,
            memory=use.memory_total,
            disk=use.disk_total,
            token=self._token,
        )

    def _ends_at(self, kept: _Kept) -> float:
        """Return when it ends, by the wall clock as it is now: standstills put it off."""
        if kept.boot != self._boot or kept.state == PAUSED:
            return kept.ends_at
        due = time.time() + kept.ends_uptime - WORK.now()
        return due if abs(due - kept.ends_at) > STILL_SECONDS else kept.ends_at

    def _due(self, kept: _Kept) -> float:
        """Return what `WORK` shows when it ends."""
        if kept.boot == self._boot:
            return kept.ends_uptime
        return WORK.now() + kept.ends_at - time.time()

    def _give(self, kept: _Kept, seconds: float, *, shorten: bool) -> bool:
        """Have it end in so many seconds; False where that is sooner and not to be."""
        due = WORK.now() + seconds
        if not shorten and due <= self._due(kept):
            return False
        kept.ends_at, kept.ends_uptime, kept.boot = time.time() + seconds, due, self._boot
        return True

    def _is_in(self, kept: _Kept, one: Process | Terminal) -> bool:
        """Say whether something is part of the sandbox, and within reach of whoever asks.

        What other users run is not, unless who made the sandbox may act as them.
        """
        user = one.meta.user
        return (kept.trusted or not user) and self._users.reaches(user)

    def _signal_all(self, kept: _Kept, number: int) -> None:
        for process in self._processes.registered():
            if not process.is_over and self._is_in(kept, process):
                with suppress(NotFound):
                    process.send_signal(number, process.meta.name)
        for terminal in self._living(kept):
            terminal.signal_soon(number)

    def _living(self, kept: _Kept) -> Iterable[Terminal]:
        known = self._terminals.registered()
        return [one for one in known if not one.is_over and self._is_in(kept, one)]

    async def _end(self, kept: _Kept) -> None:
        if self._kept is not kept:
            return
        self._kept = None
        await self._changed()
        self._signal_all(kept, signal.SIGCONT)  # what is stopped cannot end by itself
        for terminal in self._living(kept):
            terminal.close()
        await self._processes.stop_all(STOP_SECONDS, lambda one: self._is_in(kept, one))
        await asyncio.to_thread(self._set_env, {}, False)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        kept = self._kept
        if kept is None or kept.state == PAUSED:
            return
        self._timer = WorkTimer(self._due(kept), self._time_is_up, kept)

    def _time_is_up(self, kept: _Kept) -> None:
        if self._kept is kept:
            over = self.pause(kept.id) if kept.pause_at_end else self._end(kept)
            self._ending = asyncio.ensure_future(over)

    # The file

    async def _changed(self) -> None:
        self._arm()
        await asyncio.to_thread(self._write, self._kept)

    def _write(self, kept: _Kept | None) -> None:
        try:
            if kept is None:
                self._path.unlink(missing_ok=True)
            else:
                write_atomically(self._path, msgspec.json.encode(kept))
        except OSError as error:
            self._log.warning(f"what is known of the sandbox cannot be kept: {error}")

    def _read(self) -> _Kept | None:
        try:
            data = read_own(self._path)
            return None if data is None else decoded(data, _Kept)
        except (OSError, UntrustedFile, Damaged) as error:
            self._log.warning(f"what was known of the sandbox is lost: {error}")
            return None
