"""Running an application on uvicorn, with the edge's limits and an orderly end."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator, Sequence

import uvicorn
import uvloop
from starlette.types import ASGIApp

from sandkeeper.api.edge.connections.departure import Departure, take_over
from sandkeeper.api.edge.connections.intake import PacedSocket
from sandkeeper.api.edge.connections.listening import tell_reach
from sandkeeper.api.edge.connections.protocol import EdgeProtocol
from sandkeeper.sandbox import Sandbox
from sandkeeper.upgrade.handover import HeldConnection

__all__ = ["serve"]

IDLE_SECONDS = 120
DRAIN_SECONDS = 10


def serve(
    app: ASGIApp,
    sandbox: Sandbox,
    listeners: Sequence[socket.socket],
    connections: Sequence[HeldConnection] = (),
) -> None:
    """Serve until SIGTERM or SIGINT; returns after the services have stopped.

    `connections` are those of the server before. When an upgrade is due it does not return: the
    process becomes the new version. Raises OSError if that fails.
    """
    # What it would log, the edge has logged already, as JSON and to the right place.
    uvicorn_log = logging.getLogger("uvicorn")
    uvicorn_log.addHandler(logging.NullHandler())
    uvicorn_log.propagate = False
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=EdgeProtocol,
        ws=PacedSocket,
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
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    EdgeProtocol.body_seconds = sandbox.settings.edge.body_seconds
    server = _Server(config, sandbox, connections)
    with contextlib.ExitStack() as stack:
        # uvicorn closes those it gets; an upgrade goes on with these.
        kept = [stack.enter_context(listener.dup()) for listener in listeners]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=list(listeners)))
        if server.left is not None:
            sandbox.replace(kept, server.left)


class _Server(uvicorn.Server):
    """Starts the sandbox before the first request and stops it after the last."""

    def __init__(
        self, config: uvicorn.Config, sandbox: Sandbox, connections: Sequence[HeldConnection]
    ) -> None:
        super().__init__(config)
        self._sandbox = sandbox
        self._connections = connections
        self.left: list[HeldConnection] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._sandbox.start()
        await super().startup(sockets=sockets)
        tell_reach(self._sandbox.log, self._sandbox.settings, sockets or [])
        for held in self._connections:
            await take_over(held, self._connection)

    def _connection(self) -> EdgeProtocol:
        return EdgeProtocol(self.config, self.server_state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._sandbox.upgrade.due

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._sandbox.upgrade.due and not self.should_exit:
            departure = Departure(self, self._sandbox)
            left = await departure.leave()
            await self._sandbox.stop()
            if not self.should_exit:  # nobody has told us meanwhile to end for good
                self.left = left
            return
        self._sandbox.begin_stop()
        await super().shutdown(sockets=sockets)
        await self._sandbox.stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT and then exit with 0.

        uvicorn's own way raises the signal again after the shutdown, so that an orderly end would
        look like a death by signal to whoever supervises us.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
