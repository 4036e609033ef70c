"""What the server and the scribe say to each other: frames of JSON over a unix socket.

A frame is its length (4 bytes, big-endian) and one message. The server's carry a number that the
answer repeats; the scribe's own are news.
"""

from typing import Any

import msgspec

from sandkeeper.interpreter.events import Outcome
from sandkeeper.interpreter.specs import ExecutionMeta

__all__ = [
    "HEAD_BYTES",
    "Attach",
    "Call",
    "Detach",
    "Died",
    "Execute",
    "Finish",
    "FromScribe",
    "Grown",
    "Hello",
    "Interrupt",
    "Order",
    "OrderAnswer",
    "SegmentFacts",
    "framed",
]

HEAD_BYTES = 4


class _Order(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="do"):
    number: int = 0


class Attach(_Order, tag="attach"):
    """Speak with the interpreter of a context; answered with its facts when it takes code.

    `folder` is where its executions are kept, `pid` its process, `running` the execution that
    another scribe has begun. One that is attached already is answered the same.
    """

    context: str
    kind: str
    generation: int
    pid: int
    folder: str
    engine: dict[str, str | int | float | bool | None]
    running: str = ""


class Execute(_Order, tag="execute"):
    """Run code once everything before it in this context is over; answered when it is on disk."""

    id: str
    context: str
    code: str
    env: dict[str, str] = {}
    cwd: str = ""
    silent: bool = False
    store_history: bool = True
    meta: ExecutionMeta | None = None


class Interrupt(_Order, tag="interrupt"):
    """Stop what a context runs; answered with `{"running": id or "", "done": by a message}`.

    With `only` that is done for this execution alone, and where it still waits it never runs.
    """

    context: str
    status: str = "interrupted"
    only: str = ""


class Call(_Order, tag="call"):
    """Ask the engine of a context something (scribe.engine)."""

    context: str
    name: str
    arguments: dict[str, Any] = {}


class Died(_Order, tag="died"):
    """The process of a context has ended: end what it ran with `outcome`, cancel what waits."""

    context: str
    generation: int
    outcome: Outcome


class Detach(_Order, tag="detach"):
    """Forget a context that is over."""

    context: str


class Finish(_Order, tag="finish"):
    """End an execution that no engine runs any more."""

    folder: str
    outcome: Outcome


Order = Attach | Execute | Interrupt | Call | Died | Detach | Finish


class _FromScribe(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="is"):
    pass


class OrderAnswer(_FromScribe, tag="answer"):
    """The answer to an order: a value, or what failed and of which kind."""

    number: int
    value: Any = None
    error: str = ""
    kind: str = ""


class SegmentFacts(msgspec.Struct, array_like=True):
    """A segment of a journal (journal.segment)."""

    base: int
    before: list[int]
    gap_from: int
    end: int | None


class Grown(_FromScribe, tag="grown"):
    """How an execution stands; `segments` are left out while they are the same."""

    meta: ExecutionMeta
    tail: int
    totals: list[int]
    segments: list[SegmentFacts] | None = None


class Hello(_FromScribe, tag="hello"):
    """The first message: who the scribe is and which contexts it speaks with."""

    pid: int
    born: int
    version: int = 1
    contexts: dict[str, int] = {}


FromScribe = OrderAnswer | Grown | Hello


def framed(message: Order | FromScribe) -> bytes:
    """Return a message as it goes over the socket."""
    data = msgspec.json.encode(message)
    return len(data).to_bytes(HEAD_BYTES, "big") + data
