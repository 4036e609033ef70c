"""The sandbox: builds every service, starts them in order and stops them in reverse."""

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from sandkeeper import __version__
from sandkeeper.core.child import Children
from sandkeeper.core.identity import Identity
from sandkeeper.core.sink import Sink, open_target
from sandkeeper.core.temporaries import Temporaries
from sandkeeper.services.access import Access
from sandkeeper.services.archives import Archives
from sandkeeper.services.attributes import Attributes
from sandkeeper.services.copies import Copies
from sandkeeper.services.files import Files
from sandkeeper.services.logs import Log, log_line, timestamp
from sandkeeper.services.trees import Trees
from sandkeeper.services.uploads import Uploads
from sandkeeper.services.work import FileWork
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
        self.file_work = FileWork(lambda: self.identity)
        temporaries = Temporaries(settings.state_dir / "temporaries")
        self.files = Files(
            self.file_work,
            temporaries,
            settings.files,
            workdir=settings.workdir,
            home=settings.home,
        )
        self.uploads = Uploads(
            self.files,
            settings.files.upload_root,
            settings.state_dir / "uploads",
            settings.files.upload_seconds,
        )
        self.trees = Trees(self.files)
        self.copies = Copies(self.files)
        self.attributes = Attributes(self.files)
        self.archives = Archives(self.files)
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Start the services in order."""
        self._sink.start()
        self._stack.callback(self._sink.close)
        self._stack.callback(self.file_work.close)
        await self.files.start(self.log)
        self._stack.callback(self.files.stop)
        await self.uploads.start(self.log)
        self._stack.push_async_callback(self.uploads.stop)

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
