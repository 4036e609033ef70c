"""Services that nothing but requests need: each is loaded and made when the first one comes.

What a server imports before it answers is time that every sandbox waits, and memory that it keeps.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sandkeeper.files.service import Files
from sandkeeper.files.work import FileWork
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.users import Users
from sandkeeper.log.access import Request
from sandkeeper.log.lines import Log
from sandkeeper.processes.launch import Workshop
from sandkeeper.processes.registry import Processes
from sandkeeper.settings import Environment, Settings
from sandkeeper.tracecontext import Tracing

if TYPE_CHECKING:
    from sandkeeper.codegen.service import Codegen
    from sandkeeper.drives.service import Drives
    from sandkeeper.files.attributes import Attributes
    from sandkeeper.files.copies import Copies
    from sandkeeper.files.tar.streams import Archives
    from sandkeeper.files.trees import Trees
    from sandkeeper.git.service import Git
    from sandkeeper.interpreter.service import Contexts
    from sandkeeper.network.monitors import PortMonitors
    from sandkeeper.network.ports import Ports
    from sandkeeper.network.relay import Relay
    from sandkeeper.observability.figures import Meter
    from sandkeeper.observability.otlp.export import Export
    from sandkeeper.observability.renderer import Renderer
    from sandkeeper.observability.telemetry import Exporter
    from sandkeeper.processes.waiting import Waiting
    from sandkeeper.search.content import ContentSearch
    from sandkeeper.search.find import FileSearch, Workers
    from sandkeeper.search.ripgrep import Ripgrep
    from sandkeeper.tunnel.service import Tunnel
    from sandkeeper.watch.changes import Changes
    from sandkeeper.watch.service import Watches

__all__ = ["OnDemand"]

T = TypeVar("T")


class later(Generic[T]):
    """An attribute that is made when it is first asked for, once, by whichever thread."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._lock = threading.RLock()
        self.__doc__ = make.__doc__

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, holder: Any, _owner: type | None = None) -> T:
        with self._lock:
            made: dict[str, T] = vars(holder)
            if self._name not in made:
                made[self._name] = self._make(holder)
            return made[self._name]


class OnDemand:
    """The part of the sandbox that holds them; `close_made` closes those that there are."""

    environment: Environment
    identity: Identity | None
    users: Users
    children: Children
    log: Log
    file_work: FileWork
    files: Files
    processes: Processes
    settings: Settings
    exporter: "Exporter | None"
    _workshop: Workshop
    _renderer: "Renderer"
    _trial: bool

    @later
    def tracing(self) -> Tracing:
        """What belongs to which trace."""
        return Tracing(self.settings.otlp.sampler, self.settings.otlp.ratio)

    @later
    def otlp(self) -> "Export | None":
        """What exports by OTLP, where a collector is named."""
        if self._trial or not self.settings.otlp.signals:
            return None
        from sandkeeper.observability.otlp.export import Export

        return Export(self.settings, self.children, self.environment, self.log, self._renderer)

    def spans_for(self, groups: Collection[str]) -> Callable[[Request], None] | None:
        """Return what is told of requests that are over; see `Spans` for `groups`."""
        return None if self.otlp is None else self.otlp.spans_for(groups, self.processes)

    @property
    def listeners(self) -> "list[Exporter]":
        """Who hears of all that processes write."""
        exporters = (self.exporter, None if self.otlp is None else self.otlp.exporter)
        return [one for one in exporters if one is not None]

    @later
    def trees(self) -> "Trees":
        """Whole folders in one request."""
        from sandkeeper.files.trees import Trees

        return Trees(self.files)

    @later
    def copies(self) -> "Copies":
        """Copying and moving."""
        from sandkeeper.files.copies import Copies

        return Copies(self.files)

    @later
    def attributes(self) -> "Attributes":
        """Modes, owners, times."""
        from sandkeeper.files.attributes import Attributes

        return Attributes(self.files)

    @later
    def archives(self) -> "Archives":
        """Packing and unpacking."""
        from sandkeeper.files.tar.streams import Archives

        return Archives(self.files)

    @later
    def codegen(self) -> "Codegen":
        """Code editing."""
        from sandkeeper.codegen.providers import Host
        from sandkeeper.codegen.service import Codegen

        return Codegen(Host(self.environment, self.children), self.file_work)

    @later
    def drives(self) -> "Drives":
        """Mounts."""
        from sandkeeper.drives.mounting import Mounter
        from sandkeeper.drives.service import Drives

        settings = self.settings.drives
        return Drives(Mounter(settings, self.environment, self.children, self.identity), self.log)

    @later
    def tunnel(self) -> "Tunnel":
        """The way out by WireGuard."""
        from sandkeeper.tunnel.service import Tunnel

        state = self.settings.state_dir
        return Tunnel(state, self.environment, self.children, self.log, self.identity)

    async def start_outside(self) -> None:
        """Start those two where an earlier server left something of them, or a tunnel is named."""
        state = self.settings.state_dir
        if os.path.lexists(self.settings.drives.folder):
            await self.drives.start()
        if os.path.lexists(state / "tunnel") or self.environment.get("BL_NETWORKING_CONFIG"):
            await self.tunnel.start()

    async def stop_outside(self) -> None:
        """Stop those of the two that were made."""
        for name in ("tunnel", "drives"):
            if name in vars(self):
                await getattr(self, name).stop()

    def drive_count(self) -> int:
        """Return how many drives are mounted."""
        return self.drives.count() if "drives" in vars(self) else 0

    @later
    def git(self) -> "Git":
        """Repositories."""
        from sandkeeper.git.service import Git

        return Git(self.children, self.files, self.users, self.environment)

    @later
    def ports(self) -> "Ports":
        """Who listens where."""
        from sandkeeper.network.ports import Ports

        return Ports(self.identity)

    @later
    def relay(self) -> "Relay":
        """Bytes from socket to socket."""
        from sandkeeper.network.relay import Relay

        return Relay(failed=self.log.error)

    @later
    def monitors(self) -> "PortMonitors":
        """Who is told of new ports."""
        from sandkeeper.network.monitors import PortMonitors

        return PortMonitors(self.log, self.identity)

    @later
    def waiting(self) -> "Waiting":
        """Waits for ports, lines, files."""
        from sandkeeper.processes.waiting import Waiting

        return Waiting(self.ports, self.files)

    @later
    def meter(self) -> "Meter":
        """What running processes use."""
        from sandkeeper.observability.figures import Meter

        return Meter(self.processes, self.ports)

    @later
    def _walkers(self) -> "Workers":
        from sandkeeper.search.find import Workers

        return Workers()

    @later
    def search(self) -> "FileSearch":
        """Finding files."""
        from sandkeeper.search.find import FileSearch

        return FileSearch(self._walkers, self.users.current)

    @later
    def ripgrep(self) -> "Ripgrep":
        """The program that searches contents."""
        from sandkeeper.search.ripgrep import Ripgrep

        return Ripgrep(self.children, self.users.current)

    @later
    def grep(self) -> "ContentSearch":
        """Finding lines."""
        from sandkeeper.search.content import ContentSearch

        return ContentSearch(self.ripgrep, self._walkers, self.users.current)

    @later
    def watches(self) -> "Watches":
        """Streams of changes."""
        from sandkeeper.watch.service import Watches

        return Watches(self.users.current, self.files.work)

    @later
    def changes(self) -> "Changes":
        """What has changed since."""
        from sandkeeper.watch.changes import Changes

        return Changes(self.users.current, self.watches.hubs)

    @later
    def contexts(self) -> "Contexts":
        """Code that keeps its state."""
        from sandkeeper.interpreter.service import Contexts
        from sandkeeper.interpreter.shops import code_shop

        return Contexts(
            self._workshop,
            self.processes,
            self.settings.code,
            *code_shop(self.settings.state_dir, self.environment, self.file_work),
        )

    async def started_contexts(self) -> "Contexts":
        """Return them, with those of an earlier server."""
        await self.contexts.start()
        return self.contexts

    async def code_begins(self) -> None:
        """Have the contexts of an earlier server taken up, and one made warm, beside the start."""
        begun = asyncio.ensure_future(self.contexts.start())
        begun.add_done_callback(self._code_began)

    def _code_began(self, begun: "asyncio.Future[None]") -> None:
        if not begun.cancelled() and (error := begun.exception()) is not None:
            self.log.error(f"code contexts cannot be taken up again: {error}")

    def abandon_made(self) -> None:
        """Send away who waits for changes and for code: the server stops."""
        for name in ("watches", "contexts"):
            if name in vars(self):
                getattr(self, name).abandon()

    async def close_made(self) -> None:
        """Close those that were made, the last first."""
        made = vars(self)
        if "relay" in made:
            self.relay.stop()
        closes: list[Callable[[], Awaitable[None]]] = [
            made[name].close
            for name in ("contexts", "git", "monitors", "waiting", "watches", "changes")
            if name in made
        ]
        for close in closes:
            await close()
        if "_walkers" in made:
            self._walkers.close()
