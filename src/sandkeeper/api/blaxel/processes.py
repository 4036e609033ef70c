"""Processes: start, look, wait, signal, feed."""

import asyncio
import signal
from collections.abc import Awaitable
from functools import partial
from time import monotonic

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from sandkeeper.api.blaxel.process_words import check_process, signal_number, wait_seconds
from sandkeeper.api.blaxel.running.exec_stream import exec_events, failed
from sandkeeper.api.edge.connections.plain import Later, PlainAnswer
from sandkeeper.api.edge.long_answers import LongAnswer, long_answer
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.request_body import decoded, parse_json, read_body, read_json
from sandkeeper.api.edge.respond import encode_json, json_bytes, json_response
from sandkeeper.api.edge.rights import USER, user_of
from sandkeeper.api.edge.routing import empty_head, route
from sandkeeper.api.edge.streaming import (
    NDJSON,
    RESUME,
    StreamResponse,
    until_disconnect,
    wants_stream,
)
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.urls import segment
from sandkeeper.api.schemas.kept import KEPT_BYTES, KeptRecords
from sandkeeper.api.schemas.processes import (
    ProcessRequest,
    SignalRequest,
    fingerprint,
    limits_of,
    record_of,
)
from sandkeeper.errors import BadInput, Task, Unprocessable
from sandkeeper.journal.output import PIECE_BYTES, Texts, read_long_texts, read_texts
from sandkeeper.journal.turns import Turns
from sandkeeper.linux.users import Users
from sandkeeper.log.access import Access
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.spec import ProcessSpec
from sandkeeper.processes.waiting import Waiting
from sandkeeper.settings import Settings

__all__ = ["ProcessHandlers", "identifier", "routes"]

INLINE_BYTES = 64 << 10
LIST_BYTES = 8 << 20
LIST_BLOCK, LIST_BLOCK_BYTES = 16, 128 << 10
"""So many records, or records with so long texts, are made in one go."""
KEPT_BLOCK = 64
"""So many that are kept are looked at."""
NO_OUTPUT = -1
STOP_GRACE_SECONDS = 0.09
RESTART_SECONDS = 10
QUICK_SECONDS = 0.2
"""For so long the end of a process is waited for with nothing made that a longer wait needs."""

STARTED = "sandkeeper.started"
"""In the scope: the process that was started for a request which goes on the long way."""


def identifier(request: Request) -> str:
    """Return the pid, name or id in the path."""
    return segment(request.scope, 1)


def _is_without_output(request: Request) -> bool:
    return not query_of(request).flag("output", True)


class ProcessHandlers:
    """Handlers of `/process`."""

    def __init__(
        self,
        *,
        processes: Processes,
        waiting: Waiting,
        access: Access,
        turns: Turns,
        stopping: asyncio.Event,
        settings: Settings,
        users: Users,
    ) -> None:
        self._processes = processes
        self._users = users
        self._waiting = waiting
        retention = settings.retention
        self._inline = min(INLINE_BYTES, retention.tail_bytes or INLINE_BYTES)
        self._waited = retention.logs_response_bytes or 1 << 62
        self._access = access
        self._turns = turns
        self._stopping = stopping
        self._settings = settings
        self._records = KeptRecords(processes)

    # POST /process

    async def create(self, request: Request) -> Response:
        """Start a process; answers with its record or streams its output."""
        body = await read_body(request, self._settings.body_limit)
        wanted = await decoded(body, ProcessRequest)
        known: Process | None = request.scope.get(STARTED)
        if known is not None:
            return await self._answer(request, known, wanted, replayed=False)
        key = request.headers.get("idempotency-key", "")
        streams = wants_stream(request.headers.get("accept", "").encode("latin-1"))
        action = "process_exec_stream" if streams else "process_exec"
        spec = self._admitted(request, wanted, key, action)
        started = self._processes.start(spec, key, fingerprint(body, wanted) if key else "")
        if streams:
            return await self._create_streaming(request, started, wanted)
        process, replayed = await started
        return await self._answer(request, process, wanted, replayed=replayed)

    def _admitted(
        self, request: HTTPConnection, wanted: ProcessRequest, key: str, action: str
    ) -> ProcessSpec:
        """Return what is to be started; what is refused for its words is not audited."""
        check_process(wanted)
        user_of(request, self._users, wanted.user)
        spec = self._processes.admitted(wanted.spec(limits_of(wanted.limits)), key)
        extras = {"stdin": "true"} if spec.stdin else {}
        self._access.audit(
            action, caller(request), command=spec.command, working_dir=spec.working_dir, **extras
        )
        return spec

    def create_now(self, scope: Scope, body: bytes) -> Later | None:
        """Start a process that nobody waits for, or that is over soon."""
        for name, value in scope["headers"]:
            if name == b"idempotency-key" or (name == b"accept" and wants_stream(value)):
                return None
        wanted = parse_json(body, ProcessRequest)
        if wanted.wait_for_ports:
            return None
        spec = self._admitted(HTTPConnection(scope), wanted, "", "process_exec")
        waits = wanted.wait_for_completion
        return self._create_waited(scope, spec) if waits else self._create(spec)

    async def _create(self, spec: ProcessSpec) -> PlainAnswer:
        process = await self._processes.start_admitted(spec)
        return PlainAnswer(await self._record(process, self._inline))

    async def _create_waited(self, scope: Scope, spec: ProcessSpec) -> PlainAnswer | None:
        """Wait for what is over soon; longer waits, and long answers, are for `create`."""
        process = scope[STARTED] = await self._processes.start_admitted(spec)
        try:
            async with asyncio.timeout(QUICK_SECONDS):
                await process.wait()
        except TimeoutError:
            return None
        if min(self._waited, process.journal.kept) > PIECE_BYTES:
            return None
        _check_time(process)
        return PlainAnswer(await self._record(process, self._waited))

    async def _answer(
        self, request: Request, process: Process, wanted: ProcessRequest, *, replayed: bool
    ) -> Response:
        """Wait for what is wanted and answer with the record."""
        waited = wanted.wait_for_completion
        ports = ",".join(map(str, wanted.wait_for_ports))
        query = f"completion={int(waited)}&ports={ports}&replayed={int(replayed)}"
        request.scope[RESUME] = lambda: f"/process/{process.meta.id}/started?{query}"
        await self._wait(request, process, wanted)
        headers = {"Idempotency-Replayed": "true"} if replayed else None
        journal, limit = process.journal, self._waited if waited else self._inline
        if min(limit, journal.kept) > PIECE_BYTES:
            return await long_answer(
                request.scope,
                2 * min(2 * limit, journal.kept),
                partial(read_long_texts, journal, limit),
                lambda texts: record_of(process, texts),
                self._turns,
                headers,
            )
        return json_response(record_of(process, await read_texts(journal, limit)), headers=headers)

    async def resumed(self, request: Request) -> Response:
        """Answer a start whose waiting the server before an upgrade has left to us."""
        process = self._processes.get(identifier(request))
        query = query_of(request)
        try:
            ports = [int(port) for port in query.get("ports", "").split(",") if port]
        except ValueError:
            raise BadInput("invalid ports") from None
        wanted = ProcessRequest(
            command=process.meta.command,
            wait_for_completion=query.get("completion") == "1",
            wait_for_ports=ports,
        )
        return await self._answer(request, process, wanted, replayed=query.get("replayed") == "1")

    async def _wait(self, request: Request, process: Process, wanted: ProcessRequest) -> None:
        await self._wait_for_ports(request, process, wanted)
        if wanted.wait_for_completion:
            await until_disconnect(request, process.wait(), self._stopping)
            _check_time(process)

    async def _wait_for_ports(
        self, request: Request, process: Process, wanted: ProcessRequest
    ) -> None:
        if wanted.wait_for_ports:
            ports = self._waiting.wait_for_ports(process, wanted.wait_for_ports)
            await until_disconnect(request, ports, self._stopping)

    async def _create_streaming(
        self, request: Request, started: Awaitable[tuple[Process, bool]], wanted: ProcessRequest
    ) -> Response:
        try:
            process, _ = await started
        except Unprocessable as error:
            return Response(failed(error), media_type=NDJSON)
        opened = None
        if ports := wanted.wait_for_ports:
            opened = partial(self._waiting.wait_for_ports, process, ports)
        events = exec_events(process, opened, self._turns, self._inline, self._stopping)
        return StreamResponse(events, NDJSON)

    # Looking

    async def list(self, request: Request) -> Response:
        """List all processes; all texts together stay within 8 MiB, or `output=false`."""
        processes = self._processes.all()
        share = min(self._inline, max(1024, LIST_BYTES // max(1, len(processes))))
        share = NO_OUTPUT if _is_without_output(request) else share
        records: list[bytes] = []
        count = max(1, min(LIST_BLOCK, LIST_BLOCK_BYTES // max(1, share)))
        made = 0
        for number, process in enumerate(processes):
            known = None if share == NO_OUTPUT else self._records.get(process)
            if number % KEPT_BLOCK == 0 or (known is None and made % count == 0):
                await self._turns.take()
            made += known is None
            records.append(known or await self._record(process, share))
        firsts = range(0, len(records), KEPT_BLOCK)
        blocks = [b",".join(records[first : first + KEPT_BLOCK]) for first in firsts]
        ends = [b"[", *([b","] * (len(blocks) - 1))]
        whole = [end + block for end, block in zip(ends, blocks, strict=True)] if blocks else [b"["]
        return LongAnswer([*whole, b"]"], self._turns)

    async def _record(self, process: Process, limit: int) -> bytes:
        """Return a record with the last `limit` bytes of each stream."""
        if limit == NO_OUTPUT:
            return encode_json(record_of(process, Texts()))
        record = self._records.make(process, limit)
        if record is not None:
            return record
        return encode_json(record_of(process, await read_texts(process.journal, limit)))

    def list_now(self, scope: Scope, _body: bytes) -> PlainAnswer | None:
        """List all processes where they are few and known."""
        if len(self._processes) > KEPT_BLOCK or scope["query_string"]:
            return None
        records = [self._records.make(process, self._inline) for process in self._processes.all()]
        if any(record is None or len(record) > KEPT_BYTES * 8 for record in records):
            return None
        return PlainAnswer(b"[" + b",".join(filter(None, records)) + b"]")

    def get_now(self, scope: Scope, _body: bytes) -> PlainAnswer | None:
        """Show one process whose output is short or in memory."""
        if b"output" in scope["query_string"]:
            return None
        name = scope["path"].rpartition("/")[2]  # a plain path has no escapes
        process = self._processes.get(name, Task.SHOW_PROCESS)
        record = self._records.make(process, self._inline)
        return None if record is None else PlainAnswer(record)

    async def get(self, request: Request) -> Response:
        """Show one process."""
        process = self._processes.get(identifier(request), Task.SHOW_PROCESS)
        limit = NO_OUTPUT if _is_without_output(request) else self._inline
        return json_bytes(await self._record(process, limit))

    async def wait(self, request: Request) -> Response:
        """Wait until a process is over for good, or `timeout` seconds have passed."""
        process = self._processes.get(identifier(request))
        seconds = wait_seconds(query_of(request).get("timeout", ""))
        until, path = monotonic() + seconds, f"/process/{process.meta.id}/wait"
        request.scope[RESUME] = lambda: f"{path}?timeout={max(0, round(until - monotonic()))}"
        await self._over_within(request, process, seconds)
        return json_response(record_of(process, await read_texts(process.journal, self._inline)))

    async def _over_within(self, request: Request, process: Process, seconds: float) -> None:
        async def bounded() -> None:
            waiter = asyncio.ensure_future(process.wait())
            try:
                await asyncio.wait({waiter}, timeout=seconds)
            finally:
                waiter.cancel()

        await until_disconnect(request, bounded(), self._stopping)

    # Ending

    async def stop(self, request: Request) -> Response:
        """Send SIGTERM to the group."""
        self._access.audit("process_stop", caller(request), identifier=identifier(request))
        process = self._processes.get(identifier(request))
        process.stop(identifier(request))
        await self._over_within_grace(process)
        return json_response({"message": "Process stopped successfully"})

    async def kill(self, request: Request) -> Response:
        """Send SIGKILL to the group."""
        self._access.audit("process_kill", caller(request), identifier=identifier(request))
        process = self._processes.get(identifier(request))
        process.kill(identifier(request))
        await self._over_within_grace(process)
        return json_response({"message": "Process killed successfully"})

    async def restart(self, request: Request) -> Response:
        """End a process if it runs, and start the same again; answers with the new one's record."""
        name = identifier(request)
        process = self._processes.get(name)
        seconds = wait_seconds(query_of(request).get("timeout", str(RESTART_SECONDS)))
        spec = process.meta.again()
        user_of(request, self._users, spec.user)
        self._access.audit(
            "process_restart", caller(request), identifier=name, command=spec.command
        )
        if not process.is_over:
            process.stop(name)
            await self._over_within(request, process, seconds)
        if not process.is_over:
            process.kill(name)
            await self._over_within(request, process, RESTART_SECONDS)
        started, _ = await self._processes.start(spec)
        return json_bytes(await self._record(started, self._inline))

    async def remove(self, request: Request) -> Response:
        """Forget a process that is over: its record and its output."""
        name = identifier(request)
        process = self._processes.get(name)
        self._access.audit("process_remove", caller(request), identifier=name)
        self._processes.remove(process)
        return json_response({"message": "Process removed successfully"})

    async def _over_within_grace(self, process: Process) -> None:
        """Give the signal a moment, so that the next look already tells the end."""
        waiter = asyncio.ensure_future(process.wait())
        await asyncio.wait({waiter}, timeout=STOP_GRACE_SECONDS)
        waiter.cancel()

    async def signal(self, request: Request) -> Response:
        """Send any signal to the group; SIGTERM and SIGKILL count as stop and kill."""
        name = identifier(request)
        wanted = await read_json(request, SignalRequest, 4096)
        number = signal_number(wanted.signal)
        self._access.audit("process_signal", caller(request), identifier=name, signal=number.name)
        process = self._processes.get(name)
        if number == signal.SIGTERM:
            process.stop(name)
        elif number == signal.SIGKILL:
            process.kill(name)
        else:
            process.send_signal(number, name)
        return json_response({"message": f"{number.name} sent"})


def _check_time(process: Process) -> None:
    if process.timed_out:
        raise Unprocessable(f"process timed out after {process.meta.timeout} seconds")


def routes(handlers: ProcessHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    one = "/process/{identifier}"
    return [
        route("/process", handlers.create, "POST", need=USER, plain=handlers.create_now),
        route("/process", handlers.list, need=USER, plain=handlers.list_now),
        route("/process", empty_head, "HEAD", need=USER),
        route(one, handlers.get, need=USER, plain=handlers.get_now),
        route(one, empty_head, "HEAD", need=USER),
        route(one, handlers.stop, "DELETE", need=USER),
        route(one + "/kill", handlers.kill, "DELETE", need=USER),
        route(one + "/record", handlers.remove, "DELETE", need=USER),
        route(one + "/restart", handlers.restart, "POST", need=USER),
        route(one + "/wait", handlers.wait, need=USER),
        route(one + "/started", handlers.resumed, need=USER),
        route(one + "/signal", handlers.signal, "POST", need=USER),
    ]
