"""What a kernel publishes about one execution, as output and events of its journal."""

import asyncio
from typing import Any, Protocol

from sandkeeper.interpreter.events import EndStatus, Outcome
from sandkeeper.interpreter.scribe.engine import Tell
from sandkeeper.interpreter.scribe.messages import Message, clean_text
from sandkeeper.journal.segment import STDERR, STDOUT
from sandkeeper.numerals import GO_INT

__all__ = ["PASSED_OVER", "Hearer", "Late", "Teller", "Witness"]

LATE_BYTES = 64 << 10
PASSED_OVER = frozenset({"aborted", "abort"})
"""What a kernel says of a request that it did not run."""


class Hearer(Protocol):
    """Somebody who hears what is published about one execution."""

    def hear(self, message: Message) -> None:
        """Take a message."""


class Witness:
    """Hears of one request only that the kernel is through with it: then `idle` is done.

    All else is for `other`: some kernels (Deno's) say what is late in the name of the next request.
    """

    def __init__(self, other: "Witness | None" = None) -> None:
        self.heard = 0
        self._other = other
        self.idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hear(self, message: Message) -> None:
        """Take a message."""
        self.heard += 1
        act = getattr(self, f"_on_{message.kind}", None)
        if act is not None:
            act(message.content())
        elif self._other is not None and message.kind != "execute_input":
            self._other.hear(message)

    def _on_status(self, content: dict[str, Any]) -> None:
        if content.get("execution_state") == "idle" and not self.idle.done():
            self.idle.set_result(None)


class Teller(Witness):
    """Writes down what is said of one execution."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell
        self._failed = False

    def refuse(self, content: dict[str, Any]) -> None:
        """Tell that input was asked for."""
        self._tell.event("inputRefused", prompt=str(content.get("prompt", "")))

    def missing(self, what: str) -> None:
        """Tell that something is missing."""
        self._tell.event("gap", reason="memory", what=what)

    def unheard(self) -> None:
        """Tell that the connection broke: the end of what is published will not be heard."""
        self.unfinished("a message that was too large, or all until the connection was there again")

    def unfinished(self, what: str) -> None:
        """Tell what is missing at the end: no more is waited for."""
        if not self.idle.done():
            self.missing(what)
            self.idle.set_result(None)

    def outcome(self, answer: dict[str, Any]) -> Outcome:
        """Return the end that a reply tells; tells the error, too, if nobody has."""
        status = str(answer.get("status", "ok"))
        for payload in answer.get("payload") or []:  # what a pager would show
            if isinstance(payload, dict) and isinstance(payload.get("data"), dict):
                self._tell.event("display", data=payload["data"], metadata={})
        if status in PASSED_OVER:
            return Outcome(EndStatus.CANCELLED, "the interpreter passed it over")
        if status == "ok":
            return Outcome("ok", execution_count=_count(answer))
        if not self._failed and "ename" in answer:
            self._on_error(answer)
        return Outcome("error", execution_count=_count(answer))

    def _on_execute_input(self, content: dict[str, Any]) -> None:
        self._tell.event("started", executionCount=_count(content))

    def _on_stream(self, content: dict[str, Any]) -> None:
        stream = STDERR if content.get("name") == "stderr" else STDOUT
        self._tell.text(stream, clean_text(str(content.get("text", ""))).encode())

    def _on_display_data(self, content: dict[str, Any]) -> None:
        self._tell.event("display", **_bundle(content))

    def _on_update_display_data(self, content: dict[str, Any]) -> None:
        self._tell.event("update", **_bundle(content))

    def _on_execute_result(self, content: dict[str, Any]) -> None:
        self._tell.event("result", **_bundle(content), executionCount=_count(content))

    def _on_clear_output(self, content: dict[str, Any]) -> None:
        self._tell.event("clear", wait=bool(content.get("wait")))

    def _on_error(self, content: dict[str, Any]) -> None:
        self._failed = True
        lines = content.get("traceback")
        self._tell.event(
            "error",
            name=str(content.get("ename", "")),
            value=clean_text(str(content.get("evalue", ""))),
            traceback=[str(line) for line in lines] if isinstance(lines, list) else [],
        )


class Late:
    """What threads of earlier executions say while nothing runs, for the next one: bounded."""

    def __init__(self) -> None:
        self._kept: list[Message] = []
        self._size = 0
        self._lost = 0

    def keep(self, message: Message) -> None:
        """Keep a message, or count it as lost."""
        size = len(message.raw)
        if self._size + size > LATE_BYTES:
            self._lost += 1
        else:
            self._kept.append(message)
            self._size += size

    def tell(self, teller: Teller) -> None:
        """Tell what was kept, and that something was lost."""
        kept, self._kept, self._size = self._kept, [], 0
        for message in kept:
            teller.hear(message)
        if self._lost:
            self._lost = 0
            teller.missing("what threads of earlier executions said")


def _count(content: dict[str, Any]) -> int | None:
    """Return a count that records hold, whatever a kernel says: none of true, or of 100 digits."""
    count = content.get("execution_count")
    return count if type(count) is int and 0 <= count < GO_INT else None


def _bundle(content: dict[str, Any]) -> dict[str, Any]:
    data, extra = content.get("data"), content.get("metadata")
    transient = content.get("transient")
    made: dict[str, Any] = {
        "data": data if isinstance(data, dict) else {},
        "metadata": extra if isinstance(extra, dict) else {},
    }
    if isinstance(transient, dict) and transient.get("display_id"):
        made["displayId"] = str(transient["display_id"])
    return made
