"""One supervised process: its attempts, its pipes, its end. Event loop's thread only.

`processes.lifecycle` decides; this module carries out. First start and restart are the same
`_attempt`.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from sandkeeper.errors import NotFound, StartFailed, Task
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import NOTICE, REMARK, Stream
from sandkeeper.journal.source import Source, hold
from sandkeeper.linux.children.adopted import Adopted, boot_id
from sandkeeper.linux.children.child import Child, ExitStatus
from sandkeeper.linux.clocks import WorkTimer, uptime
from sandkeeper.linux.fds import duplicates
from sandkeeper.processes.launch import Launch, Workshop
from sandkeeper.processes.lifecycle import TERMINAL, Effect, Event, State, step, wire_status
from sandkeeper.processes.record import RunMeta, exit_reason, may_restart, retry_notice, time_limit
from sandkeeper.processes.recorder import Recorder
from sandkeeper.processes.runs import RunFolder
from sandkeeper.processes.stdin import Stdin

__all__ = ["Process"]

BACKOFF_SECONDS = 1.0
DRAIN_SECONDS = 0.04
"""A status must be right within 50 ms of the exit, even when a disk stalls the pump."""

OUTPUT_SECONDS = 5.0
"""For so long, whoever waits for the end also waits for output that a stalled disk holds up."""


class Process:
    """A process as clients see it; `meta` is its record, also on disk."""

    def __init__(self, shop: Workshop, folder: RunFolder, meta: RunMeta, journal: Journal) -> None:
        self._shop = shop
        self.folder = folder
        self.meta = meta
        self.journal = journal
        self.state = State(meta.state)
        self.stdin = Stdin() if meta.stdin else None
        self._confined = shop.confinements.of(meta)
        self.ended = asyncio.Event()
        self.over = asyncio.Event()
        self._unsettled = False
        self.recorder = Recorder(folder, meta, shop.records, shop.log)
        self._child: Child | Adopted | None = None
        self._sources: tuple[Source, ...] = ()
        self._drained = True
        self._collected = True
        self._timed_out = False
        self.holds = meta.keep_alive
        self._retry: asyncio.TimerHandle | None = None
        self._clock: WorkTimer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> str:
        """The status on the wire."""
        return wire_status(self.state)

    @property
    def is_over(self) -> bool:
        """Whether a terminal state is reached."""
        return self.state in TERMINAL

    @property
    def leader(self) -> int:
        """The process id of the present attempt; 0 when none runs."""
        return self._child.pid if self._child is not None and not self._child.reaped else 0

    @property
    def timed_out(self) -> bool:
        """Whether its time ran out."""
        return self._timed_out or self.meta.exit_reason == "timeout"

    # Starting

    async def start(self) -> None:
        """Start the first attempt; raises StartFailed, and then nothing is left behind."""
        try:
            await self._attempt(first=True)
        except BaseException:
            self._leave_groups()
            raise
        self.meta.pid = str(self.leader)
        self._shop.budget.enlist(self.journal)
        if self.holds:
            meta, hold = self.meta, self._shop.keepalive.hold
            self.recorder.later(hold, meta.pid, meta.name, meta.command, meta.timeout)

    async def _attempt(self, *, first: bool) -> None:
        launch = Launch(self._shop, self.folder, self.meta, self.journal, self._confined)
        sources = None if first else self._sources
        self._child, self._sources = await launch.run(sources, self.stdin)
        self._hold()
        if first:
            self._arm()  # so that the first record says when its time is over
            # Behind the answer to whoever starts it: what it writes until then is in its pipes.
            asyncio.get_running_loop().call_soon(self._watch, self._shop.pump.add)
        else:
            self._watch(self._shop.pump.watch)

    def _hold(self) -> None:
        if self.meta.hold_output:
            hold(self.journal, self._shop.budget.hold_bytes, self._shop.pump.go_on)

    def adopt(self, child: Adopted, sources: tuple[Source, ...]) -> None:
        """Go on with a process that an earlier server started."""
        self._child, self._sources = child, sources
        if self.stdin is not None:
            self.stdin.close("stdin is closed: the API was restarted")
        self._hold()
        self.keep()
        self._watch(self._shop.pump.add)
        self._arm(again=True)

    def resume_without_process(self, sources: tuple[Source, ...]) -> None:
        """Go on with a run whose process ended unseen, or that was in its back-off."""
        self._sources = sources
        if self.state is State.BACKOFF:
            if not self.meta.keep_alive:
                self._arm(again=True)
            if self.journal.totals[NOTICE] < self.meta.noticed:
                self.meta.noticed = self.journal.totals[NOTICE]
                self._announce_retry()
            self._schedule_retry()
            return
        self._shop.pump.add(*sources)
        self._collected = False
        self._drained = False
        self._drain()
        self._end(ExitStatus())

    def was_over(self, sources: tuple[Source, ...]) -> None:
        """Take up a finished process; its survivors may still write to its pipes."""
        self.ended.set()
        self.over.set()
        self._sources = sources
        if self.journal.exit_offset is None:
            self.journal.exit_offset = self.meta.exit_offset = self.journal.tail
        if sources:
            self._shop.pump.add(*sources)
            self._shop.pump.release(self.journal, sources)

    def _watch(self, carry: Callable[..., None]) -> None:
        """Have its output carried and its end noticed."""
        assert self._child is not None
        carry(*self._sources)
        self._drained = self._collected = False
        self.recorder.save()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._child.pidfd.number, self._noticed_exit)

    def keep(self) -> None:
        """Have the keeper hold the pipes and the pidfd; copies, for ours may close meanwhile."""
        if self._child is None or self._child.reaped:
            return
        ours = (*(source.fd for source in self._sources), self._child.pidfd.number)
        try:
            copies = duplicates(ours)
        except OSError as error:
            # The keeper has the pipes since before the start; without the pidfd it is the exit
            # status alone that a kill -9 could cost.
            self._shop.log.warning(f"the keeper cannot hold {self.meta.id}: {error}")
            return
        self.recorder.later(self._shop.keeper.put_copies, self.meta.id, copies)

    # The end of an attempt

    def _noticed_exit(self) -> None:
        assert self._child is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._child.pidfd.number)
        if not self._unsettled and all(source.is_empty for source in self._sources):
            self._on_drained()
            return
        self._drain()
        loop.call_later(DRAIN_SECONDS, self._collect)

    def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        self._unsettled = False

        def done() -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has stopped
                loop.call_soon_threadsafe(self._on_drained)

        self._shop.pump.drain(self._sources, done)

    def _on_drained(self) -> None:
        self._drained = True
        self._collect()
        if self.is_over:
            self._close_output()

    def _collect(self) -> None:
        """Take the status: when the output is in, or after 40 ms with a disk that stalls."""
        if self._collected or self._child is None:
            return
        self._collected = True
        if isinstance(self._child, Child):
            self._end(self._child.reap())
        else:
            self._task = asyncio.ensure_future(self._collect_adopted(self._child))

    async def _collect_adopted(self, child: Adopted) -> None:
        self._end(await child.collect())

    def _end(self, status: ExitStatus) -> None:
        self._collected = True
        meta = self.meta
        meta.take(status)
        meta.exit_reason = exit_reason(
            status, self.state, timed_out=self._timed_out, ran_out=self._ran_out_of_memory
        )
        if status.code == 0:
            self._apply(Event.EXIT_OK)
        elif meta.exit_reason != "unknown" and may_restart(meta):
            self._apply(Event.EXIT_RETRY)
        else:
            self._apply(Event.EXIT_BAD)

    def _ran_out_of_memory(self, status: ExitStatus) -> bool:
        if self._confined is not None and self._confined.ran_out_of_memory():
            self._shop.oom.tick()
            return True  # its shell may have lived on, and told of it with a code of its own
        return status.signal == signal.SIGKILL and self._shop.oom.happened()

    # Carrying out

    def _apply(self, event: Event) -> None:
        self.state, effects = step(self.state, event)
        self.meta.state = self.state.value
        for effect in effects:
            self._effect(effect)

    def _effect(self, effect: Effect) -> None:
        match effect:
            case Effect.TERMINATE:
                self._signal(signal.SIGTERM)
            case Effect.KILL:
                self._signal(signal.SIGKILL)
            case Effect.SCHEDULE_RETRY:
                self._announce_retry()
                self._schedule_retry()
                self.recorder.save_now()
            case Effect.CANCEL_RETRY:
                if self._retry is not None:
                    self._retry.cancel()
                # Its last attempt failed by itself, but it is over because somebody said so.
                self.meta.exit_reason = "timeout" if self._timed_out else self.state.value
            case Effect.START:
                self._task = asyncio.ensure_future(self._restart())
            case Effect.FINISH:
                self._finish()

    def _signal(self, number: int) -> None:
        # Between two attempts there is nothing to signal; `_restart` looks at the state again.
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.signal_group(number)
            if number == signal.SIGKILL and self._confined is not None:
                self._confined.kill()

    def _announce_retry(self) -> None:
        if text := retry_notice(self.meta, self.journal.totals[NOTICE]):
            self._notice(text)

    def _notice(self, text: str, stream: Stream = NOTICE) -> None:
        self._unsettled = True
        self._shop.pump.append(self.journal, stream, text.encode())

    def _schedule_retry(self) -> None:
        if self.meta.keep_alive and self._clock is not None:
            self._clock.cancel()  # each attempt has its own; the pause belongs to none
        loop = asyncio.get_running_loop()
        self._retry = loop.call_later(BACKOFF_SECONDS, self._apply, Event.RETRY_DUE)

    async def _restart(self) -> None:
        try:
            await self._attempt(first=False)
        except StartFailed as error:
            self._notice(f"\n[Failed to restart process: {error.reason}]\n")
            self._apply(Event.START_FAILED)
            return
        self.meta.restart_count += 1
        self.meta.started_at = time.time()
        if self.meta.keep_alive:
            self._arm()
        if self.state is State.STOPPING:
            self._signal(signal.SIGTERM)
        elif self.state is State.KILLING:
            self._signal(signal.SIGKILL)
        self.recorder.save()

    def _finish(self) -> None:
        meta = self.meta
        meta.completed_at, meta.completed_uptime = time.time(), uptime()
        meta.completed_boot = boot_id()
        if self._clock is not None:
            self._clock.cancel()
        if self.stdin is not None:
            self.stdin.close("stdin is closed: the process has exited")
        if self.holds:
            self.holds = False
            self.recorder.later(
                self._shop.keepalive.release, meta.pid, meta.name, self.status, meta.exit_code
            )
        self.ended.set()
        self.recorder.save()
        if self._unsettled:
            # Words of ours are on their way to the journal, and belong before its end.
            self._drained = False
            self._drain()
        elif self._drained:
            self._close_output()

    def _close_output(self) -> None:
        """The output is complete: followers end here, and survivors' words come after it."""
        if self.over.is_set():
            return
        self.journal.exit_offset = self.meta.exit_offset = self.journal.tail
        self._shop.pump.release(self.journal, self._sources)
        self.journal.wake()
        self.recorder.save()
        self.over.set()
        self._leave_groups()
        self._shop.finished(self.meta.id)

    def _leave_groups(self) -> None:
        if self._confined is not None:
            self._confined.leave()

    def sealed(self) -> None:
        """No survivor can write any more: the pipes can go."""
        self.meta.sealed, self.meta.end_offset = True, self.journal.tail
        self.recorder.save(self._put_away)

    def _put_away(self) -> None:
        # After the record is saved: the keeper is the other witness of the end.
        self._shop.keeper.drop(self.meta.id)
        self.folder.drop_fifos()

    # Requests

    async def wait(self) -> None:
        """Wait until it is over for good and its output is complete."""
        await self.ended.wait()
        if self.over.is_set():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(OUTPUT_SECONDS):
                await self.over.wait()

    def stop(self, identifier: str) -> None:
        """Ask it to stop (SIGTERM to the group); raises NotFound when it is over."""
        gone = NotFound("is not running", task=Task.STOP_PROCESS, about=identifier)
        self._ask(Event.STOP, "gracefully terminated", gone)

    def kill(self, identifier: str) -> None:
        """Kill its group; raises NotFound when it is over."""
        gone = NotFound("no such process", task=Task.KILL_PROCESS, about=identifier)
        self._ask(Event.KILL, "forcefully killed", gone)

    def _ask(self, event: Event, words: str, gone: NotFound) -> None:
        if self.is_over:
            raise gone
        self._notice(f"\n[Process is being {words}]\n", REMARK)
        self.meta.keep_alive = False
        self._apply(event)
        self.recorder.save_now()

    def send_signal(self, number: int, identifier: str) -> None:
        """Signal the group without any change of intent; raises NotFound when nothing runs."""
        with suppress(ProcessLookupError):
            if self._child is not None and not self._child.reaped:
                return self._child.signal_group(number)
        raise NotFound("is not running", task=Task.STOP_PROCESS, about=identifier)

    def _arm(self, *, again: bool = False) -> None:
        """Start the clock of `timeout`; with keepAlive each attempt has its own."""
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        if self.meta.timeout > 0:
            self._clock = WorkTimer(time_limit(self.meta, again=again), self._time_is_up)

    def _time_is_up(self) -> None:
        if not self.is_over:
            self._timed_out = True
            self.meta.keep_alive = False
            self._apply(Event.KILL)
            self.recorder.save()
