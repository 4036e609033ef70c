"""How the process of a context is started: by a kernelspec, or as a kept shell."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sandkeeper.interpreter.specs import ContextSpec
from sandkeeper.linux.identity import Identity
from sandkeeper.processes.spec import ProcessSpec

__all__ = ["Language", "Prepared", "Starter", "Starters"]


@dataclass(frozen=True, slots=True)
class Language:
    """What a context can be made of, by its `name`."""

    name: str
    language: str
    display_name: str


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

    async def languages(self, identity: Identity | None) -> list[Language]:
        """Return what it can start."""


class Starters:
    """Who starts which language: `named` by its name in lower case, `otherwise` all others."""

    def __init__(self, otherwise: Starter, named: Mapping[str, Starter]) -> None:
        self._otherwise = otherwise
        self._named = dict(named)

    def of(self, language: str) -> Starter:
        """Return who starts a language."""
        return self._named.get(language.lower(), self._otherwise)

    async def languages(self, identity: Identity | None) -> list[Language]:
        """Return what can be started, kernels first."""
        found: list[Language] = []
        for starter in dict.fromkeys((self._otherwise, *self._named.values())):
            found += await starter.languages(identity)
        return found
