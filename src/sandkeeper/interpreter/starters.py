"""How the process of a context is started: by a kernelspec, or as a kept shell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sandkeeper.interpreter.specs import ContextSpec
from sandkeeper.linux.identity import Identity
from sandkeeper.processes.spec import ProcessSpec

__all__ = ["Prepared", "Starter"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A process to be started, and what the scribe's engine of that `kind` is made of."""

    kind: str
    kernel: str
    spec: ProcessSpec
    engine: dict[str, str | int | float | bool | None]


class Starter(Protocol):
    """Knows a kind of interpreter."""

    async def prepare(
        self, wanted: ContextSpec, place: Path, identity: Identity | None, generation: int
    ) -> Prepared:
        """Make ready what a start needs; raises BadInput, Unprocessable.

        `place` is the context's folder for sockets, pipes and files; it is the workload's (mode
        0700), so nothing there is believed by its name. `generation` counts the starts: names that
        hold it are new.
        """
