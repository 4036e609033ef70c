"""Since when and in which version the server runs."""

import time
from typing import Any

import msgspec

from sandkeeper import __version__
from sandkeeper.log.lines import timestamp

__all__ = ["Lifetime", "SandboxStatus"]


class SandboxStatus(msgspec.Struct, frozen=True):
    """What `/health` tells; times are RFC 3339, the uptime is in seconds."""

    version: str
    git_commit: str
    build_time: str
    uptime: float
    started_at: str
    upgrade_count: int
    last_upgrade: dict[str, Any]


class Lifetime:
    """Begins with its construction."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._started_at = timestamp()

    @property
    def uptime(self) -> float:
        """For how many seconds it has run."""
        return time.monotonic() - self._started

    def status(self, upgrades: int, last_upgrade: dict[str, Any]) -> SandboxStatus:
        """Describe the server."""
        return SandboxStatus(
            version=__version__,
            git_commit="unknown",
            build_time="unknown",
            uptime=self.uptime,
            started_at=self._started_at,
            upgrade_count=upgrades,
            last_upgrade=last_upgrade,
        )
