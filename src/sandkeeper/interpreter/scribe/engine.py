"""What the scribe asks of whatever runs code: a kernel or a shell."""

from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, Protocol, cast

from sandkeeper.interpreter.events import Outcome
from sandkeeper.interpreter.orders import Execute
from sandkeeper.journal.segment import Stream

__all__ = ["Engine", "EngineFailed", "Given", "Lost", "Tell", "Unsupported", "make_engine"]

Given = dict[str, str | int | float | bool | None]

ENGINES = {
    "kernel": "sandkeeper.interpreter.scribe.kernel:KernelEngine",
    "shell": "sandkeeper.interpreter.scribe.shell:ShellEngine",
}


class EngineFailed(Exception):
    """The interpreter cannot be spoken with; the text says why."""


class Lost(Exception):
    """Its process has ended, or what it said was lost: nobody will hear of the end from it."""


class Unsupported(Exception):
    """This interpreter cannot do that; the text says what."""


class Tell(Protocol):
    """Where an engine writes what an execution says. Nothing is written after its end."""

    def text(self, stream: Stream, data: bytes) -> None:
        """Add bytes of STDOUT or STDERR."""

    def event(self, kind: str, **fields: Any) -> None:
        """Add an event of `interpreter.events`; never its end."""


class Engine(Protocol):
    """Speaks with one process of an interpreter, in the scribe's event loop.

    At most one `execute` is under way at a time; the others may come at any time.
    """

    async def start(self) -> dict[str, Any]:
        """Wait until it takes code; returns facts about it. Raises EngineFailed, or Lost."""

    async def execute(self, order: Execute, tell: Tell) -> Outcome:
        """Have code run until the interpreter itself says that it is over.

        Raises Lost when its process ended first.
        """

    def resume(self, identifier: str, tell: Tell) -> Coroutine[Any, Any, Outcome]:
        """Return what hears of an execution that runs already: before `start`, awaited behind it.

        It says `unknown` where the interpreter does not tell any more how that ended.
        """

    async def interrupt(self) -> bool:
        """Stop what is being run, by a message; False where a SIGINT is what it listens to."""

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Answer `complete` (code, cursor), `inspect` (code, cursor, detail), `variables` (), or
        `adapt` (env, cwd: for good).

        Raises Unsupported, or Lost.
        """

    async def died(self) -> None:
        """Its process has ended: take in what it still said, then have what waits raise Lost."""

    def relieve(self, *, looks: bool) -> None:
        """Let go of what is held of messages none of which has become whole since it `looks`."""

    def close(self) -> None:
        """Let go of it; the process may go on."""


def make_engine(kind: str, given: Given) -> Engine:
    """Return an engine of a kind, loaded at need; raises EngineFailed, ImportError."""
    place = ENGINES.get(kind)
    if place is None:
        raise EngineFailed(f"there is no engine {kind!r}")
    module, _, name = place.partition(":")
    return cast("Callable[[Given], Engine]", getattr(import_module(module), name))(given)
