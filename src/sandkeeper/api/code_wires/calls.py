"""The calls of E2B's code interpreter, and of Blaxel's, which sends the same."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import closing

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sandkeeper.api.code_wires.room import AnswerRoom
from sandkeeper.api.code_wires.words import lines_of
from sandkeeper.api.edge.connections.outgoing import answer_of
from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import json_response, status_of, utf8
from sandkeeper.api.edge.routing import Handler
from sandkeeper.api.edge.streaming import StreamResponse
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.urls import asked_port, segment
from sandkeeper.errors import BadInput, SandkeeperError
from sandkeeper.interpreter.context import Context
from sandkeeper.interpreter.execution import Event, Execution
from sandkeeper.interpreter.kernelspecs import full_name
from sandkeeper.interpreter.service import Contexts
from sandkeeper.interpreter.specs import ContextSpec, ExecutionSpec
from sandkeeper.journal.turns import Turns
from sandkeeper.log.access import Access
from sandkeeper.settings.port_names import BLAXEL_CODE_PORT

__all__ = ["CodeCalls"]

KEEPALIVE_SECONDS = 5.0
LONG_BYTES = 64 << 10
"""Events of more are turned into words in a thread."""


class ExecuteCall(msgspec.Struct):
    """What to run: in a context, or in the one that all share for a language."""

    code: str
    context_id: str | None = None
    language: str | None = None
    env_vars: dict[str, str] | None = None


class ContextCall(msgspec.Struct):
    """Which context to make."""

    language: str | None = None
    cwd: str | None = None


class CodeCalls:
    """Answers them; every failure is plain text, as E2B's clients show it.

    `variables` are those of the sandbox, which each execution has; `folder` is where code of E2B's
    clients begins.
    """

    def __init__(
        self,
        *,
        contexts: Callable[[], Awaitable[Contexts]],
        variables: Callable[[], Mapping[str, str]],
        folder: Callable[[], str],
        access: Access,
        turns: Turns,
        stopping: asyncio.Event,
        body_limit: int,
    ) -> None:
        self._contexts = contexts
        self._variables = variables
        self._folder = folder
        self._access = access
        self._turns = turns
        self._stopping = stopping
        self._body_limit = body_limit
        self._leaving: set[asyncio.Task[None]] = set()

    async def answer(self, call: Handler, request: Request) -> Response:
        """Answer by one of the calls below; tells what goes wrong in the words of the wire."""
        try:
            return await call(request)
        except SandkeeperError as error:
            if _is_blaxel(request):
                raise
            return PlainTextResponse(utf8(str(error)), status_of(error))

    async def execute(self, request: Request) -> Response:
        """Run code and stream what it does."""
        call = await read_json(request, ExecuteCall, self._body_limit)
        if call.context_id and call.language:
            raise BadInput("Only one of context_id or language can be provided")
        contexts, begins = await self._contexts(), self._begins(request)
        if call.context_id:
            context = contexts.get(call.context_id)
        else:
            context = await contexts.default(full_name(call.language or "python"), begins)
        self._access.audit("code_execute", caller(request), context=context.meta.id)
        env = {**self._variables(), **(call.env_vars or {})}
        execution, _ = await contexts.execute(context, ExecutionSpec(call.code, env=env))
        room = AnswerRoom(answer_of(request.scope))
        blocks = self._told(context, execution, room, leaves=not _is_blaxel(request))
        return StreamResponse(blocks, "application/json")

    async def _told(
        self, context: Context, execution: Execution, room: AnswerRoom, *, leaves: bool
    ) -> AsyncIterator[bytes]:
        try:
            stream = await execution.follow(turns=self._turns, consumer="code")
            with closing(stream):
                while (events := await stream.next(KEEPALIVE_SECONDS)) is not None:
                    events = await room.fitting(stream, events)
                    if events or not stream.held:
                        yield await _lines(events)
        except (GeneratorExit, asyncio.CancelledError):
            if leaves and not self._stopping.is_set():
                self._leave(context, execution)
            raise

    def _leave(self, context: Context, execution: Execution) -> None:
        """Stop what nobody waits for any more."""
        if execution.is_over:
            return
        task = asyncio.ensure_future(self._stop(context, execution))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _stop(self, context: Context, execution: Execution) -> None:
        contexts = await self._contexts()
        await contexts.cancel(execution)

    async def create(self, request: Request) -> Response:
        """Make a context."""
        call = await read_json(request, ContextCall, self._body_limit)
        folder = call.cwd or self._begins(request)
        spec = ContextSpec(language=full_name(call.language or "python"), cwd=folder)
        self._access.audit("code_context_create", caller(request), language=spec.language)
        contexts = await self._contexts()
        context, _ = await contexts.create(spec)
        return json_response(_shown(context))

    async def list(self, _request: Request) -> Response:
        """List them, shared ones too."""
        contexts = await self._contexts()
        return json_response([_shown(one) for one in contexts.all()])

    async def restart(self, request: Request) -> Response:
        """Begin a context anew."""
        contexts, context = await self._named(request, "code_context_restart")
        await contexts.restart(context)
        return json_response(None)

    async def remove(self, request: Request) -> Response:
        """End a context."""
        contexts, context = await self._named(request, "code_context_delete")
        await contexts.delete(context)
        return json_response(None)

    def _begins(self, request: Request) -> str:
        return "" if _is_blaxel(request) else self._folder()

    async def _named(self, request: Request, what: str) -> tuple[Contexts, Context]:
        contexts = await self._contexts()
        context = contexts.get(segment(request.scope, 1))
        self._access.audit(what, caller(request), context=context.meta.id)
        return contexts, context


def _is_blaxel(request: Request) -> bool:
    """Say whether a client is Blaxel's: who goes away there interrupts nothing."""
    if "e2b-sandbox-id" in request.headers:
        return False
    return asked_port(request.scope) == BLAXEL_CODE_PORT


async def _lines(events: list[Event]) -> bytes:
    if sum(len(one.raw) for one in events) > LONG_BYTES:
        return await asyncio.to_thread(lines_of, events)
    return lines_of(events)


def _shown(context: Context) -> dict[str, str]:
    meta, process = context.meta, context.process
    folder = process.meta.working_dir if process is not None else meta.cwd
    return {"id": meta.id, "language": meta.language, "cwd": folder}
