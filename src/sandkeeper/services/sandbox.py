"""The sandbox: builds every service, starts them in order and stops them in reverse."""

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

from sandkeeper import __version__
from sandkeeper.core.budget import Budget
from sandkeeper.core.child import Children, readable
from sandkeeper.core.identity import Identity
from sandkeeper.core.keeper import Keeper
from sandkeeper.core.pump import Pump
from sandkeeper.core.sink import Sink, open_target
from sandkeeper.services.access import Access
from sandkeeper.services.keepalive import KeepAlive
from sandkeeper.services.launch import Workshop
from sandkeeper.services.logs import Log, log_line, timestamp
from sandkeeper.services.oom import OomWatch
from sandkeeper.services.ports import Ports
from sandkeeper.services.process import Process
from sandkeeper.services.processes import Processes
from sandkeeper.services.recovery import recover, restore_stage
from sandkeeper.services.runs import RunStore, pipes_folder
from sandkeeper.services.telemetry import Exporter
from sandkeeper.services.terminals import Terminals
from sandkeeper.settings import Environment, Settings

__all__ = ["Sandbox", "SandboxStatus"]


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """What `/health` tells; times are RFC 3339, the uptime is in seconds."""

    version: str
    git_commit: str
    build_time: str
    uptime: float
    started_at: str
    upgrade_count: int
    last_upgrade: dict[str, Any]


class Sandbox:
    """Owns the services. Only this class constructs them; handlers receive them."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        self.settings = settings
        self.environment = environment
        self._started = time.monotonic()
        self._started_at = timestamp()
        self._sink = Sink(open_target(settings.log.target), dropped_line=_dropped)
        self.log = Log(self._sink)
        self.access = Access(self.log, requests=settings.log.requests)
        self.children = Children()
        self.identity: Identity | None = None
        self.ports = Ports()
        self.exporter = Exporter(self._sink.wake) if settings.log.process_output else None
        self.budget = Budget(
            run_bytes=settings.retention.run_bytes, total_bytes=settings.retention.total_bytes
        )
        self.pump = Pump(
            settings.state_dir / "stage",
            self.budget,
            notify=self._pump_news,
            failed=lambda why: self.log.error(f"output was given up: {why}"),
        )
        self.keepalive = KeepAlive(
            settings.scale_file, allowed=settings.keepalive_allowed, log=self.log
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer = ThreadPoolExecutor(1, "writer")
        self._store = RunStore(
            settings.state_dir,
            pipes_folder(settings.state_dir, environment.get("XDG_RUNTIME_DIR")),
        )
        self._workshop = self._make_workshop()
        self.processes = Processes(self._workshop, settings, self._store, self.ports, self.exporter)
        self.terminals = Terminals(
            self._workshop, settings.terminal, settings.state_dir, self.access
        )
        self._stack = AsyncExitStack()

    def _make_workshop(self) -> Workshop:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return Workshop(
            children=self.children,
            pump=self.pump,
            budget=self.budget,
            keeper=Keeper(
                self.settings.state_dir / "keeper.sock",
                self.children,
                restarted=lambda: self._on_loop(lambda: self.processes.keep_all()),
            ),
            keepalive=self.keepalive,
            environment=self.environment,
            identity=self.identity,
            log=self.log,
            oom=OomWatch(),
            spawner=ThreadPoolExecutor(2, "spawner"),
            writer=self._writer,
            nofile=soft,
            finished=self._finished,
        )

    def _finished(self, process: Process) -> None:
        self.processes.finished(process)

    def _pump_news(self) -> None:
        self._on_loop(self.processes.grown)

    def _on_loop(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(call)

    async def start(self) -> None:
        """Start the services in order; raises OSError when the state folder cannot be used."""
        self._loop = asyncio.get_running_loop()
        stack = self._stack
        self._sink.start()
        stack.callback(self._sink.close)
        _raise_file_limit()
        # Threads that compute (telemetry) give the interpreter up ten times sooner than the
        # default 5 ms, which requests would feel.
        sys.setswitchinterval(0.0005)
        await asyncio.to_thread(self._prepare_state)
        if self.exporter is not None:
            self._sink.pull = self.exporter.pull
        stack.callback(self._workshop.keeper.close)
        self.pump.start()
        stack.callback(self.pump.stop)
        stack.callback(self._store.close)
        stack.callback(self._writer.shutdown)
        stack.callback(self._workshop.spawner.shutdown, cancel_futures=True)
        stack.callback(self.processes.save_all)
        found = await recover(self._workshop, self._store)
        self.keepalive.reset(sum(p.meta.keep_alive and not p.is_over for p in found))
        self.processes.enter_recovered(found)
        self.processes.evict()
        self._writer.submit(self._store.refill)
        await stack.enter_async_context(self.processes.housekeeping())
        await self.terminals.start()
        stack.push_async_callback(self.terminals.stop)
        self._watch_keeper()
        if os.getpid() == 1:
            self._loop.add_signal_handler(signal.SIGCHLD, self._reap_orphans)
            self._reap_orphans()

    def _prepare_state(self) -> None:
        state = self.settings.state_dir
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)
        self._store.prepare()
        restore_stage(state / "stage", self._store)
        try:
            self._workshop.keeper.open()
        except OSError as error:
            self.log.warning(f"no keeper: output may be lost if the server is killed: {error}")

    def _reap_orphans(self) -> None:
        self._writer.submit(self.children.reap_orphans)

    def _watch_keeper(self) -> None:
        """Reap the keeper if it ends before us; the next start of a process makes a new one."""
        child = self._workshop.keeper.child
        if child is None:
            return

        async def reap() -> None:
            await readable(child.pidfd.number)
            child.reap()

        task = asyncio.ensure_future(reap())
        self._stack.callback(task.cancel)

    async def stop(self) -> None:
        """Stop the services in reverse order; children of the sandbox go on."""
        await self._stack.aclose()

    def status(self) -> SandboxStatus:
        """Describe the server."""
        return SandboxStatus(
            version=__version__,
            git_commit="unknown",
            build_time="unknown",
            uptime=time.monotonic() - self._started,
            started_at=self._started_at,
            upgrade_count=0,
            last_upgrade={"status": "idle", "step": "none", "version": ""},
        )


def _dropped(count: int) -> bytes:
    return log_line("warning", f"{count} log lines were dropped: the reader is slow", {})


def _raise_file_limit() -> None:
    """Every running process costs some descriptors; children get the old limit back."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
