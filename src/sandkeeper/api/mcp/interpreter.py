"""Tools for code that keeps its state, all beyond the contract: contexts, executions, results."""

from collections.abc import Awaitable, Callable
from contextlib import closing
from time import monotonic
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from sandkeeper.api.edge.rights import USER
from sandkeeper.api.mcp.run_results import Collected, LanguageError
from sandkeeper.api.mcp.tool import Arguments, NoArguments, Tool
from sandkeeper.errors import BadInput
from sandkeeper.interpreter.context import Context
from sandkeeper.interpreter.execution import Execution
from sandkeeper.interpreter.service import Contexts
from sandkeeper.interpreter.specs import ContextSpec, ExecutionSpec
from sandkeeper.journal.turns import Turns
from sandkeeper.log.access import Access, Caller

__all__ = ["InterpreterTools", "tools"]

SILENCE_SECONDS = 5.0
CURSORS = (1 << 62) - 1

CONTEXT = Annotated[str, Meta(description="Context id, see codeContexts")]


class RunArguments(Arguments):
    """What to run, and where."""

    code: Annotated[str, Meta(description="The code; variables, imports, folder stay for later")]
    language: Annotated[
        str, Meta(description="python by default, bash, or another that codeContexts lists")
    ] = ""
    context_id: Annotated[
        str, Meta(description="Context to run in; else the shared one of the language")
    ] = ""
    env: Annotated[dict[str, str], Meta(description="Variables for this run alone")] = field(
        default_factory=dict
    )
    working_dir: Annotated[str, Meta(description="Folder for this run alone")] = ""
    timeout: (
        Annotated[float, Meta(description="Seconds; then the code is interrupted", ge=0, le=604800)]
        | None
    ) = None


class LookArguments(Arguments):
    """Which execution, from where on."""

    execution_id: Annotated[str, Meta(description="What codeRun has returned")]
    cursor: Annotated[
        int, Meta(description="Where to go on; 0 is the beginning", ge=0, le=CURSORS)
    ] = 0
    wait: Annotated[
        float, Meta(description="Seconds to wait for the end, 58 at most", ge=0, le=3600)
    ] = 0.0


class CreateArguments(Arguments):
    """Which context to make."""

    language: Annotated[str, Meta(description="python, bash, or what codeContexts lists")] = (
        "python"
    )
    working_dir: Annotated[str, Meta(description="Folder to begin in")] = ""
    env: Annotated[dict[str, str], Meta(description="Variables on top of the server's")] = field(
        default_factory=dict
    )


class ContextArguments(Arguments):
    """Which context."""

    context_id: CONTEXT


class ContextListed(msgspec.Struct, rename="camel"):
    """A context; `state` is `starting`, `idle`, `busy`, `restarting` or `dead`."""

    id: str
    language: str
    working_dir: str
    state: str


class ContextsListed(msgspec.Struct, rename="camel"):
    """All contexts, and the languages that new ones may have."""

    contexts: list[ContextListed]
    languages: list[str]


class Ran(msgspec.Struct, rename="camel", dict=True):
    """What an execution has said since the cursor that was asked from; `images` go beside it."""

    execution_id: str
    context_id: str
    status: str
    stdout: str
    stderr: str
    results: list[dict[str, Any]]
    cursor: int
    truncated: bool
    execution_count: int | UnsetType = UNSET
    exit_code: int | UnsetType = UNSET
    error: LanguageError | UnsetType = UNSET
    poll_required: bool | UnsetType = UNSET
    message: str | UnsetType = UNSET


class ContextDone(msgspec.Struct):
    """What became of a context."""

    status: str


class VariableList(msgspec.Struct):
    """What a context knows: name, type and value of each, as far as its language tells."""

    variables: list[dict[str, Any]]


class InterpreterTools:
    """The tools over `interpreter.service`."""

    def __init__(
        self,
        *,
        contexts: Callable[[], Awaitable[Contexts]],
        access: Access,
        turns: Turns,
        mcp_wait: float,
    ) -> None:
        self._contexts = contexts
        self._access = access
        self._turns = turns
        self._mcp_wait = mcp_wait

    async def run(self, wanted: RunArguments, who: Caller) -> Ran:
        """Run code and wait for its end, at most 58 seconds."""
        if wanted.context_id and wanted.language:
            raise BadInput("contextId or language: a context has its language")
        contexts = await self._contexts()
        if wanted.context_id:
            context = contexts.get(wanted.context_id)
        else:
            context = await contexts.default(wanted.language or "python")
        self._access.audit("code_execute", who, context=context.meta.id)
        spec = ExecutionSpec(
            wanted.code, env=wanted.env, cwd=wanted.working_dir, timeout=wanted.timeout or None
        )
        execution, _ = await contexts.execute(context, spec)
        return await self._look(execution, 0, self._mcp_wait)

    async def look(self, wanted: LookArguments, _who: Caller) -> Ran:
        """Show what an execution has said since."""
        contexts = await self._contexts()
        execution = contexts.execution(wanted.execution_id)
        return await self._look(execution, wanted.cursor, min(wanted.wait, self._mcp_wait))

    async def _look(self, execution: Execution, cursor: int, seconds: float) -> Ran:
        collected = Collected(cursor)
        stream = await execution.follow(cursor, turns=self._turns, consumer="mcp")
        deadline = monotonic() + seconds
        with closing(stream):
            while (left := max(0.0, deadline - monotonic())) or not collected.over:
                events = await stream.next(min(left, SILENCE_SECONDS))
                if events is None or (not events and left == 0):
                    break
                for event in events:
                    await collected.take(event)
        return _ran(execution, collected)

    async def list(self, _arguments: NoArguments, _who: Caller) -> ContextsListed:
        """List all contexts."""
        contexts = await self._contexts()
        names = [one.name for one in await contexts.languages()]
        return ContextsListed([_shown(one) for one in contexts.all()], names)

    async def create(self, wanted: CreateArguments, who: Caller) -> ContextListed:
        """Make a context."""
        self._access.audit("code_context_create", who, language=wanted.language)
        spec = ContextSpec(language=wanted.language, cwd=wanted.working_dir, env=wanted.env)
        contexts = await self._contexts()
        context, _ = await contexts.create(spec)
        return _shown(context)

    async def variables(self, wanted: ContextArguments, _who: Caller) -> VariableList:
        """List the variables of a context."""
        contexts = await self._contexts()
        return VariableList(await contexts.variables(contexts.get(wanted.context_id)))

    async def interrupt(self, wanted: ContextArguments, who: Caller) -> ContextDone:
        """Interrupt what a context runs."""
        contexts, context = await self._named(wanted, who, "code_context_interrupt")
        return ContextDone(await contexts.interrupt(context))

    async def restart(self, wanted: ContextArguments, who: Caller) -> ContextDone:
        """Begin a context anew."""
        contexts, context = await self._named(wanted, who, "code_context_restart")
        await contexts.restart(context)
        return ContextDone("restarted")

    async def delete(self, wanted: ContextArguments, who: Caller) -> ContextDone:
        """End a context."""
        contexts, context = await self._named(wanted, who, "code_context_delete")
        await contexts.delete(context)
        return ContextDone("deleted")

    async def _named(
        self, wanted: ContextArguments, who: Caller, what: str
    ) -> tuple[Contexts, Context]:
        contexts = await self._contexts()
        context = contexts.get(wanted.context_id)
        self._access.audit(what, who, context=context.meta.id)
        return contexts, context


def _shown(context: Context) -> ContextListed:
    meta = context.meta
    return ContextListed(meta.id, meta.language, meta.cwd, context.state)


def _ran(execution: Execution, collected: Collected) -> Ran:
    meta, found = execution.meta, collected.results
    made = Ran(
        execution_id=meta.id,
        context_id=meta.context,
        status=meta.status,
        stdout=found.stdout.text(),
        stderr=found.stderr.text(),
        results=found.bundles,
        cursor=collected.cursor,
        truncated=found.truncated,
    )
    if meta.execution_count is not None:
        made.execution_count = meta.execution_count
    if meta.exit_code is not None:
        made.exit_code = meta.exit_code
    if found.error is not None:
        made.error = found.error
    if not meta.is_over:
        made.poll_required = True
        made.message = (
            f"The code still runs. Look with codeExecution, executionId {meta.id} and this cursor; "
            "codeInterrupt stops it."
        )
    made.__dict__["images"] = found.images
    return made


def _images(result: msgspec.Struct) -> list[dict[str, str]]:
    """Return the pictures of a run as blocks of content."""
    found: list[tuple[str, str]] = getattr(result, "images", [])
    return [{"type": "image", "mimeType": kind, "data": data} for kind, data in found]


def tools(made: InterpreterTools) -> list[Tool]:
    """Return the tools of contexts and executions."""
    return [
        Tool(
            "codeRun",
            "Run code that keeps its state: variables, imports and the folder stay for the next "
            "run in the same context. Output, results, plots and errors come back. It waits 58 "
            "seconds at most; what runs longer goes on and is looked at with codeExecution. For a "
            "single command use processExecute.",
            RunArguments,
            Ran,
            made.run,
            "failed to run code: ",
            need=USER,
            blocks=_images,
        ),
        Tool(
            "codeExecution",
            "Show how an execution stands and what it has said since a cursor.",
            LookArguments,
            Ran,
            made.look,
            "failed to look at the execution: ",
            need=USER,
            blocks=_images,
        ),
        Tool(
            "codeContexts",
            "List the contexts that keep state, and the languages that there are.",
            NoArguments,
            ContextsListed,
            made.list,
            "failed to list contexts: ",
            need=USER,
        ),
        Tool(
            "codeContextCreate",
            "Make a context of its own for code: nothing in it is shared with other contexts.",
            CreateArguments,
            ContextListed,
            made.create,
            "failed to create a context: ",
            need=USER,
        ),
        Tool(
            "codeVariables",
            "List the variables that a context holds.",
            ContextArguments,
            VariableList,
            made.variables,
            "failed to list variables: ",
            need=USER,
        ),
        Tool(
            "codeInterrupt",
            "Interrupt what a context runs; its variables stay.",
            ContextArguments,
            ContextDone,
            made.interrupt,
            "failed to interrupt: ",
            need=USER,
        ),
        Tool(
            "codeRestart",
            "Begin a context anew: everything that it held is gone.",
            ContextArguments,
            ContextDone,
            made.restart,
            "failed to restart the context: ",
            need=USER,
        ),
        Tool(
            "codeContextDelete",
            "End a context and what runs in it.",
            ContextArguments,
            ContextDone,
            made.delete,
            "failed to delete the context: ",
            need=USER,
        ),
    ]
