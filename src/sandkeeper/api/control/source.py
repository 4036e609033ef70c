"""Where sandboxes come from, as the control plane sees it: this machine, or a fleet."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sandkeeper.observability.machine_use import Use

__all__ = ["PAUSED", "RUNNING", "Order", "Sandbox", "Source"]

RUNNING, PAUSED = "running", "paused"


@dataclass(frozen=True, slots=True)
class Order:
    """A sandbox somebody wants, for `seconds`; `pause_at_end` instead of its end.

    `trusted` says that who asks may also say what programs of other users than the workload's
    start with.
    """

    template: str
    seconds: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    pause_at_end: bool = False
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that is there; times in seconds since the epoch, sizes in bytes."""

    id: str
    template: str
    state: str
    started_at: float
    ends_at: float
    metadata: Mapping[str, str]
    cpu_count: int
    memory: int
    disk: int


class Source(Protocol):
    """Makes and ends sandboxes. Each method raises NotFound for an id that is none of a sandbox."""

    async def create(self, order: Order) -> Sandbox:
        """Return a sandbox for an order; raises Unavailable when there is none to be had."""

    async def list(self) -> list[Sandbox]:
        """Return all that run or are paused."""

    async def get(self, name: str) -> Sandbox:
        """Return one."""

    async def end(self, name: str) -> None:
        """End it, with all that runs in it."""

    async def keep(self, name: str, seconds: float, *, shorten: bool = True) -> Sandbox:
        """Have it end in so many seconds; unless `shorten`, not before it would have anyway."""

    async def pause(self, name: str) -> None:
        """Stop everything in it; raises Conflict when it is paused already."""

    async def resume(self, name: str) -> None:
        """Let everything in it go on; nothing happens when it runs."""

    async def use(self, name: str) -> Use:
        """Return how much of its machine it uses."""
