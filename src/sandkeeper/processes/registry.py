"""All processes of the sandbox: start, find, wait, list, forget. Event loop's thread only."""

import asyncio
import contextlib
import secrets
import string
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from sandkeeper.errors import BadInput, Conflict, NotFound, StartFailed, Task
from sandkeeper.journal.journal import Journal
from sandkeeper.linux.children.adopted import boot_id
from sandkeeper.linux.clocks import uptime
from sandkeeper.numerals import GO_INT
from sandkeeper.once import Keyed
from sandkeeper.processes.launch import Workshop, starts_at_once
from sandkeeper.processes.process import Process
from sandkeeper.processes.record import RunMeta, ended_uptime, time_limit
from sandkeeper.processes.runs import RunFolder, RunStore
from sandkeeper.processes.spec import ProcessSpec
from sandkeeper.settings import Settings
from sandkeeper.tracecontext import CURRENT

__all__ = ["Listener", "Processes"]

KEEP_ALIVE_SECONDS = 600
HOUSEKEEPING_SECONDS = 5.0
REFILL_SECONDS = 0.005
LETTERS = ((string.ascii_lowercase + string.digits).encode() * 8)[:256]
"""What stands for each byte of chance in a name."""


class Listener(Protocol):
    """Whoever hears of all processes: the exporters of what they write."""

    def follow(self, process: Process) -> None:
        """There is a new one, or one that was found again."""

    def grown(self, process: Process) -> None:
        """It has written something or ended."""

    def forget(self, process: Process) -> None:
        """Its output goes away."""

    def retry(self) -> None:
        """What could not be read may be readable again."""


class Processes:
    """The registry. A name is taken while its process is not over; a finished one may share it."""

    def __init__(
        self,
        shop: Workshop,
        settings: Settings,
        store: RunStore,
        listeners: Sequence[Listener],
        expand_home: Callable[[str], str],
    ) -> None:
        self._shop = shop
        self._settings = settings
        self._listeners = listeners
        self.when_over: list[Callable[[Process], None]] = []
        self._expand_home = expand_home
        self._users = shop.users
        self._boot = boot_id()
        self._store = store
        self._by_id: dict[str, Process] = {}
        self._by_pid: dict[str, Process] = {}
        self._by_name: dict[str, Process] = {}
        self._over: dict[str, Process] = {}
        self._starting: set[str] = set()
        self._refilling = False
        self._keys: Keyed[Process] = Keyed()

    def __len__(self) -> int:
        return len(self._by_id)

    def registered(self) -> list[Process]:
        """Return every process, oldest first, whoever asks."""
        return list(self._by_id.values())

    def all(self) -> list[Process]:
        """Return every process that whoever asks may use, oldest first."""
        reaches = self._users.reaches
        return [one for one in self._by_id.values() if reaches(one.meta.user)]

    # Finding

    def find(self, identifier: str) -> Process | None:
        """Return the process of a pid, a name or an id; the newest where several share it.

        A name of digits is found where no process has that pid. None as well for one that whoever
        asks may not use.
        """
        found = self._find(identifier)
        return found if found is not None and self._users.reaches(found.meta.user) else None

    def _find(self, identifier: str) -> Process | None:
        for index in (self._by_pid, self._by_name, self._by_id):
            if found := index.get(identifier):
                return found
        return None

    def get(self, identifier: str, task: Task = Task.FIND_PROCESS) -> Process:
        """Return it for a task; raises NotFound, Forbidden when whoever asks may not use it."""
        process = self._find(identifier)
        if process is None:
            raise NotFound("not found", task=task, about=identifier)
        self._users.check_reach(process.meta.user)
        return process

    # Starting

    def folder_of(self, path: str) -> str:
        """Return a working folder in full (`~`); raises BadInput without a home."""
        return self._expand_home(path) if path else ""

    def admitted(self, spec: ProcessSpec, key: str = "") -> ProcessSpec:
        """Return what is wanted with its folder in full; raises BadInput for what is not allowed.

        Raises UnknownUser for a user that is none of ours.

        What an idempotency key stands for already is returned by `start`, not started again.
        """
        known = key in self._keys
        if not 0 <= (spec.timeout or 0) < GO_INT:
            raise BadInput(
                "timeout must be a number of seconds from 0 on", task=Task.ACCEPT_REQUEST
            )
        if spec.keep_alive and not known and not self._shop.keepalive.allowed:
            raise BadInput(
                "keepAlive is not available for this sandbox: it is not included in your current "
                "plan"
            )
        folder = spec.working_dir
        if folder:
            with self._users.acting_as(self._users.named(spec.user)):
                folder = self._expand_home(folder)
        user = self._users.recorded(spec.user)
        made = msgspec.structs.replace(spec, working_dir=folder, user=user)
        if not known:
            self._check_name(spec.name)
        return made

    def _check_name(self, name: str) -> None:
        if name and (name in self._starting or self._named_running(name)):
            raise BadInput(f"process with name '{name}' already exists and is running")

    async def start(self, spec: ProcessSpec, key: str = "", body: str = "") -> tuple[Process, bool]:
        """Start a process, or return the one an idempotency key already stands for (and True).

        `body` is a fingerprint of the request that the key came with. Raises BadInput (see
        `admitted`) or StartFailed.
        """
        return await self._keys.get(key, body, lambda: self._start(self.admitted(spec), key, body))

    async def start_admitted(self, spec: ProcessSpec) -> Process:
        """Start what `admitted` has just returned; raises BadInput for its name, or StartFailed."""
        self._check_name(spec.name)  # it may have been given to another one since
        return await self._start(spec)

    async def _start(self, spec: ProcessSpec, key: str = "", body: str = "") -> Process:
        name = spec.name = spec.name or _random_name()
        self._starting.add(name)
        try:
            process = await self._make(spec, key, body)
            if starts_at_once(self._shop, process.meta):
                return await self._run(process)
            # Shielded: a client that goes away must not leave a child that nobody knows.
            return await asyncio.shield(asyncio.ensure_future(self._run(process)))
        finally:
            if not self._named_running(name):
                self._starting.discard(name)

    async def _run(self, process: Process) -> Process:
        try:
            await process.start()
            self._enter(process)
        finally:
            self._starting.discard(process.meta.name)
        if process.over.is_set():
            self.finished(process.meta.id)
        if process.holds:
            # Whoever has the answer may go, and a sandbox that nobody holds is put to sleep.
            await process.recorder.done()
        return process

    def _named_running(self, name: str) -> bool:
        known = self._by_name.get(name)
        return known is not None and not known.is_over

    async def _make(self, spec: ProcessSpec, key: str, body: str) -> Process:
        folder = await self._folder()
        now = time.time()
        given = -1 if spec.timeout is None else spec.timeout
        spec.timeout = timeout = max(
            0, KEEP_ALIVE_SECONDS if given < 0 and spec.keep_alive else given
        )
        meta = RunMeta(
            **msgspec.structs.asdict(spec),
            id=folder.id,
            deadline=now + timeout if timeout else 0.0,
            started_at=now,
            boot=self._boot,
            trace=self._shop.tracing.begin(CURRENT.get()),
            idempotency_key=key,
            idempotency_body=body,
        )
        meta.first_started_at = now if meta.trace is not None else 0.0
        if timeout:
            time_limit(meta, again=False)  # what is announced of a run says when its time is over
        journal = Journal(folder.path, segment_bytes=self._shop.budget.segment_bytes)
        return Process(self._shop, folder, meta, journal)

    async def _folder(self) -> RunFolder:
        self._shop.state.check()
        folder = self._store.take()
        if self._store.is_low and not self._refilling:
            # After the answer, not beside it: threads that run beside a start hold it up.
            self._refilling = True
            asyncio.get_running_loop().call_later(REFILL_SECONDS, self._refill)
        if folder is not None:
            return folder
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._shop.spawner, self._store.make)
        except OSError as error:
            raise StartFailed(f"cannot keep its state: {error.strerror}") from None

    def _refill(self) -> None:
        self._refilling = False
        with contextlib.suppress(RuntimeError):  # shut down
            self._shop.writer.submit(self._store.refill)

    def enter_recovered(self, processes: Iterable[Process]) -> None:
        """Take the processes of an earlier server, oldest first."""
        processes = list(processes)
        most = self._settings.retention.finished_age
        for process in processes:
            if process.is_over:
                meta = process.meta
                meta.completed_uptime = ended_uptime(meta, self._boot, most)
                meta.completed_boot = self._boot
        over = sorted((p for p in processes if p.is_over), key=lambda p: p.meta.completed_uptime)
        self._over = {process.meta.id: process for process in over}
        self._shop.confinements.inherit({p.meta.id for p in processes if not p.is_over})
        for process in processes:
            self._enter(process)
            meta = process.meta
            if meta.idempotency_key:
                self._keys.enter(meta.idempotency_key, meta.idempotency_body, process)
        if processes:
            count, running = len(processes), len(processes) - len(over)
            what = "process" if count == 1 else "processes"
            self._shop.log.info(
                f"took up {count} {what} of an earlier server, {running} of them running"
            )
        self.evict()

    def _enter(self, process: Process) -> None:
        meta = process.meta
        self._by_id[meta.id] = process
        self._by_pid[meta.pid] = process
        known = self._by_name.get(meta.name)
        if known is None or known.is_over or not process.is_over:
            self._by_name[meta.name] = process
        for listener in self._listeners:
            listener.follow(process)

    # All at once

    def keep_all(self) -> None:
        """Give a new keeper everything that runs."""
        for process in self._by_id.values():
            process.keep()

    def save_all(self) -> None:
        """Write every record that waits to be written."""
        self._shop.records.flush()

    async def stop_all(
        self, seconds: float, chosen: Callable[[Process], bool] = lambda _: True
    ) -> None:
        """Stop everything that runs and is `chosen`; kill what is not over after `seconds`."""
        for event in (Process.stop, Process.kill):
            known = [process for process in self._by_id.values() if chosen(process)]
            running = [process for process in known if not process.is_over]
            for process in running:
                event(process, process.meta.name)
            waits = [asyncio.ensure_future(process.wait()) for process in running]
            if waits:
                _, late = await asyncio.wait(waits, timeout=seconds)
                for wait in late:
                    wait.cancel()

    def look(self) -> None:
        """Have every journal see what is left of it."""
        self._shop.pump.look(process.journal for process in self._by_id.values())

    # The pump's news

    def grown(self) -> None:
        """Wake who waits for the journals that grew."""
        for journal in self._shop.pump.take_grown():
            journal.wake()
            process = self._by_id.get(journal.folder.name)
            if process is None:
                continue
            if journal.sealed and not process.meta.sealed:
                process.sealed()
            for listener in self._listeners:
                listener.grown(process)

    # Forgetting

    def finished(self, run: str) -> None:
        """Note that a process is over, and forget the oldest ones past the bounds."""
        process = self._by_id.get(run)
        if process is None:
            return  # `_run` comes back here once it is entered
        self._over[run] = process
        for listener in self._listeners:
            listener.grown(process)
        for call in self.when_over:
            call(process)
        self.evict()

    def evict(self) -> None:
        """Forget finished processes past the bounds of count and age, oldest ends first.

        Their age is by a clock that nobody sets: a jump of the wall clock drops nothing.
        """
        retention = self._settings.retention
        oldest = uptime() - retention.finished_age
        while self._over:
            process = next(iter(self._over.values()))
            too_many = len(self._over) > retention.finished_count
            if not too_many and process.meta.completed_uptime >= oldest:
                return
            self._forget(process)

    def remove(self, process: Process) -> None:
        """Forget a finished process now: its record and its output; raises Conflict before."""
        if process.meta.id not in self._over:
            raise Conflict("the process is still running: stop it first")
        self._forget(process)

    def _forget(self, process: Process) -> None:
        meta = process.meta
        del self._by_id[meta.id]
        del self._over[meta.id]
        if self._by_pid.get(meta.pid) is process:
            del self._by_pid[meta.pid]
        if self._by_name.get(meta.name) is process:
            del self._by_name[meta.name]
        self._keys.forget(meta.idempotency_key)
        process.journal.forgotten = True
        self._shop.budget.dismiss(process.journal)
        for listener in self._listeners:
            listener.forget(process)
        self._shop.writer.submit(self._remove, process.folder)

    def _remove(self, folder: RunFolder) -> None:
        self._shop.keeper.drop(folder.id)
        folder.remove()

    @contextlib.asynccontextmanager
    async def housekeeping(self) -> AsyncIterator[None]:
        """Look after ages and counters while inside."""
        task = asyncio.ensure_future(self._housekeep())
        try:
            yield
        finally:
            task.cancel()

    async def _housekeep(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            self._shop.oom.tick()
            self._shop.confinements.sweep_soon()
            self.evict()
            for listener in self._listeners:
                listener.retry()


def _random_name() -> str:
    return "proc-" + secrets.token_bytes(8).translate(LETTERS).decode()
