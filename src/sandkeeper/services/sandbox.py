"""The sandbox: builds every service, starts them in order and stops them in reverse."""

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from sandkeeper import __version__
from sandkeeper.core.child import Children
from sandkeeper.core.identity import Identity
from sandkeeper.core.sink import Sink, open_target
from sandkeeper.services.access import Access
from sandkeeper.services.codegen import Codegen
from sandkeeper.services.drives import Drives
from sandkeeper.services.egress import Egress
from sandkeeper.services.logs import Log, log_line, timestamp
from sandkeeper.services.providers import Host
from sandkeeper.services.tunnel import Tunnel
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
        self.codegen = Codegen(Host(environment, self.children), identity=self.identity)
        self.egress = Egress(settings.egress, environment, self.log)
        self.drives = Drives(
            settings.drives, environment, self.children, self.log, identity=self.identity
        )
        self.tunnel = Tunnel(settings.state_dir, environment, self.children, self.log)
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Start the services in order."""
        self._sink.start()
        self._stack.callback(self._sink.close)
        self._stack.push_async_callback(self.egress.stop)
        await self.egress.start()
        self._stack.push_async_callback(self.drives.stop)
        await self.drives.start()
        self._stack.push_async_callback(self.tunnel.stop)
        await self.tunnel.start()

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
