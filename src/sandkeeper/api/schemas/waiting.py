"""Wire structs of the readiness wait, shared by HTTP and MCP."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sandkeeper.errors import BadInput
from sandkeeper.files.service import Files
from sandkeeper.journal.matching import Question
from sandkeeper.processes.process import Process
from sandkeeper.processes.waiting import (
    Condition,
    FileExists,
    HttpAnswers,
    LineWritten,
    Outcome,
    PortsOpen,
    ProcessEnds,
)

__all__ = ["ConditionFields", "WaitRecord", "condition_of", "failure_text", "record_of_wait"]

OFFSETS = (1 << 62) - 1

Port = Annotated[int, Meta(ge=1, le=65535)]


class HttpFields(msgspec.Struct, forbid_unknown_fields=True):
    """A GET to a port of the sandbox."""

    port: Annotated[Port, Meta(description="A port of the sandbox")]
    path: Annotated[str, Meta(description="With its query, percent-encoded")] = "/"
    status: Annotated[int, Meta(ge=100, le=599, description="Any of 200 to 399 if left out")] | (
        None
    ) = None


class LogFields(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A line of the output."""

    text: Annotated[str, Meta(description="Text the line contains")] = ""
    pattern: Annotated[str, Meta(description="RE2 pattern for the line, instead of text")] = ""
    stream: Annotated[str, Meta(description="stdout or stderr; both if left out")] = ""
    ignore_case: Annotated[bool, Meta(description="Upper and lower case are the same")] = False
    offset: Annotated[
        int, Meta(ge=0, le=OFFSETS, description="Where in the output to begin; 0 is its start")
    ] = 0


class ConditionFields(msgspec.Struct, forbid_unknown_fields=True):
    """One condition: exactly one of `port`, `http`, `log`, `file` and `exit`."""

    port: (
        Annotated[int, Meta(ge=1, le=65535, description="A process of the tree listens on it")]
        | None
    ) = None
    loopback: Annotated[bool, Meta(description="With port: 127.0.0.1 counts too")] = False
    http: Annotated[HttpFields | None, Meta(description="A GET is answered")] = None
    log: Annotated[LogFields | None, Meta(description="A line was written")] = None
    file: Annotated[str, Meta(description="A path that exists, ~ is the home folder")] | None = None
    exit: (
        Annotated[bool | int, Meta(description="true: it is over; a number: with this exit code")]
        | None
    ) = None


class ConditionRecord(msgspec.Struct):
    """A condition in words, whether it is met, and what met it."""

    condition: str
    met: bool
    line: str | UnsetType = UNSET
    offset: int | UnsetType = UNSET
    status: int | UnsetType = UNSET


class WaitRecord(msgspec.Struct, rename="camel"):
    """The process and its conditions in the given order; `offset` is the end of its output."""

    status: str
    exit_code: int
    offset: int
    conditions: list[ConditionRecord]


def condition_of(given: ConditionFields, process: Process, files: Files) -> Condition:
    """Make the condition of its wire form; raises BadInput."""
    named = [
        name for name in ("port", "http", "log", "file", "exit") if getattr(given, name) is not None
    ]
    if len(named) != 1:
        raise BadInput("a condition has exactly one of port, http, log, file and exit")
    if given.loopback and given.port is None:
        raise BadInput("loopback belongs to port")
    if given.port is not None:
        return PortsOpen((given.port,), given.loopback)
    if given.http is not None:
        return HttpAnswers(given.http.port, given.http.path, given.http.status or 0)
    if given.log is not None:
        return _line(given.log, process)
    if given.file is not None:
        return _file(given.file, files)
    return _end(given.exit)


def _line(given: LogFields, process: Process) -> Condition:
    if bool(given.text) == bool(given.pattern):
        raise BadInput("log needs either text or pattern")
    if given.offset > process.journal.tail:
        tail = process.journal.tail
        raise BadInput(f"offset {given.offset} is beyond the end of the output at {tail}")
    question = Question(
        stream=given.stream,
        grep=given.pattern or given.text,
        literal=not given.pattern,
        ignore_case=given.ignore_case,
    )
    return LineWritten(question, given.offset)


def _file(path: str, files: Files) -> Condition:
    if not path or "\0" in path:
        raise BadInput("file is empty or has a NUL byte")
    return FileExists(files.resolve_text(path).absolute)


def _end(given: bool | int | None) -> Condition:
    if given is False:
        raise BadInput("exit is true or an exit code")
    return ProcessEnds(None if given is True else given)


def record_of_wait(process: Process, conditions: list[Condition], outcome: Outcome) -> WaitRecord:
    """Make the record of a wait that has ended."""
    records = []
    for condition, met in zip(conditions, outcome.met, strict=True):
        record = ConditionRecord(str(condition), met is not None)
        if met is not None and isinstance(condition, LineWritten):
            record.line, record.offset = met.line, met.offset
        if met is not None and met.status:
            record.status = met.status
        records.append(record)
    code = (process.meta.exit_code or 0) if process.is_over else 0
    return WaitRecord(process.status, code, process.journal.tail, records)


def failure_text(record: WaitRecord, outcome: Outcome, seconds: float) -> str:
    """Say why the wait failed, and what was met and what was not."""
    why = f"not ready within {seconds:g} seconds"
    if outcome.reason == "exited":
        why = f"the process ended ({record.status}, exit code {record.exit_code})"
    unmet = [one.condition for one in record.conditions if not one.met]
    met = [one.condition for one in record.conditions if one.met]
    text = f"{why}; not met: {', '.join(unmet)}"
    return text + (f"; met: {', '.join(met)}" if met else "")
