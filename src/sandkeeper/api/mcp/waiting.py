"""Tools beyond the contract that save an agent from polling: wait for, ask the log, feed."""

from typing import Annotated

import msgspec
from msgspec import Meta, field

from sandkeeper.api.edge.rights import USER
from sandkeeper.api.mcp.processes import IDENTIFIER
from sandkeeper.api.mcp.tool import Arguments, Tool
from sandkeeper.api.schemas.waiting import (
    ConditionFields,
    WaitRecord,
    condition_of,
    failure_text,
    record_of_wait,
)
from sandkeeper.errors import BadInput, Conflict, NotFound, Task, Unprocessable
from sandkeeper.files.service import Files
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.matching import Question
from sandkeeper.journal.query import LineQuery, ask, next_block
from sandkeeper.log.access import Access, Caller
from sandkeeper.numerals import PORTS
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.waiting import Condition, LineWritten, PortsOpen, ProcessEnds, Waiting

__all__ = ["WatchingTools", "tools"]

LINES_MOST = 5_000
ANSWER_BYTES = 1 << 20
OFFSETS = (1 << 62) - 1


class WaitArguments(Arguments):
    """What to wait for."""

    identifier: IDENTIFIER
    text: Annotated[str, Meta(description="Text that a line of the output must contain")] = ""
    regex: Annotated[str, Meta(description="RE2 pattern for a line, instead of text")] = ""
    ports: Annotated[list[int], Meta(description="Ports of which all must be open")] = field(
        default_factory=list
    )
    timeout: Annotated[float, Meta(description="Seconds, 58 at most", ge=0, le=3600)] = 30.0
    offset: Annotated[
        int, Meta(description="Where in the output to begin; 0 is its start", ge=0, le=OFFSETS)
    ] = 0


class Waited(msgspec.Struct, rename="camel"):
    """What came first: `output`, `ports`, `exited` or `timeout`.

    `offset` is where a next wait or query goes on.
    """

    reason: str
    status: str
    exit_code: int
    line: str
    offset: int


class WaitForArguments(Arguments):
    """What to wait for: one of `any`, or all of `all`."""

    identifier: IDENTIFIER
    any_of: Annotated[
        list[ConditionFields], Meta(description="One of these is enough", max_length=16)
    ] = field(default_factory=list, name="any")
    all_of: Annotated[
        list[ConditionFields], Meta(description="All of these, instead of any", max_length=16)
    ] = field(default_factory=list, name="all")
    timeout: Annotated[float, Meta(description="Seconds, 58 at most", ge=0, le=3600)] = 30.0


class QueryArguments(Arguments):
    """Which lines are wanted."""

    identifier: IDENTIFIER
    text: Annotated[str, Meta(description="Only lines that contain this")] = ""
    regex: Annotated[str, Meta(description="Only lines that match this RE2 pattern")] = ""
    ignore_case: Annotated[bool, Meta(description="Upper and lower case are the same")] = False
    stream: Annotated[str, Meta(description="stdout or stderr; both by default")] = ""
    tail: Annotated[int, Meta(description="Only the last so many", ge=0, le=LINES_MOST)] = 0
    limit: Annotated[int, Meta(description="At most so many", ge=1, le=LINES_MOST)] = 200
    offset: Annotated[
        int, Meta(description="Only lines from here on (an offset of before)", ge=0, le=OFFSETS)
    ] = 0


class Line(msgspec.Struct):
    """One line; `time` is RFC 3339 in UTC, `offset` where it begins."""

    line: int
    stream: str
    offset: int
    time: str
    text: str


class Lines(msgspec.Struct, rename="camel"):
    """The lines; `truncated` when there are more. `nextOffset` is where the next query goes on."""

    lines: list[Line]
    truncated: bool
    next_offset: int


class StdinArguments(Arguments):
    """What to write."""

    identifier: IDENTIFIER
    data: Annotated[str, Meta(description="Text to write; end a line with \\n yourself")] = ""
    close: Annotated[bool, Meta(description="Send end of file afterwards")] = False


class Written(msgspec.Struct, rename="camel"):
    """How much was written."""

    bytes_written: int
    closed: bool


class _Record(msgspec.Struct):
    type: str
    lines: int = 0
    offset: int = 0
    truncated: bool = False
    line: int = 0
    stream: str = ""
    time: str = ""
    text: str = ""


class WatchingTools:
    """The tools over logs and waits."""

    def __init__(
        self,
        *,
        processes: Processes,
        files: Files,
        waiting: Waiting,
        access: Access,
        mcp_wait: float,
    ) -> None:
        self._processes = processes
        self._files = files
        self._waiting = waiting
        self._access = access
        self._mcp_wait = mcp_wait

    async def wait(self, wanted: WaitArguments, _who: Caller) -> Waited:
        """Wait for a line, ports or the end."""
        process = self._find(wanted.identifier)
        if any(port not in PORTS for port in wanted.ports):
            raise BadInput("a port is between 1 and 65535")
        question = Question(grep=wanted.regex or wanted.text, literal=not wanted.regex)
        offset = _within(wanted.offset, process.journal)
        seconds = min(wanted.timeout, self._mcp_wait)
        reasons: dict[str, Condition] = {}
        if question.grep:
            reasons["output"] = LineWritten(question, offset)
        if wanted.ports:
            reasons["ports"] = PortsOpen(tuple(wanted.ports))
        conditions = list(reasons.values()) or [ProcessEnds()]
        found = await self._waiting.wait(process, conditions, every=False, seconds=seconds)
        met = dict(zip(reasons, found.met, strict=False))
        reason = next((name for name, one in met.items() if one), "")
        line = met.get("output")
        return Waited(
            reason=reason or ("timeout" if found.reason == "timeout" else "exited"),
            status=process.status,
            exit_code=(process.meta.exit_code or 0) if process.is_over else 0,
            line=line.line if line else "",
            offset=line.offset if line else process.journal.tail,
        )

    async def wait_for(self, wanted: WaitForArguments, _who: Caller) -> WaitRecord:
        """Wait until a process is ready; raises Unprocessable when it is not or never will be."""
        process = self._find(wanted.identifier)
        given = wanted.any_of or wanted.all_of
        if not given or (wanted.any_of and wanted.all_of):
            raise BadInput("either any or all must name conditions")
        conditions = [condition_of(one, process, self._files) for one in given]
        seconds = min(wanted.timeout, self._mcp_wait)
        outcome = await self._waiting.wait(
            process, conditions, every=bool(wanted.all_of), seconds=seconds
        )
        record = record_of_wait(process, conditions, outcome)
        if outcome.reason != "met":
            raise Unprocessable(failure_text(record, outcome, seconds))
        return record

    async def query(self, wanted: QueryArguments, who: Caller) -> Lines:
        """Answer a question to the log, at most 1 MiB of lines."""
        self._access.audit("process_logs_access", who, identifier=wanted.identifier)
        process = self._find(wanted.identifier)
        question = Question(
            stream=wanted.stream,
            first_offset=_within(wanted.offset, process.journal),
            grep=wanted.regex or wanted.text,
            literal=not wanted.regex,
            ignore_case=wanted.ignore_case,
            tail=min(wanted.tail, wanted.limit) if wanted.tail else 0,
            limit=wanted.limit,
        )
        query = await ask(process.journal, question)
        return await _collect(query)

    async def write_stdin(self, wanted: StdinArguments, who: Caller) -> Written:
        """Write to the standard input, and close it where asked."""
        process = self._find(wanted.identifier)
        if process.stdin is None:
            raise Conflict("the process was started without stdin")
        data = wanted.data.encode()
        self._access.audit(
            "process_stdin_write", who, identifier=wanted.identifier, bytes=len(data)
        )
        if data:
            await process.stdin.write(data)
        if wanted.close:
            process.stdin.close()
        return Written(len(data), wanted.close)

    def _find(self, identifier: str) -> Process:
        process = self._processes.find(identifier)
        if process is None:
            raise NotFound("not found", task=Task.FIND_PROCESS, about=identifier)
        return process


def _within(offset: int, journal: Journal) -> int:
    if offset > journal.tail:
        raise BadInput(f"offset {offset} is beyond the end of the output at {journal.tail}")
    return offset


async def _collect(query: LineQuery) -> Lines:
    lines: list[Line] = []
    size, end, behind = 0, 0, 0
    try:
        while (block := await next_block(query)) is not None:
            for raw in block.splitlines():
                record = msgspec.json.decode(raw, type=_Record)
                if record.type == "end":
                    # The query has read on to the end of a block: go on behind the last line.
                    cut = record.truncated and lines
                    return Lines(lines, record.truncated, end + 1 if cut else record.offset)
                if record.type != "line":
                    continue
                size += len(raw)
                if size > ANSWER_BYTES:
                    return Lines(lines, True, record.offset)
                if lines and record.line == lines[-1].line and record.offset == behind:
                    lines[-1].text += record.text  # a part of the same line
                else:
                    lines.append(
                        Line(record.line, record.stream, record.offset, record.time, record.text)
                    )
                end, behind = record.offset, record.offset + len(record.text.encode())
    finally:
        query.close()
    return Lines(lines, False, end)


def tools(made: WatchingTools) -> list[Tool]:
    """Return the tools that wait, ask and feed."""
    return [
        Tool(
            "processWait",
            "Wait until a process writes a line with a text or pattern, opens ports, or ends; "
            "answers with what came first. Without text, regex and ports it waits for the end.",
            WaitArguments,
            Waited,
            made.wait,
            "failed to wait for process: ",
            need=USER,
        ),
        Tool(
            "processWaitFor",
            "Wait until a process is ready: any or all of a port, an HTTP answer, a line of "
            "output, a file, its exit. Fails at once when the process ends before.",
            WaitForArguments,
            WaitRecord,
            made.wait_for,
            "failed to wait for process: ",
            need=USER,
        ),
        Tool(
            "processQueryLogs",
            "Search the output of a process on the server: text or RE2 pattern, one stream, the "
            "last lines, or from an offset on. Cheaper than fetching all logs.",
            QueryArguments,
            Lines,
            made.query,
            "failed to query process logs: ",
            need=USER,
        ),
        Tool(
            "processWriteStdin",
            "Write text to the standard input of a process that was started with stdin.",
            StdinArguments,
            Written,
            made.write_stdin,
            "failed to write to process: ",
            need=USER,
        ),
    ]
