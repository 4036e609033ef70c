"""Where sandboxes come from, as the control plane sees it: this machine, or a fleet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sandkeeper.observability.machine_use import Use

__all__ = ["PAUSED", "RUNNING", "Sandbox", "SandboxOrder", "SandboxPage", "SandboxSource", "Wanted"]

RUNNING, PAUSED = "running", "paused"


@dataclass(frozen=True, slots=True)
class SandboxOrder:
    """A sandbox somebody wants, for `seconds`; `pause_at_end` instead of its end.

    `trusted` says that who asks may also say what programs of other users than the workload's
    start with. Of several orders with the same `key` all but the first are for what that one made.
    """

    template: str
    seconds: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    pause_at_end: bool = False
    trusted: bool = False
    key: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sandboxes a list is to have; what is empty rules nothing out.

    `after` is the `Page.after` of the page before. `oldest_first` turns the order around.
    """

    states: frozenset[str] = frozenset()
    metadata: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    started_after: float = 0.0
    oldest_first: bool = False
    limit: int = 100
    after: str = ""

    def fits(
        self, state: str, template: str, started_at: float, metadata: Mapping[str, str]
    ) -> bool:
        """Say whether a sandbox is one of these; asked of each of thousands."""
        for key, value in self.metadata.items():
            if metadata.get(key) != value:
                return False
        if self.states and state not in self.states:
            return False
        return started_at > self.started_after and self.template in {"", template}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that is there; times in seconds since the epoch, sizes in bytes.

    `token` is what its server asks for; empty when it asks for nothing. `domain` is what the names
    of its ports end with, empty when that is not known here.
    """

    id: str
    template: str
    state: str
    started_at: float
    ends_at: float
    metadata: Mapping[str, str]
    cpu_count: int
    memory: int
    disk: int
    token: str = field(default="", repr=False)
    domain: str = ""


@dataclass(frozen=True, slots=True)
class SandboxPage:
    """Some sandboxes; `after` is empty when no more follow."""

    found: Sequence[Sandbox]
    after: str = ""


class SandboxSource(Protocol):
    """Makes and ends sandboxes. Each method raises NotFound for an id that is none of a sandbox."""

    async def create(self, order: SandboxOrder) -> Sandbox:
        """Return a sandbox for an order; raises Unavailable when there is none to be had."""

    async def page(self, wanted: Wanted) -> SandboxPage:
        """Return some of those that run or are paused; raises BadInput for a bad `after`."""

    async def get(self, name: str) -> Sandbox:
        """Return one."""

    async def end(self, name: str) -> None:
        """End it, with all that runs in it."""

    async def keep(self, name: str, seconds: float, *, shorten: bool = True) -> Sandbox:
        """Have it end in so many seconds; unless `shorten`, not before it would have anyway."""

    async def pause(self, name: str) -> None:
        """Stop everything in it; raises Conflict when it is paused already."""

    async def resume(self, name: str, seconds: float) -> None:
        """Let everything in it go on, for so many seconds at least; nothing happens when it runs.

        All in one: what was paused past its end must not end before it is told how long it has.
        """

    async def use(self, name: str) -> Use:
        """Return how much of its machine it uses."""
