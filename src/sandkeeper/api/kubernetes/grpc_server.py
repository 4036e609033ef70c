"""sandboxd's gRPC, `process.v1.ProcessService`: programs on pipes or in terminals.

Streams stand on cursors of a journal, so who reads slowly holds nobody up. A call's deadline is the
program's time limit. Who cancels `Execute` ends its program, for nobody else waits for it; who
leaves `Start` ends nothing: the process goes on and is found among the others.

Importing this imports grpcio and protobuf (the extra `kubernetes`), which takes half a second and
some 16 MB.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from typing import Any

import grpc
import grpc.aio

from sandkeeper.api.edge.auth import Doorkeeper
from sandkeeper.api.edge.rights import STANDING, USERS, Standing
from sandkeeper.api.kubernetes.messages import SERVICE, message
from sandkeeper.api.kubernetes.runs import Runs
from sandkeeper.archive.freeze import Freeze
from sandkeeper.errors import (
    BadInput,
    Conflict,
    Forbidden,
    NotFound,
    SandkeeperError,
    StorageFull,
    TooLarge,
    Unavailable,
)
from sandkeeper.journal.cursor import Abandoned, Chunk, Follow
from sandkeeper.journal.segment import REMARK, STDERR
from sandkeeper.journal.turns import Turns
from sandkeeper.linux.users import Users
from sandkeeper.log.access import Access, Caller
from sandkeeper.log.lines import Log
from sandkeeper.numerals import natural
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.runs import new_id
from sandkeeper.terminals.registry import TerminalOrder, Terminals
from sandkeeper.terminals.terminal import Terminal

__all__ = ["GrpcServer"]

STATUS = (
    (BadInput, grpc.StatusCode.INVALID_ARGUMENT),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Conflict, grpc.StatusCode.FAILED_PRECONDITION),
    (TooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StorageFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
)
SIGNALS = {2: signal.SIGINT, 9: signal.SIGKILL, 15: signal.SIGTERM}
SILENCE_SECONDS = 3600.0
RECEIVED_BYTES = 16 << 20
STOP_SECONDS = 1.0
LOOPBACK = ("127.0.0.1", "[::1]")
OPTIONS = [
    ("grpc.so_reuseport", 0),  # or another program could take connections away
    ("grpc.max_receive_message_length", RECEIVED_BYTES),
    ("grpc.max_send_message_length", -1),
]


class GrpcServer:
    """The server on a port of its own; event loop's thread only."""

    def __init__(
        self,
        *,
        users: Users,
        runs: Runs,
        processes: Processes,
        terminals: Terminals,
        doorkeeper: Doorkeeper,
        freeze: Freeze,
        access: Access,
        turns: Turns,
        log: Log,
    ) -> None:
        self._users = users
        self._runs = runs
        self._processes = processes
        self._terminals = terminals
        self._doorkeeper = doorkeeper
        self._freeze = freeze
        self._access = access
        self._turns = turns
        self._log = log
        self._server: Any = None
        self._stopping = False

    async def start(self, host: str, port: int) -> None:
        """Listen; raises Unavailable when the port is taken."""
        self._server = grpc.aio.server(options=OPTIONS)
        unary = grpc.unary_unary_rpc_method_handler
        calls: dict[str, Callable[[Any, Any], Awaitable[Any]]] = {
            "Execute": self._execute,
            "WriteStdin": self._write_stdin,
            "SendSignal": self._send_signal,
            "ResizeTTY": self._resize,
        }
        handlers = {
            name: unary(
                self._checked(call),
                request_deserializer=message(f"{name}Request").FromString,
                response_serializer=message(f"{name}Response").SerializeToString,
            )
            for name, call in calls.items()
        }
        handlers["Start"] = grpc.unary_stream_rpc_method_handler(
            self._checked_stream,
            request_deserializer=message("StartRequest").FromString,
            response_serializer=message("StartResponse").SerializeToString,
        )
        made = grpc.method_handlers_generic_handler(SERVICE, handlers)
        self._server.add_generic_rpc_handlers((made,))
        self._listen(host, port)
        await self._server.start()
        self._log.info(f"gRPC (process.v1) listens on {host}:{port}")

    def _listen(self, host: str, port: int) -> None:
        places = LOOPBACK if host == "localhost" else (f"[{host}]" if ":" in host else host,)
        opened = 0
        for place in places:
            try:
                opened += bool(self._server.add_insecure_port(f"{place}:{port}"))
            except RuntimeError as error:  # its words name the address
                why = str(error)
                if place == places[-1] and not opened:
                    raise Unavailable(f"gRPC cannot listen on {host}:{port}: {why}") from None

    async def stop(self) -> None:
        """Answer nobody any more."""
        self._stopping = True
        await self._server.stop(STOP_SECONDS)

    # Who asks, and failures in this wire's words

    async def _admit(self, context: Any) -> Standing:
        """Return what whoever asks may; ends the call of one who may nothing."""
        fields = [
            (name.lower().encode(), value.encode() if isinstance(value, str) else value)
            for name, value in context.invocation_metadata() or ()
        ]
        scope: dict[str, Any] = {"type": "http", "path": f"/{SERVICE}", "headers": fields}
        scope["query_string"] = b""
        if not self._doorkeeper.admits(scope):
            told = "missing or wrong token: send it as x-blaxel-authorization"
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, told)
        standing: Standing = scope[STANDING]
        return standing

    def _checked(
        self, call: Callable[[Any, Any], Awaitable[Any]]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def checked(request: Any, context: Any) -> Any:
            standing = await self._admit(context)
            try:
                with self._users.asking(for_all=standing.may(USERS)):
                    return await call(request, context)
            except SandkeeperError as error:
                return await context.abort(_status(error), str(error))

        return checked

    async def _checked_stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._admit(context)
        try:
            async for event in self._start(request, context):
                yield event
        except SandkeeperError as error:
            await context.abort(_status(error), str(error))
        except Abandoned:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")

    # The calls

    async def _execute(self, request: Any, context: Any) -> Any:
        starting = asyncio.ensure_future(self._executed(request, context.time_remaining()))
        try:
            end = await self._runs.ended(await asyncio.shield(starting))
        except asyncio.CancelledError:  # of a start as well, which goes on to its end
            starting.add_done_callback(self._kill_left)
            raise
        if end.late:
            told = "the command was killed: the deadline was over"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, told)
        return message("ExecuteResponse")(exit_code=end.code, stdout=end.stdout, stderr=end.stderr)

    async def _executed(self, request: Any, seconds: float | None) -> Process:
        config = request.config
        with self._freeze.writing():
            return await self._runs.start(
                _words(config),
                Caller(),
                env=dict(config.env_vars),
                folder=config.cwd,
                seconds=seconds,
            )

    def _kill_left(self, starting: "asyncio.Future[Process]") -> None:
        """Kill what only a caller waited for who has gone; where it never began nobody asks why."""
        if starting.cancelled() or starting.exception() is not None or self._stopping:
            return
        process = starting.result()
        if not process.is_over:
            process.kill(process.meta.pid)

    async def _start(self, request: Any, context: Any) -> AsyncIterator[Any]:
        with self._freeze.writing():
            started = await self._started(request, context.time_remaining())
        response = message("StartResponse")
        yield response(init={"process_id": _number(started)})
        with closing(Follow(started.journal, turns=self._turns, consumer="grpc")) as follow:
            while (items := await follow.next(SILENCE_SECONDS)) is not None:
                for item in items:
                    if not isinstance(item, Chunk) or item.stream == REMARK:
                        continue
                    if item.stream == STDERR:
                        yield response(stderr=item.data)
                    else:
                        yield response(stdout=item.data)
        yield response(exit={"exit_code": await _exit_code(started)})

    async def _started(self, request: Any, seconds: float | None) -> Process | Terminal:
        config, words = request.config, _words(request.config)
        env = dict(config.env_vars)
        if not request.HasField("pty"):
            return await self._runs.start(
                words, Caller(), env=env, folder=config.cwd, seconds=seconds, stdin=True
            )
        folder = await self._runs.folder(config.cwd)
        self._access.audit("terminal_connect", Caller(), working_dir=folder)
        order = TerminalOrder(
            name=f"pty-{new_id()[-12:]}",
            shell=words[0],
            args=tuple(words[1:]),
            working_dir=folder,
            cols=request.pty.cols or 80,
            rows=request.pty.rows or 24,
            env=env,
            timeout=seconds or 0.0,
        )
        return await self._terminals.create(order)

    async def _write_stdin(self, request: Any, _context: Any) -> Any:
        found = self._found(request.process_id)
        with self._freeze.writing():
            if isinstance(found, Terminal):
                found.type(b"\x04" if request.HasField("eof") else request.input, Caller())
            elif found.stdin is None:
                raise Conflict(f"process {request.process_id} has no stdin")
            elif request.HasField("eof"):
                found.stdin.close()
            else:
                await found.stdin.write(request.input)
        return message("WriteStdinResponse")()

    async def _send_signal(self, request: Any, _context: Any) -> Any:
        number = SIGNALS.get(request.signal)
        if number is None:
            raise BadInput(f"the signal {request.signal} is none of SIGINT, SIGTERM and SIGKILL")
        found, name = self._found(request.process_id), str(request.process_id)
        self._access.audit("process_signal", Caller(), identifier=name, signal=number.name)
        if isinstance(found, Terminal):
            await found.signal(number)
        elif number == signal.SIGKILL:
            found.kill(name)
        elif number == signal.SIGTERM:
            found.stop(name)
        else:
            found.send_signal(number, name)
        return message("SendSignalResponse")()

    async def _resize(self, request: Any, _context: Any) -> Any:
        found = self._found(request.process_id)
        if not isinstance(found, Terminal):
            raise Conflict(f"process {request.process_id} has no terminal")
        found.resize(request.cols, request.rows)
        return message("ResizeTTYResponse")()

    def _found(self, number: int) -> Process | Terminal:
        """Return what runs under a number; raises NotFound."""
        known: list[Process | Terminal] = [*self._processes.all(), *self._terminals.all()]
        for one in reversed(known):
            if number > 0 and _number(one) == number and not one.is_over:
                return one
        raise NotFound(f"process {number} not found")


def _words(config: Any) -> list[str]:
    words = list(config.command)
    if not words or not words[0]:
        raise BadInput("command is required")
    return words


def _number(found: Process | Terminal) -> int:
    if isinstance(found, Terminal):
        return found.meta.leader
    return natural(found.meta.pid) or 0


async def _exit_code(found: Process | Terminal) -> int:
    """Return the code of an exit, -1 after a signal."""
    if isinstance(found, Terminal):
        await found.over.wait()
    else:
        await found.wait()
    return -1 if found.meta.exit_code is None else found.meta.exit_code


def _status(error: SandkeeperError) -> Any:
    for kind, status in STATUS:
        if isinstance(error, kind):
            return status
    return grpc.StatusCode.INTERNAL
