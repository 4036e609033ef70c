"""Running an application on uvicorn, with the edge's limits and an orderly end."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import FrameType
from typing import Any, Protocol

import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import Server

from sandkeeper.api.edge.connections.departure import Departure, take_over
from sandkeeper.api.edge.connections.ending import Ending
from sandkeeper.api.edge.connections.lifesigns import ask_now, ask_quiet_ones
from sandkeeper.api.edge.connections.listening import tell_reach
from sandkeeper.api.edge.connections.protocol import EdgeProtocol
from sandkeeper.api.edge.connections.reply import Reply
from sandkeeper.api.edge.urls import Leads, leads_nowhere, names_other_port
from sandkeeper.errors import SandkeeperError
from sandkeeper.linux.clocks import WORK
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.servicemanager import ServiceManager
from sandkeeper.log.lines import Log
from sandkeeper.network.isolation import Isolation
from sandkeeper.settings import Settings
from sandkeeper.upgrade.handover import HeldConnection

__all__ = ["serve"]

IDLE_SECONDS = 120
DRAIN_SECONDS = 10
LOOK_SECONDS = 1.0

Tell = Callable[[Log, Settings, Sequence[socket.socket]], None]


class Due(Protocol):
    """Whether another version is to take our place."""

    when_due: Callable[[], object]
    """Called as soon as it is."""

    @property
    def due(self) -> bool:
        """Whether it is."""


class Services(Protocol):
    """What the application stands on: started before the first request, stopped after the last."""

    settings: Settings
    log: Log
    identity: Identity | None

    @property
    def upgrade(self) -> Due:
        """What says that another version is due."""

    async def start(self) -> None:
        """Start; raises OSError, SandkeeperError."""

    def begin_stop(self) -> None:
        """Send everybody away who waits for what will not come any more."""

    async def stop(self) -> None:
        """Stop what `start` started."""

    def replace(self, listeners: Sequence[socket.socket], held: Sequence[HeldConnection]) -> None:
        """Become the version that is due; raises OSError."""


class Application(Protocol):
    """An ASGI application that can answer some requests at once, to the last byte."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""

    def plain(self, scope: Scope, body: bytes, reply: Reply) -> bool | Coroutine[None, None, None]:
        """Answer a whole request, at once or by what is returned; False: it cannot."""


def serve(
    app: Application,
    services: Services,
    listeners: Sequence[socket.socket],
    connections: Sequence[HeldConnection] = (),
    manager: ServiceManager | None = None,
    *,
    tell: Tell = tell_reach,
    leads: Leads | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; returns after the services have stopped.

    `connections` are those of the server before, `manager` is told how we are; `tell` logs where
    the server listens, `leads` says which requests name another server by a field (unless given,
    E2B's). When an upgrade is due it does not return: the process becomes the new version. Raises
    OSError if that fails, SandkeeperError when the services cannot be started.
    """
    # What it would log, the edge has logged already, as JSON and to the right place.
    uvicorn_log = logging.getLogger("uvicorn")
    uvicorn_log.addHandler(logging.NullHandler())
    uvicorn_log.propagate = False
    config = Config(
        app,
        loop="uvloop",
        http=EdgeProtocol,
        ws=_socket,  # type: ignore[arg-type]  # called as a class is
        ws_max_size=1 << 20,
        ws_ping_interval=30.0,
        ws_ping_timeout=60.0,
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=2048,
        timeout_keep_alive=IDLE_SECONDS,
    )
    EdgeProtocol.plain = staticmethod(app.plain)
    if services.settings.isolated and services.identity is not None:
        EdgeProtocol.isolation = Isolation(services.identity.uid)
    EdgeProtocol.body_seconds = services.settings.edge.body_seconds
    EdgeProtocol.port_names = services.settings.edge.port_names
    usual = names_other_port if services.settings.e2b.enabled else leads_nowhere
    EdgeProtocol.leads = staticmethod(leads or usual)
    server = _Server(config, services, connections, manager or ServiceManager(), tell)
    with contextlib.ExitStack() as stack:
        # uvicorn closes those it gets; an upgrade goes on with these.
        server.kept = [stack.enter_context(listener.dup()) for listener in listeners]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=list(listeners)))
        if server.left is not None:
            services.replace(server.kept, server.left)


def _socket(**values: Any) -> asyncio.Protocol:
    """Make the protocol of a WebSocket; what it needs is loaded with the first."""
    from sandkeeper.api.edge.connections.frames import PacedSocket

    return PacedSocket(**values)


class _Server(Server):
    """Starts the services before the first request and stops it after the last."""

    def __init__(
        self,
        config: Config,
        services: Services,
        connections: Sequence[HeldConnection],
        manager: ServiceManager,
        tell: Tell,
    ) -> None:
        super().__init__(config)
        self._tell = tell
        self._services = services
        self._manager = manager
        self._connections = connections
        self.kept: list[socket.socket] = []
        self.left: list[HeldConnection] | None = None
        self._rung = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await self._services.start()
        except SandkeeperError:  # what was asked for at the start cannot be had
            await self._services.stop()
            raise
        for listener in sockets or []:
            ask_quiet_ones(listener)
        await super().startup(sockets=sockets)
        WORK.woken.append(self._woken)
        self._tell(self._services.log, self._services.settings, sockets or [])
        for held in self._connections:
            await take_over(held, self._connection)
        self._manager.ready(asyncio.get_running_loop(), self.kept)

    def _woken(self, _seconds: float) -> None:
        ask_now(one.transport for one in self.server_state.connections if one.transport)

    def _connection(self) -> EdgeProtocol:
        return EdgeProtocol(self.config, self.server_state, self.lifespan.state)

    async def main_loop(self) -> None:
        """Look when something rings, and once a second for the date of answers.

        uvicorn looks ten times a second: that is most of what a server does that nobody asks.
        """
        self._services.upgrade.when_due = self._rung.set
        while not await self.on_tick(0):
            self._rung.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._rung.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._rung.set()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._services.upgrade.due

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        with contextlib.suppress(ValueError):  # it never came to listen
            WORK.woken.remove(self._woken)
        if self._services.upgrade.due and not self.should_exit:
            drain = self._services.settings.upgrade.drain
            departure = Departure(self, drain=drain, begin_stop=self._services.begin_stop)
            left = await departure.leave()
            await self._services.stop()
            if not self.should_exit:  # nobody has told us meanwhile to end for good
                self.left = left
            return
        self._manager.stopping()
        self._services.begin_stop()
        await Ending(self, [*(sockets or []), *self.kept], seconds=DRAIN_SECONDS).end()
        await self._services.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT and then exit with 0, also when told a second time.

        uvicorn's own way raises the signal again after the shutdown, so that an orderly end would
        look like a death by signal to whoever supervises us. The loop's own way has a moment at its
        end in which the next signal kills.
        """
        loop = asyncio.get_running_loop()

        def told(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.handle_exit, number, frame)

        before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                # The other version is about to have its own handlers.
                signal.signal(number, signal.SIG_IGN if self.left is None else handler)
