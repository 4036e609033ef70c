"""Process tools of the contract."""

import asyncio
from time import monotonic
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from sandkeeper.api.edge.rights import USER
from sandkeeper.api.mcp.tool import Arguments, NoArguments, Tool
from sandkeeper.api.schemas.processes import ProcessRecord, record_of
from sandkeeper.errors import BadInput, NotFound, Task, Unprocessable
from sandkeeper.journal.output import read_texts
from sandkeeper.linux.users import Users
from sandkeeper.log.access import Access, Caller
from sandkeeper.numerals import PORTS
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.spec import FullProcessFields, LimitsFields
from sandkeeper.processes.waiting import Waiting
from sandkeeper.settings import Settings

__all__ = ["IDENTIFIER", "Identifier", "ProcessTools", "tools"]

DEFAULT_SECONDS = 30
GRACE_SECONDS = 0.09
INLINE_BYTES = 64 << 10
LIST_BYTES = 8 << 20
LOG_BYTES = 4 << 20

IDENTIFIER = Annotated[str, Meta(description="Process id (pid), name or internal id")]


class Identifier(Arguments):
    """Which process."""

    identifier: IDENTIFIER


class ExecuteArguments(FullProcessFields, Arguments, kw_only=True):
    """What to run."""

    command: Annotated[str, Meta(description="Shell command line; empty where argv is given")]
    timeout: Annotated[
        int | None,
        Meta(
            description="Seconds. A process is killed after this time if it is given; a call waits "
            "so long, 30 by default and never over 58: then it answers with pollRequired. "
            "0 sets no limit. With keepAlive the default is 600."
        ),
    ] = None
    wait_for_completion: Annotated[
        bool, Meta(description="Answer when the process has ended, with its output")
    ] = False
    wait_for_ports: Annotated[
        list[int], Meta(description="Answer when the process listens on all of these")
    ] = field(default_factory=list)
    limits: Annotated[
        LimitsFields | None, Meta(description="What it and all it starts may use together")
    ] = None


class ProcessList(msgspec.Struct):
    """All processes, oldest first."""

    processes: list[ProcessRecord]


class Executed(msgspec.Struct, rename="camel"):
    """A process that was started; `logs` when it was waited for."""

    pid: str
    name: str
    status: str
    exit_code: int
    logs: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    poll_required: bool | UnsetType = UNSET


class Logs(msgspec.Struct):
    """Both streams in order of arrival."""

    logs: str


class Status(msgspec.Struct):
    """What was asked of the process."""

    status: str


class ProcessTools:
    """The tools over `processes.registry`."""

    def __init__(
        self,
        *,
        processes: Processes,
        waiting: Waiting,
        access: Access,
        settings: Settings,
        users: Users,
    ) -> None:
        self._processes = processes
        self._users = users
        self._waiting = waiting
        # Below the 60 seconds after which a gateway cuts a request.
        self._wait_most = settings.mcp_wait
        retention = settings.retention
        self._inline = min(INLINE_BYTES, retention.tail_bytes or INLINE_BYTES)
        self._whole = retention.logs_response_bytes or LOG_BYTES
        self._access = access

    async def list(self, _arguments: NoArguments, _who: Caller) -> ProcessList:
        """List all processes; their texts together stay within 8 MiB."""
        processes = self._processes.all()
        share = min(self._inline, max(1024, LIST_BYTES // max(1, len(processes))))
        return ProcessList([record_of(p, await read_texts(p.journal, share)) for p in processes])

    async def execute(self, wanted: ExecuteArguments, who: Caller) -> Executed:
        """Start a process and wait as asked, at most 58 seconds."""
        if wanted.argv and wanted.command:
            raise BadInput("give command or argv, not both: with argv, command is empty")
        wanted.command = wanted.line
        if not wanted.command:
            raise BadInput("command is empty")
        if any(port not in PORTS for port in wanted.wait_for_ports):
            raise BadInput("waitForPorts: a port is between 1 and 65535")
        self._users.check_reach(self._users.recorded(wanted.user))
        self._access.audit(
            "process_exec", who, command=wanted.command, working_dir=wanted.working_dir or "/"
        )
        began = monotonic()
        spec = wanted.spec(wanted.limits)
        spec.working_dir = spec.working_dir or "/"
        process, _ = await self._processes.start(spec)
        waits = wanted.wait_for_completion or bool(wanted.wait_for_ports)
        asked: float = DEFAULT_SECONDS if wanted.timeout is None else wanted.timeout
        if wanted.timeout is None and wanted.keep_alive:
            asked = process.meta.timeout
        most = asked if 0 < asked <= self._wait_most else self._wait_most
        if not waits or await self._reached(process, wanted, began + most):
            return await self._executed(process, with_logs=wanted.wait_for_completion)
        if asked == most:
            where = ""
            if process.meta.timeout > 0:
                where = "; it was killed"
            elif not process.is_over:
                where = f"; it is still running, see processGet {_id(process)}"
            raise Unprocessable(f"process timed out after {asked} seconds{where}")
        result = await self._executed(process, with_logs=wanted.wait_for_completion)
        result.poll_required = True
        result.message = (
            f"The process is still running after {monotonic() - began:.0f} seconds. "
            f"Look at it with processGet and the identifier {_id(process)}."
        )
        return result

    async def _reached(self, process: Process, wanted: ExecuteArguments, deadline: float) -> bool:
        """Wait for what is wanted; False when the deadline came first."""
        try:
            async with asyncio.timeout(max(0.0, deadline - monotonic())):
                if wanted.wait_for_ports:
                    await self._waiting.wait_for_ports(process, wanted.wait_for_ports)
                if wanted.wait_for_completion:
                    await process.wait()
        except TimeoutError:
            return False
        return not process.timed_out

    async def _executed(self, process: Process, *, with_logs: bool) -> Executed:
        meta = process.meta
        made = Executed(
            pid=meta.pid,
            name=meta.name,
            status=process.status,
            exit_code=(meta.exit_code or 0) if process.is_over else 0,
        )
        if with_logs:
            made.logs = (await read_texts(process.journal, self._whole)).logs
        return made

    async def get(self, wanted: Identifier, _who: Caller) -> ProcessRecord:
        """Show one process."""
        process = self._find(wanted)
        return record_of(process, await read_texts(process.journal, self._inline))

    async def logs(self, wanted: Identifier, who: Caller) -> Logs:
        """Return what a process wrote, its last 4 MiB."""
        self._access.audit("process_logs_access", who, identifier=wanted.identifier)
        process = self._find(wanted)
        return Logs((await read_texts(process.journal, self._whole)).logs)

    async def stop(self, wanted: Identifier, who: Caller) -> Status:
        """Send SIGTERM to the group."""
        self._access.audit("process_stop", who, identifier=wanted.identifier)
        process = self._find(wanted)
        process.stop(wanted.identifier)
        await _moment(process)
        return Status("stopped")

    async def kill(self, wanted: Identifier, who: Caller) -> Status:
        """Send SIGKILL to the group."""
        self._access.audit("process_kill", who, identifier=wanted.identifier)
        process = self._find(wanted)
        process.kill(wanted.identifier)
        await _moment(process)
        return Status("killed")

    def _find(self, wanted: Identifier) -> Process:
        process = self._processes.find(wanted.identifier)
        if process is None:
            raise NotFound("not found", task=Task.FIND_PROCESS, about=wanted.identifier)
        return process


def _id(process: Process) -> str:
    return process.meta.name or process.meta.pid


async def _moment(process: Process) -> None:
    """Give the signal a moment, so that the next look already tells the end."""
    waiter = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({waiter}, timeout=GRACE_SECONDS)
    finally:
        waiter.cancel()


def tools(made: ProcessTools) -> list[Tool]:
    """Return the process tools."""
    return [
        Tool(
            "processesList",
            "List all processes of the sandbox, running and finished.",
            NoArguments,
            ProcessList,
            made.list,
            "failed to list processes: ",
            need=USER,
        ),
        Tool(
            "processExecute",
            "Run a shell command as a supervised process. It goes on in the background unless "
            "waitForCompletion or waitForPorts is set.",
            ExecuteArguments,
            Executed,
            made.execute,
            "failed to execute process: ",
            need=USER,
        ),
        Tool(
            "processGet",
            "Show the status, exit code and latest output of a process.",
            Identifier,
            ProcessRecord,
            made.get,
            "failed to get process: ",
            need=USER,
        ),
        Tool(
            "processGetLogs",
            "Return what a process wrote to stdout and stderr, in order of arrival.",
            Identifier,
            Logs,
            made.logs,
            "failed to get process logs: ",
            need=USER,
        ),
        Tool(
            "processStop",
            "Ask a process and its children to end (SIGTERM).",
            Identifier,
            Status,
            made.stop,
            "failed to stop process: ",
            need=USER,
        ),
        Tool(
            "processKill",
            "End a process and its children at once (SIGKILL).",
            Identifier,
            Status,
            made.kill,
            "failed to kill process: ",
            need=USER,
        ),
    ]
