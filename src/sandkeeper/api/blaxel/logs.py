"""The output of processes: whole, live, as events, and questions to it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import closing, nullcontext
from datetime import datetime
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.blaxel.processes import identifier
from sandkeeper.api.edge.bodies.downloads import disposition
from sandkeeper.api.edge.bodies.weights import weights_of
from sandkeeper.api.edge.long_answers import long_answer
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import empty_head, route
from sandkeeper.api.edge.streaming import NDJSON, SSE, StreamResponse, stream_type
from sandkeeper.api.edge.subject import caller
from sandkeeper.errors import BadInput, Task
from sandkeeper.journal.cursor import Abandoned, Chunk, Follow
from sandkeeper.journal.events import (
    SILENT,
    EventRecords,
    Heart,
    LogRecords,
    Outcome,
    RawRecords,
    TextLog,
)
from sandkeeper.journal.matching import Question
from sandkeeper.journal.output import long_texts_of, settled
from sandkeeper.journal.pump import Pump
from sandkeeper.journal.query import LineQuery, ask, next_block
from sandkeeper.journal.segment import Stream, output_streams
from sandkeeper.journal.source import let_go, reading
from sandkeeper.journal.turns import Turns
from sandkeeper.log.access import Access
from sandkeeper.numerals import asked, decimal, whole
from sandkeeper.processes.process import Process
from sandkeeper.processes.record import outcome
from sandkeeper.processes.registry import Processes
from sandkeeper.settings import RetentionSettings

__all__ = ["LogHandlers", "routes"]

RAW = "application/vnd.sandkeeper.events"
"""Events with their bytes as they are, for programs."""
STREAM_NAMES = {stream.wire for stream in Stream}


class LogHandlers:
    """Handlers of `/process/{identifier}/logs` and its kin."""

    def __init__(
        self,
        *,
        processes: Processes,
        pump: Pump,
        access: Access,
        turns: Turns,
        retention: RetentionSettings,
    ) -> None:
        self._processes = processes
        self._limit = retention.logs_response_bytes or 1 << 62
        self._pump = pump
        self._access = access
        self._turns = turns

    async def logs(self, request: Request) -> Response:
        """Return both streams and their true order, each up to 4 MiB."""
        name = identifier(request)
        self._access.audit("process_logs_access", caller(request), identifier=name)
        process = self._processes.get(name, Task.READ_LOGS)
        journal = process.journal
        return await long_answer(
            request.scope,
            2 * min(2 * self._limit, journal.kept),
            partial(asyncio.to_thread, long_texts_of, journal, self._limit),
            lambda texts: {"stdout": texts.stdout, "stderr": texts.stderr, "logs": texts.logs},
            self._turns,
        )

    async def stream(self, request: Request) -> Response:
        """Replay the output, then follow it to the final end."""
        name = identifier(request)
        self._access.audit("process_logs_stream", caller(request), identifier=name)
        process = self._processes.get(name)
        if _prefers_records(request.headers.get("accept", "")):
            return StreamResponse(self._records(process), NDJSON)
        return StreamResponse(self._text(process), "text/plain; charset=utf-8")

    async def _text(self, process: Process) -> AsyncIterator[bytes]:
        text = TextLog()
        with closing(self._follow(process, "logs")) as follow:
            while (items := await follow.next(text.silence())) is not None:
                if items:
                    yield text.batch(items)
                elif (deadline := text.deadline) is None:
                    yield text.keepalive()
                elif await self._settled(process, deadline) == follow.offset:
                    yield text.expire(deadline)
        yield text.finish(process.meta.completed_at)

    def _follow(
        self, process: Process, consumer: str, offset: int = 0, bound: int | None = None
    ) -> Follow:
        journal = process.journal
        return Follow(journal, offset, turns=self._turns, consumer=consumer, bound=bound)

    async def _settled(self, process: Process, moment: int) -> int | None:
        return await settled(self._pump, process.journal, moment)

    async def _records(self, process: Process) -> AsyncIterator[bytes]:
        records = LogRecords()
        if process.journal.tail == 0 and not process.is_over:
            yield SILENT
        with closing(self._follow(process, "logs")) as follow:
            heart = Heart()
            while (items := await follow.next(heart.left())) is not None:
                yield heart.beat(records.batch(items), records.alive)
        yield records.finish()

    async def events(self, request: Request) -> Response:
        """Stream events with offsets from a cursor on, ending with how the process ended."""
        process = self._processes.get(identifier(request))
        self._access.audit("process_logs_stream", caller(request), identifier=identifier(request))
        query = query_of(request)
        cursor = request.headers.get("last-event-id") or query.get("cursor", "0")
        offset = whole("cursor", cursor)
        if offset > process.journal.tail:
            raise BadInput(
                f"cursor {offset} is beyond the end of the output at {process.journal.tail}"
            )
        streams = {word for word in query.get("stream", "").split(",") if word}
        if not streams <= STREAM_NAMES:
            raise BadInput(f"unknown stream: {', '.join(sorted(streams - STREAM_NAMES))}")
        records, media_type = _form(
            request.headers.get("accept", ""), partial(outcome, process.meta), offset, streams
        )
        bound = None if query.flag("follow", True) else process.journal.tail
        holds = query.flag("hold")
        return StreamResponse(self._events(process, records, offset, bound, holds), media_type)

    async def _events(
        self, process: Process, records: EventRecords, offset: int, bound: int | None, holds: bool
    ) -> AsyncIterator[bytes]:
        attending = reading(process.journal, self._pump.go_on) if holds else nullcontext(_nothing)
        with closing(self._follow(process, "events", offset, bound)) as follow, attending as took:
            took(offset)
            try:
                heart = Heart()
                while (items := await follow.next(heart.left())) is not None:
                    yield heart.beat(records.batch(items), records.heartbeat)
                    took(follow.offset)  # the client has taken what came before
            except Abandoned:
                yield records.interrupted("server stopping")
                return
        if bound is not None and not process.is_over:
            yield records.interrupted("end of what is there")
            return
        await process.wait()
        yield records.end()

    async def let_go(self, request: Request) -> Response:
        """Have output that waits for its reader wait no more."""
        process = self._processes.get(identifier(request))
        self._access.audit("process_hold_end", caller(request), identifier=identifier(request))
        let_go(process.journal, self._pump.go_on)
        return json_response({"message": "output waits for nobody"})

    async def output(self, request: Request) -> Response:
        """Give what is kept now of one stream or both, as it was written."""
        name = identifier(request)
        process = self._processes.get(name)
        streams = output_streams(query_of(request).get("stream", ""))
        self._access.audit("process_logs_access", caller(request), identifier=name)
        answer = StreamResponse(self._bytes(process, streams), "application/octet-stream")
        answer.headers["Content-Disposition"] = disposition(f"{process.meta.name}.log")
        return answer

    async def _bytes(self, process: Process, streams: tuple[Stream, ...]) -> AsyncIterator[bytes]:
        end = process.journal.tail
        with closing(self._follow(process, "output", 0, end)) as follow:
            while (items := await follow.next(1.0)) is not None:
                found = (item for item in items if isinstance(item, Chunk))
                yield b"".join(item.data for item in found if item.stream in streams)

    async def lines(self, request: Request) -> Response:
        """Answer a question to the log, as NDJSON lines and a last record `end`."""
        process = self._processes.get(identifier(request))
        question = _question(request)
        query = await ask(process.journal, question)
        return StreamResponse(self._lines(query), NDJSON)

    async def _lines(self, query: LineQuery) -> AsyncIterator[bytes]:
        heart = Heart()
        try:
            while (block := await next_block(query)) is not None:
                yield heart.beat(block, lambda: SILENT)
        finally:
            query.close()


def _nothing(_offset: int) -> None:
    """Hold nothing up."""


def _form(
    accept: str, ended: Callable[[], Outcome], offset: int, streams: set[str]
) -> tuple[EventRecords, str]:
    """Return what writes events as they are wanted, and what that is called."""
    if RAW in accept:
        return RawRecords(ended, offset, streams=streams), RAW
    kind = stream_type(accept)
    return EventRecords(ended, offset, sse=kind == SSE, streams=streams), kind


def _prefers_records(accept: str) -> bool:
    """Say whether NDJSON is named and weighs at least as much as plain text (RFC 9110, 12.5.1)."""
    weights = weights_of(accept)
    records = weights.get(NDJSON, 0.0)
    return records > 0 and records >= weights.get("text/plain", 0.0)


def _moment(name: str, text: str) -> tuple[int, int]:
    """Return (microseconds, 0) of a time, or (0, offset) of `offset:N`."""
    if text.startswith("offset:"):
        return 0, whole(name, text.removeprefix("offset:"))
    try:
        if (seconds := decimal(text)) is not None and seconds >= 0:
            return int(seconds * 1e6), 0
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("no zone")
        return int(moment.timestamp() * 1e6), 0
    except (ValueError, OverflowError):
        raise BadInput(
            f"invalid {name}: give an RFC 3339 time with a zone, Unix seconds or offset:N"
        ) from None


def _question(request: Request) -> Question:
    query = query_of(request)
    since = _moment("since", query["since"]) if query.get("since") else (0, 0)
    until = _moment("until", query["until"]) if query.get("until") else (0, 0)
    start, _, end = query.get("lines", "").partition("-")
    pattern = query.get("regex", "")
    return Question(
        stream=query.get("stream", ""),
        since=since[0],
        until=until[0],
        first_offset=since[1],
        last_offset=until[1],
        start=whole("lines", start) if start else 0,
        end=whole("lines", end) if end else 0,
        grep=pattern or query.get("grep", ""),
        literal=not pattern,
        ignore_case=query.flag("ignoreCase"),
        head=asked(query, "head", 0),
        tail=asked(query, "tail", 0),
        limit=max(1, asked(query, "limit", 10_000, 1_000_000)),
    )


def routes(handlers: LogHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    one = "/process/{identifier}"
    return [
        route(one + "/logs", handlers.logs, need=USER),
        route(one + "/logs", empty_head, "HEAD", need=USER),
        route(one + "/logs/stream", handlers.stream, need=USER),
        route(one + "/logs/stream", empty_head, "HEAD", need=USER),
        route(one + "/events", handlers.events, need=USER),
        route(one + "/lines", handlers.lines, need=USER),
        route(one + "/hold", handlers.let_go, "DELETE", need=USER),
        route(one + "/output", handlers.output, need=USER),
    ]
