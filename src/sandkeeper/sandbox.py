"""The sandbox: builds every service, starts them in order and stops them in reverse."""

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import partial

from sandkeeper.archive.baseline import BaselineRecorder
from sandkeeper.archive.service import Archive
from sandkeeper.archive.workload import Workload
from sandkeeper.egress.service import Egress
from sandkeeper.files.changing.temporaries import Temporaries
from sandkeeper.files.service import Files
from sandkeeper.files.uploads.sessions import Uploads
from sandkeeper.files.work import FileWork
from sandkeeper.journal.budget import Budget
from sandkeeper.journal.pump import Pump
from sandkeeper.journal.turns import Turns
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.orphans import orphans_reaped
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.keeper.client import Keeper
from sandkeeper.linux.machine import disk_bytes, raise_file_limit
from sandkeeper.linux.users import Users
from sandkeeper.log.access import Access
from sandkeeper.log.libraries import adopt_libraries
from sandkeeper.log.lines import Rouser, open_log
from sandkeeper.observability.heap import Heap
from sandkeeper.observability.history import History
from sandkeeper.observability.lifetime import Lifetime
from sandkeeper.observability.metrics import Vitals
from sandkeeper.observability.readiness import Readiness
from sandkeeper.observability.renderer import Renderer
from sandkeeper.observability.run_history import RunHistory
from sandkeeper.observability.standstills import Standstills
from sandkeeper.observability.telemetry import Exporter
from sandkeeper.ondemand import OnDemand
from sandkeeper.processes.confinement import Confinements
from sandkeeper.processes.keepalive import KeepAlive
from sandkeeper.processes.keeping import Keeping
from sandkeeper.processes.launch import Workshop
from sandkeeper.processes.oom import OomWatch
from sandkeeper.processes.recorder import Records
from sandkeeper.processes.recovery import prepare_state, recover
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.runs import RunStore, pipes_folder
from sandkeeper.processes.startup import StartupCommand
from sandkeeper.processes.state_folder import StateFolder
from sandkeeper.settings import IMPORT_URL, Environment, Settings
from sandkeeper.settings.sources import EnvironmentReload
from sandkeeper.terminals.registry import Terminals
from sandkeeper.upgrade.handover import Handover, HeldConnection
from sandkeeper.upgrade.service import Upgrade

__all__ = ["Sandbox"]

CHILD_STOP_SECONDS = 5.0


class Sandbox(OnDemand):
    """Owns the services. Only this class constructs them; handlers receive them."""

    def __init__(
        self,
        settings: Settings,
        environment: Environment,
        identity: Identity | None = None,
        *,
        variables: Mapping[str, str] | None = None,
        handover: Handover | None = None,
    ) -> None:
        """Build; `variables` is what the settings were read from.

        `handover` comes from the server whose place this one takes.
        """
        self.settings = settings
        self.environment = environment
        environment.apply({}, remove=(IMPORT_URL,))
        self.identity = identity
        self.users = Users(identity, settings.rights.users)
        self._handover = handover
        self._trial = handover is not None and handover.trial
        self.lifetime = Lifetime()
        self.stopping = asyncio.Event()
        self.when_started: list[Callable[[], Awaitable[object]]] = []
        self.when_stopping: list[Callable[[], Awaitable[object]]] = []
        self.turns = Turns()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stack = AsyncExitStack()
        log = settings.log
        self._sink, self.log = open_log(log.target, identity, form=log.format, colours=log.colours)
        self._rouser = Rouser(self._sink)
        adopt_libraries(self.log)
        self.access = Access(self.log, requests=log.requests)
        self.children = Children()
        self.state_folder = StateFolder(settings.state_dir, self.log)
        self._build_files()
        self._build_versions(variables or {})
        self._build_network()
        self._build_journal()
        self._build_processes()
        self._build_observability()
        self._build_archive()

    def _build_files(self) -> None:
        settings, environment = self.settings, self.environment
        self.file_work = FileWork(self.users.current)
        self.files = Files(
            self.file_work,
            Temporaries(settings.state_dir / "temporaries"),
            settings.files,
            workdir=settings.workdir,
            home=lambda: getattr(self.users.current(), "home", environment.get("HOME")),
        )
        self.uploads = Uploads(
            self.files,
            settings.files.upload_root,
            settings.state_dir / "uploads",
            settings.files.upload_seconds,
            self.state_folder.aside,
        )

    def _build_versions(self, variables: Mapping[str, str]) -> None:
        """Build what changes the variables or the version of a server that runs."""
        settings, environment, handover = self.settings, self.environment, self._handover
        self.environment_reload = EnvironmentReload.at_start(environment, self.log, self.identity)
        self.environment_reload.carried.update(handover.carried if handover else ())
        self.upgrade = Upgrade(
            *(settings, environment, variables, self.children, self.log, handover),
            busy=lambda: self.archive.busy,
        )

    def _build_network(self) -> None:
        settings, environment, identity = self.settings, self.environment, self.identity
        self.egress = Egress(settings.egress, environment, self.log, identity)
        self.environment_reload.hooks += [self._hide_import, self.egress.reapply]

    def _build_journal(self) -> None:
        settings, identity = self.settings, self.identity
        self._renderer = Renderer(self.children)
        told, form = settings.log.process_output, self.log.form
        self.exporter = Exporter(self._rouser.rouse, self._renderer, form) if told else None
        self.budget = Budget(
            run_bytes=settings.retention.run_bytes,
            total_bytes=settings.retention.total_bytes,
            disk_bytes=disk_bytes(settings.state_dir),
        )
        self.keepalive = KeepAlive(
            settings.scale_file, allowed=settings.keepalive_allowed, log=self.log, workload=identity
        )

    def _build_processes(self) -> None:
        settings, state = self.settings, self.settings.state_dir
        self._writer = ThreadPoolExecutor(1, "writer")
        self._store = RunStore(state, pipes_folder(state, self.environment.get("XDG_RUNTIME_DIR")))
        self.pump = Pump(
            self._store.stages,
            self.budget,
            notify=lambda: self._on_loop(self.processes.grown),
            failed=self.log.error,
        )
        self._workshop = self._make_workshop()
        self.processes = Processes(
            self._workshop, settings, self._store, self.listeners, self.files.working_directory
        )
        self.terminals = Terminals(self._workshop, settings.terminal, state, self.access)

    def _build_observability(self) -> None:
        self.vitals = Vitals(
            processes=self.processes,
            pump=self.pump,
            sink=self._sink,
            budget=self.budget,
            keeper=self._workshop.keeper,
            exporter=self.exporter,
            otlp=self.otlp,
        )
        counted = {
            "terminals": lambda: sum(not one.is_over for one in self.terminals.registered()),
            "drives": self.drive_count,
        }
        runs = RunHistory(self.processes, lambda: self.meter)
        self.history = History(self.vitals, counted, runs, self.log)
        self.heap = Heap(lambda: self.vitals.requests.activity)
        self._keeping = Keeping(self._workshop.keeper, self._writer, self.log)
        self._keeping.give += [self.processes.keep_all, self.terminals.keep_all]
        self.readiness = Readiness(
            self.settings.state_dir,
            self.state_folder,
            {
                "pump": lambda: "" if self.pump.alive else "its thread has ended",
                "keeper": self._keeping.check,
            },
        )

    def _build_archive(self) -> None:
        settings, environment = self.settings, self.environment
        self._startup = StartupCommand(self.children, environment, self.log, self.identity)
        self.archive = Archive(
            settings,
            self.log,
            Workload(
                self.processes,
                self.terminals,
                self._startup,
                "" if self._handover else settings.command,  # it was run by the server before
            ),
            BaselineRecorder(settings, environment, self.children, self.log),
            lambda root, path: self.archives.temporary(root, path),
            leaving=lambda: self.upgrade.due,
        )

    def _make_workshop(self) -> Workshop:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if self._handover is not None:
            soft = self._handover.nofile or soft
        return Workshop(
            children=self.children,
            pump=self.pump,
            budget=self.budget,
            keeper=Keeper(
                self.settings.state_dir / "keeper.sock",
                self.children,
                restarted=lambda: self._on_loop(self._keeping.renewed),
            ),
            keepalive=self.keepalive,
            environment=self.environment,
            users=self.users,
            log=self.log,
            oom=OomWatch(),
            confinements=Confinements(self.settings.state_dir, self.users, self.log),
            work=self.file_work,
            spawner=ThreadPoolExecutor(2, "spawner"),
            writer=self._writer,
            nofile=soft,
            finished=lambda run: self.processes.finished(run),
            state=self.state_folder,
            records=Records(self._writer),
            tracing=self.tracing,
        )

    def _on_loop(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(call)

    async def start(self) -> None:
        """Start the services in order; raises OSError when the state folder cannot be used."""
        self._loop = asyncio.get_running_loop()
        for step in (
            self._start_files,
            self._start_reading,
            self._start_children,
            self._start_pump,
            self._start_outside,
            self._start_processes,
            self._start_terminals,
            self._start_archive,
            self._start_looking,
        ):
            await step(self._stack)  # what it puts there is stopped in reverse
        for call in () if self._trial else self.when_started:
            await call()

    async def _start_files(self, stack: AsyncExitStack) -> None:
        self._rouser.start()
        self._sink.start()
        stack.callback(self._sink.close)
        stack.callback(self.file_work.close)
        await asyncio.to_thread(self.state_folder.tidy)
        await self.files.start(self.log)
        stack.callback(self.files.stop)
        await self.uploads.start(self.log)
        stack.push_async_callback(self.uploads.stop)

    async def _start_reading(self, stack: AsyncExitStack) -> None:
        """Have stopped what starts with the first request for it."""
        stack.push_async_callback(self.close_made)

    async def _start_children(self, stack: AsyncExitStack) -> None:
        raise_file_limit()
        stack.push_async_callback(self.children.close)
        if self.identity is not None and not self.identity.is_ours:
            self.children.open_spawner()
        # Threads that compute (telemetry) give the interpreter up ten times sooner than the
        # default 5 ms, which requests would feel.
        sys.setswitchinterval(0.0005)
        if self.otlp is not None:
            stack.push_async_callback(self.otlp.stop, lambda: self.upgrade.due)
            self.otlp.start(self.vitals)

    async def _start_pump(self, stack: AsyncExitStack) -> None:
        await asyncio.to_thread(prepare_state, self._workshop, self._store, trial=self._trial)
        self._renderer.start()
        stack.callback(self._renderer.close)
        if self.exporter is not None:
            self._sink.pull = self.exporter.pull
            self._sink.asked = lambda: self.vitals.requests.activity
        stack.callback(self._workshop.keeper.close)
        self.pump.start()
        for end in (self._store.close, self.pump.stop, self._writer.shutdown):
            stack.callback(end)
        stack.callback(self._workshop.spawner.shutdown, cancel_futures=True)
        stack.callback(self._workshop.confinements.close)
        stack.callback(self.processes.save_all)

    async def _start_outside(self, stack: AsyncExitStack) -> None:
        """Start what leads out of the sandbox, before any child of it is started."""
        if not self._trial:
            stack.push_async_callback(self.egress.stop)
            await self.egress.start()
            stack.push_async_callback(self.stop_outside)
            await self.start_outside()

    async def _start_processes(self, stack: AsyncExitStack) -> None:
        stills = self.settings.state_dir / "standstills.json"
        stack.enter_context(Standstills(stills, self._writer, self.log).kept())
        found = await recover(self._workshop, self._store)
        holders = sum(p.meta.keep_alive and not p.is_over for p in found)
        if self._handover is None or self._trial:
            self.keepalive.reset(holders)
        else:
            self.keepalive.resume(self._handover.held, holders)
        self.processes.enter_recovered(found)
        self._writer.submit(self._store.refill)
        await stack.enter_async_context(self.processes.housekeeping())

    async def _start_terminals(self, stack: AsyncExitStack) -> None:
        await self.terminals.start()
        stack.push_async_callback(self.terminals.stop)
        looks = (self.processes.look, self.terminals.look)
        await stack.enter_async_context(self.state_folder.watched(*looks))

    async def _start_archive(self, stack: AsyncExitStack) -> None:
        stack.callback(self._startup.close)
        if not self._trial:
            await stack.enter_async_context(self._keeping.watched())
            await self.archive.start()
            stack.push_async_callback(self.archive.stop)
            await self.upgrade.start()
        stack.push_async_callback(self.upgrade.stop)

    async def _start_looking(self, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(self.vitals.delay.sampling())
        await stack.enter_async_context(self.history.kept())
        stack.callback(self.readiness.close)
        await stack.enter_async_context(self.heap.tended())
        self.readiness.serving = True
        if os.getpid() == 1 or self._handover is not None:
            # What the server before us started are our children, though we know only some of them.
            reap = partial(self._writer.submit, self.children.reap_orphans)
            stack.enter_context(orphans_reaped(reap))

    async def _hide_import(self) -> None:
        """A reloaded document may bring it back."""
        self.environment.apply({}, remove=(IMPORT_URL,))

    def begin_stop(self) -> None:
        """Send everybody away who waits for something that will not come from this server."""
        self.stopping.set()
        self.readiness.serving = False
        running = 0
        for process in self.processes.all():
            process.journal.abandon()
            running += not process.is_over
        for terminal in self.terminals.registered():
            terminal.journal.abandon()
        end = "are stopped first" if self.settings.stop_children else "go on"
        self.log.info(f"sandkeeper stops; processes that {end}: {running}")
        self.abandon_made()

    async def stop(self) -> None:
        """Stop the services in reverse order; children go on unless the settings say otherwise."""
        if self.settings.stop_children and not self.upgrade.due:
            await self.processes.stop_all(CHILD_STOP_SECONDS)
        for call in self.when_stopping:
            await call()
        await self._stack.aclose()

    def replace(self, listeners: Sequence[socket.socket], held: Sequence[HeldConnection]) -> None:
        """Become the version that is due, after `stop`; only returns by raising OSError."""
        self.upgrade.replace(
            listeners,
            held,
            held=sum(process.holds for process in self.processes.all()),
            carried=sorted(self.environment_reload.carried),
            nofile=self._workshop.nofile,
        )
