"""Wire structs of code contexts and executions."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from sandkeeper.api.schemas.processes import limits_of
from sandkeeper.interpreter.context import Context
from sandkeeper.interpreter.execution import Execution
from sandkeeper.interpreter.specs import ContextSpec, ExecutionSpec
from sandkeeper.linux.clocks import rfc3339_milliseconds

__all__ = [
    "CompletionRequest",
    "ContextList",
    "ContextRecord",
    "ContextRequest",
    "ExecuteRequest",
    "ExecutionRecord",
    "InspectRequest",
    "context_record",
    "execution_record",
]

_DAY = 86400


class ContextRequest(msgspec.Struct, rename="camel"):
    """The body of `POST /code/contexts`."""

    language: Annotated[
        str, Meta(description="A kernel's name, the language of one, or `bash`")
    ] = "python"
    name: Annotated[str, Meta(description="What its clients call it; any number may share one")] = (
        ""
    )
    cwd: Annotated[str, Meta(description="Folder to run in")] = ""
    env: Annotated[dict[str, str], Meta(description="Variables on top of the server's")] = {}
    limits: dict[str, Any] = {}
    user: str = ""
    inherit_env: bool = True
    tag: str = ""
    idle_seconds: Annotated[
        float, Meta(ge=0, le=365 * _DAY, description="End it after so long without use; 0: never")
    ] = 0.0

    def spec(self) -> ContextSpec:
        """Return what is wanted; raises BadInput for limits that are none."""
        fields = {name: getattr(self, name) for name in ContextSpec.__struct_fields__}
        given = limits_of(self.limits)
        return ContextSpec(**{**fields, "limits": None if given is None else given.limits()})


class ExecuteRequest(msgspec.Struct, rename="camel"):
    """The body of `POST /code/contexts/{id}/execute`; `timeout` in seconds."""

    code: str
    env: Annotated[dict[str, str], Meta(description="Variables for this execution alone")] = {}
    cwd: Annotated[str, Meta(description="Folder for this execution alone")] = ""
    timeout: Annotated[float, Meta(gt=0, le=365 * _DAY)] | None = None
    silent: Annotated[bool, Meta(description="Neither count it nor tell its result")] = False
    store_history: bool = True
    background: Annotated[bool, Meta(description="Answer 202 with its record at once")] = False

    def spec(self) -> ExecutionSpec:
        """Return what is wanted."""
        return ExecutionSpec(
            self.code, self.env, self.cwd, self.silent, self.store_history, self.timeout
        )


class CompletionRequest(msgspec.Struct, rename="camel"):
    """The body of `…/complete`: the cursor in characters, at the end of the code without one."""

    code: str
    cursor: Annotated[int, Meta(ge=0)] | None = None

    @property
    def place(self) -> int:
        """Where the cursor is."""
        return len(self.code) if self.cursor is None else self.cursor


class InspectRequest(CompletionRequest):
    """The body of `…/inspect`; `detail` 1 asks for more, as the source."""

    detail: Annotated[int, Meta(ge=0, le=1)] = 0


class ContextRecord(msgspec.Struct, rename="camel"):
    """A context as clients see it; `process` is its entry in `GET /process`.

    `state` is `starting`, `idle`, `busy` or `dead` (then `reason` says why).
    """

    id: str
    name: str
    language: str
    kernel: str
    state: str
    reason: str
    cwd: str
    process: str
    pid: str
    created_at: str
    idle_seconds: float
    tag: str
    user: str
    executions: int
    version: str
    implementation: str


class ContextList(msgspec.Struct):
    """The answer of `GET /code/contexts`."""

    contexts: list[ContextRecord]


class ExecutionRecord(msgspec.Struct, rename="camel"):
    """An execution as clients see it; `cursor` is where its journal ends at present.

    `status` is `queued`, `running`, or how it ended (docs/code.md).
    """

    id: str
    context: str
    status: str
    reason: str
    execution_count: int | None
    exit_code: int | None
    exit_signal: int | None
    created_at: str
    started_at: str
    ended_at: str
    cursor: int


def context_record(context: Context) -> ContextRecord:
    """Return a context as clients see it."""
    meta, process, facts = context.meta, context.process, context.facts
    return ContextRecord(
        id=meta.id,
        name=meta.name,
        language=str(facts.get("language") or meta.language),
        kernel=meta.kernel,
        state=context.state,
        reason=context.end_reason,
        cwd=process.meta.working_dir if process else meta.cwd,
        process=process.meta.name if process else "",
        pid=process.meta.pid if process else "",
        created_at=_moment(meta.created_at),
        idle_seconds=meta.idle_seconds,
        tag=meta.tag,
        user=meta.user,
        executions=len(context.executions),
        version=str(facts.get("version", "")),
        implementation=str(facts.get("implementation", "")),
    )


def execution_record(execution: Execution) -> ExecutionRecord:
    """Return an execution as clients see it."""
    meta = execution.meta
    return ExecutionRecord(
        id=meta.id,
        context=meta.context,
        status=meta.status,
        reason=meta.reason,
        execution_count=meta.execution_count,
        exit_code=meta.exit_code,
        exit_signal=meta.exit_signal,
        created_at=_moment(meta.created_at),
        started_at=_moment(meta.started_at),
        ended_at=_moment(meta.ended_at),
        cursor=execution.tail,
    )


def _moment(seconds: float) -> str:
    """Return a time as RFC 3339, empty for none."""
    return rfc3339_milliseconds(seconds, local=False) if seconds else ""
