"""`/code/…`: contexts, what they run, and what that said from any point on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.code.records import EventLines, Gathered
from sandkeeper.api.code.structs import (
    CompletionRequest,
    ContextList,
    ContextRequest,
    ExecuteRequest,
    InspectRequest,
    context_record,
    execution_record,
)
from sandkeeper.api.edge.connections.outgoing import answer_of
from sandkeeper.api.edge.long_answers import LongAnswer, making
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.request_body import decoded, read_body, read_json
from sandkeeper.api.edge.respond import JSON, encode_json, json_response
from sandkeeper.api.edge.rights import USER, user_of
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.streaming import (
    RESUME,
    SSE,
    Disconnected,
    StreamResponse,
    stream_type,
    until_disconnect,
    wants_stream,
)
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.urls import segment
from sandkeeper.api.schemas.processes import fingerprint
from sandkeeper.blocks import gathered
from sandkeeper.errors import BadInput
from sandkeeper.interpreter.context import Context
from sandkeeper.interpreter.execution import Execution
from sandkeeper.interpreter.service import Contexts
from sandkeeper.journal.cursor import Abandoned, Follow, Reader
from sandkeeper.journal.events import Heart
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.turns import Turns
from sandkeeper.linux.users import Users
from sandkeeper.log.access import Access
from sandkeeper.numerals import whole

__all__ = ["CodeHandlers", "routes"]

BLOCK_BYTES = 64 << 10
STEP_BYTES = 4 << 20
"""So much of a journal becomes JSON before it is known how much room that takes."""


class CodeHandlers:
    """Handlers over `interpreter`."""

    def __init__(
        self,
        *,
        contexts: Contexts,
        users: Users,
        access: Access,
        turns: Turns,
        stopping: asyncio.Event,
        body_limit: int,
    ) -> None:
        self._contexts = contexts
        self._users = users
        self._access = access
        self._turns = turns
        self._stopping = stopping
        self._body_limit = body_limit

    # Contexts

    async def languages(self, _request: Request) -> Response:
        """Return what contexts can be made of."""
        found = await self._contexts.languages()
        return json_response(
            {
                "languages": [
                    {"name": one.name, "language": one.language, "displayName": one.display_name}
                    for one in found
                ]
            }
        )

    async def list(self, _request: Request) -> Response:
        """List the contexts."""
        await self._contexts.start()
        found = [context_record(one) for one in self._contexts.all()]
        return json_response(ContextList(found))

    async def create(self, request: Request) -> Response:
        """Make a context; answers when it takes code."""
        await self._contexts.start()
        body = await read_body(request, self._body_limit)
        wanted = await decoded(body or b"{}", ContextRequest)
        user_of(request, self._users, wanted.user)
        key = request.headers.get("idempotency-key", "")
        self._access.audit("code_context_create", caller(request), command=wanted.language)
        context, replayed = await self._contexts.create(
            wanted.spec(), key, _print(key, body, wanted), idle_seconds=wanted.idle_seconds
        )
        return json_response(context_record(context), 200 if replayed else 201, _headers(replayed))

    async def show(self, request: Request) -> Response:
        """Return a context and its executions."""
        context = await self._context(request)
        record = msgspec.to_builtins(context_record(context))
        executions = [execution_record(one) for one in context.executions.values()]
        return json_response({**record, "executions": executions})

    async def delete(self, request: Request) -> Response:
        """End a context and forget what it ran."""
        context = await self._context(request)
        self._access.audit("code_context_delete", caller(request), identifier=context.meta.id)
        await self._contexts.delete(context)
        return json_response({"message": "code context deleted"})

    async def interrupt(self, request: Request) -> Response:
        """Stop what a context runs."""
        context = await self._context(request)
        outcome = await self._contexts.interrupt(context)
        return json_response({"outcome": outcome, **msgspec.to_builtins(context_record(context))})

    async def restart(self, request: Request) -> Response:
        """Start a context anew, without its state."""
        context = await self._context(request)
        await self._contexts.restart(context)
        return json_response(context_record(context))

    async def complete(self, request: Request) -> Response:
        """Complete a name."""
        context = await self._context(request)
        asked = await read_json(request, CompletionRequest, self._body_limit)
        return json_response(await self._contexts.complete(context, asked.code, asked.place))

    async def inspect(self, request: Request) -> Response:
        """Tell about a name."""
        context = await self._context(request)
        asked = await read_json(request, InspectRequest, self._body_limit)
        found = await self._contexts.inspect(context, asked.code, asked.place, asked.detail)
        return json_response(found)

    async def variables(self, request: Request) -> Response:
        """List the variables of a context."""
        context = await self._context(request)
        return json_response({"variables": await self._contexts.variables(context)})

    async def _context(self, request: Request) -> Context:
        await self._contexts.start()
        return self._contexts.get(segment(request.scope, 2))

    # Executions

    async def execute(self, request: Request) -> Response:
        """Run code: a stream of its events, or one answer when it is over."""
        context = await self._context(request)
        body = await read_body(request, self._body_limit)
        wanted = await decoded(body, ExecuteRequest)
        key = request.headers.get("idempotency-key", "")
        self._access.audit("code_execute", caller(request), identifier=context.meta.id)
        execution, replayed = await self._contexts.execute(
            context, wanted.spec(), key, _print(key, body, wanted)
        )
        headers = _headers(replayed)
        if wants_stream(request.headers.get("accept", "").encode("latin-1")):
            return await self._stream(request, execution, 0, first=True)
        if wanted.background:
            return json_response(execution_record(execution), 202, headers)
        request.scope[RESUME] = lambda: f"/code/executions/{execution.meta.id}?wait=true"
        await until_disconnect(request, execution.wait(), self._stopping)
        return await self._answer(request, execution, headers)

    async def execution(self, request: Request) -> Response:
        """Return an execution and what it has said; with `wait=true` when it is over."""
        execution = await self._execution(request)
        if query_of(request).flag("wait"):
            request.scope[RESUME] = lambda: f"/code/executions/{execution.meta.id}?wait=true"
            await until_disconnect(request, execution.wait(), self._stopping)
        return await self._answer(request, execution, None)

    async def cancel(self, request: Request) -> Response:
        """Stop one execution, whether it runs or waits; answers when it is over."""
        execution = await self._execution(request)
        await self._contexts.cancel(execution)
        return json_response(execution_record(execution))

    async def events(self, request: Request) -> Response:
        """Stream events from a cursor on, live until the end."""
        execution = await self._execution(request)
        cursor = request.headers.get("last-event-id") or query_of(request).get("cursor", "0")
        offset = whole("cursor", cursor)
        journal = await execution.journal()
        if offset > journal.tail:
            raise BadInput(
                f"cursor {offset} is beyond the end of the execution's journal at {journal.tail}"
            )
        return await self._stream(request, execution, offset, first=False)

    async def _execution(self, request: Request) -> Execution:
        await self._contexts.start()
        return self._contexts.execution(segment(request.scope, 2))

    async def _stream(
        self, request: Request, execution: Execution, cursor: int, *, first: bool
    ) -> Response:
        journal = await execution.journal()
        kind = stream_type(request.headers.get("accept", ""))
        lines = EventLines(cursor, sse=kind == SSE)
        return StreamResponse(self._events(execution, journal, lines, cursor, first), kind)

    async def _events(
        self, execution: Execution, journal: Journal, lines: EventLines, cursor: int, first: bool
    ) -> AsyncIterator[bytes]:
        if first:
            yield lines.first(execution.meta.id, execution.meta.context)
        with closing(Follow(journal, cursor, turns=self._turns, consumer="code")) as follow:
            heart = Heart()
            try:
                while (items := await follow.next(heart.left())) is not None:
                    yield heart.beat(lines.batch(items), lines.heartbeat)
            except Abandoned:
                yield lines.detached("server stopping")
                return
        yield lines.finish()

    async def _answer(
        self, request: Request, execution: Execution, headers: dict[str, str] | None
    ) -> Response:
        """Answer with the record and all that was said, made in a thread; raises Unavailable."""
        record = encode_json(execution_record(execution))
        journal = await execution.journal()
        if journal.tail <= BLOCK_BYTES:
            with suppress(BlockingIOError):
                small = Gathered()
                _read(small, journal, 0, journal.tail, nowait=True)
                return Response(
                    b"".join(small.blocks(record)), 200, headers, media_type=JSON.decode()
                )
        reserved = journal.kept + journal.kept // 8
        await answer_of(request.scope).reserve(reserved)
        async with making:
            made, reserved = await self._gathered(request, journal, reserved)
            blocks = await asyncio.to_thread(
                lambda: list(gathered(made.blocks(record), BLOCK_BYTES))
            )
        return LongAnswer(blocks, self._turns, headers, reserved)

    async def _gathered(
        self, request: Request, journal: Journal, reserved: int
    ) -> tuple[Gathered, int]:
        """Gather what a journal holds, and the room it takes: a byte may be six of JSON.

        Raises Unavailable when there is no room for as much, Disconnected when nobody waits for it.
        """
        answer, made, offset, tail = answer_of(request.scope), Gathered(), 0, journal.tail
        while offset < tail:
            if answer.is_gone:
                raise Disconnected
            stop = min(tail, offset + STEP_BYTES)
            read = partial(_read, made, journal, offset, stop, nowait=False)
            before, offset = offset, await asyncio.to_thread(read)
            if made.size > reserved:
                answer.take(made.size - reserved)
                reserved = made.size
            if offset == before:
                break
        return made, reserved


def _read(made: Gathered, journal: Journal, offset: int, stop: int, *, nowait: bool) -> int:
    """Gather what is before `stop`; returns how far that came. BlockingIOError: `Reader.read`."""
    with Reader(journal) as reader:
        while offset < stop and (
            items := reader.read(offset, min(BLOCK_BYTES, stop - offset), nowait=nowait)
        ):
            made.feed(items)
            offset = items[-1].end
    return offset


def _print(key: str, body: bytes, wanted: msgspec.Struct) -> str:
    return fingerprint(body, wanted) if key else ""


def _headers(replayed: bool) -> dict[str, str] | None:
    return {"Idempotency-Replayed": "true"} if replayed else None


def routes(handlers: CodeHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    one, run = "/code/contexts/{id}", "/code/executions/{id}"
    return [
        route("/code/languages", handlers.languages, need=USER),
        route("/code/contexts", handlers.list, need=USER),
        route("/code/contexts", handlers.create, "POST", need=USER),
        route(one, handlers.show, need=USER),
        route(one, handlers.delete, "DELETE", need=USER),
        route(one + "/interrupt", handlers.interrupt, "POST", need=USER),
        route(one + "/restart", handlers.restart, "POST", need=USER),
        route(one + "/execute", handlers.execute, "POST", need=USER),
        route(one + "/complete", handlers.complete, "POST", need=USER),
        route(one + "/inspect", handlers.inspect, "POST", need=USER),
        route(one + "/variables", handlers.variables, need=USER),
        route(run, handlers.execution, need=USER),
        route(run + "/events", handlers.events, need=USER),
        route(run + "/interrupt", handlers.cancel, "POST", need=USER),
    ]
