"""E2B's Process service on the processes and terminals of this server.

Streams stand on cursors of a journal: who does not read holds nobody up, and a process that has
ended is known as long as its record is.
"""

import asyncio
import shlex
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import closing, suppress
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from sandkeeper.api.e2b import connect, structs
from sandkeeper.api.e2b.connect import Failure
from sandkeeper.api.e2b.events import Events, end_event, event
from sandkeeper.api.e2b.framing import frame
from sandkeeper.api.e2b.people import BASE, CallUser, People
from sandkeeper.api.edge.subject import caller
from sandkeeper.errors import Conflict, NotFound, Obstacle
from sandkeeper.files.paths import resolve_text
from sandkeeper.files.service import Files
from sandkeeper.journal.cursor import Follow
from sandkeeper.journal.turns import Turns
from sandkeeper.linux.paths.entering import enter_folder
from sandkeeper.log.access import Access
from sandkeeper.numerals import natural
from sandkeeper.processes.process import Process
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.runs import new_id
from sandkeeper.processes.spec import ProcessSpec
from sandkeeper.processes.stdin import STDIN_BODY_BYTES
from sandkeeper.settings import Environment
from sandkeeper.terminals.registry import TerminalOrder, Terminals
from sandkeeper.terminals.terminal import Terminal

__all__ = ["ProcessService"]

SIGNALS = {
    "SIGNAL_SIGKILL": signal.SIGKILL,
    "SIGNAL_SIGTERM": signal.SIGTERM,
    "9": signal.SIGKILL,
    "15": signal.SIGTERM,
}
TYPED_BYTES = 64 << 10
KILL_SECONDS = 0.09
STREAM_BYTES = 128 << 10
"""Of one block: as base64 it is made in some tenths of a millisecond."""


class _End(NamedTuple):
    """How a run ended; `late`: its time was up."""

    code: int | None
    number: int | None
    late: bool


class ProcessService:
    """The eight calls; each answers a request whose codec and right are in order."""

    def __init__(
        self,
        *,
        processes: Processes,
        terminals: Terminals,
        files: Files,
        people: People,
        environment: Environment,
        access: Access,
        turns: Turns,
    ) -> None:
        self._processes = processes
        self._terminals = terminals
        self._files = files
        self._people = people
        self._environment = environment
        self._access = access
        self._turns = turns

    # Starting and following

    async def start(self, request: Request) -> Response:
        """Start a program, on pipes or in a terminal, and stream what it does."""
        seconds = connect.deadline_of(request)
        call = await connect.first_message(request, structs.StartCall)
        config = call.process
        if config is None or not config.cmd:
            raise Failure("invalid_argument", "process.cmd is required")
        person = self._people.of(request)
        folder = await self._folder(config.cwd, person)
        env = {**self._people.base(person), **config.envs}
        words = [config.cmd, *config.args]
        self._access.audit(
            "process_exec_stream", caller(request), command=shlex.join(words), working_dir=folder
        )
        started: Process | Terminal
        if call.pty is not None:
            size = call.pty.size or structs.PtySize()
            order = TerminalOrder(
                name=f"pty-{new_id()[-12:]}",
                shell=config.cmd,
                working_dir=folder,
                cols=_side(size.cols, 80),
                rows=_side(size.rows, 24),
                args=tuple(config.args),
                env=env,
                inherit_env=False,
                user=person.name,
                tag=call.tag,
                timeout=seconds or 0.0,
            )
            started = await self._terminals.create(order)
        else:
            spec = ProcessSpec(
                command=shlex.join(words),
                argv=words,
                working_dir=folder,
                env=env,
                inherit_env=False,
                stdin=call.stdin,
                timeout=seconds,
                user=person.name,
                tag=call.tag,
            )
            started, _ = await self._processes.start(spec)
        offset = call.cursor or 0
        return self._stream(request, started, offset, None, told=call.cursor is not None)

    async def connect(self, request: Request) -> Response:
        """Stream what a process does from now on, or from a `cursor` on."""
        seconds = connect.deadline_of(request)
        call = await connect.first_message(request, structs.ConnectCall)
        found = self._selected(call.process)
        tail = found.journal.tail
        offset = tail if call.cursor is None else call.cursor
        if not 0 <= offset <= tail:
            raise Failure("invalid_argument", f"cursor {offset} is not in the output (0 to {tail})")
        return self._stream(request, found, offset, seconds, told=call.cursor is not None)

    def _stream(
        self,
        request: Request,
        found: Process | Terminal,
        offset: int,
        seconds: float | None,
        *,
        told: bool,
    ) -> Response:
        ping = connect.ping_of(request)
        return connect.stream(self._events(found, offset, ping, told=told), seconds)

    async def _events(
        self, found: Process | Terminal, offset: int, ping: float, *, told: bool
    ) -> AsyncIterator[bytes]:
        start: dict[str, Any] = {"start": {"pid": _pid(found)}}
        if told:
            start["cursor"] = str(offset)
        yield event(start)
        events = Events(pty=isinstance(found, Terminal), told=told)
        follow = Follow(
            found.journal, offset, turns=self._turns, limit=STREAM_BYTES, consumer="e2b"
        )
        with closing(follow):
            while (items := await follow.next(ping)) is not None:
                if block := events.batch(items):
                    yield block
        end = await _ended(found)
        if end.late:
            raise Failure("deadline_exceeded", "the process was killed: its deadline was over")
        yield end_event(end.code, end.number)

    async def _folder(self, given: str, person: CallUser) -> str:
        """Return where a program is run; raises Failure when its user cannot go there."""
        wanted = given or self._people.workdir(person)
        folder = resolve_text(wanted, workdir=person.home, home=person.home).absolute
        try:
            await self._files.work.own(enter_folder, folder, person.identity)
        except FileNotFoundError:
            raise Failure("invalid_argument", f"cwd '{folder}' does not exist") from None
        except (OSError, ValueError) as error:
            raise Failure("invalid_argument", str(Obstacle.of("cwd", folder, error))) from None
        return folder

    # Looking

    async def list(self, request: Request) -> Response:
        """List what runs."""
        await connect.read_unary(request, structs.Nothing)
        found: list[Process | Terminal] = [*self._processes.all(), *self._terminals.all()]
        return connect.unary({"processes": [self._info(one) for one in found if not one.is_over]})

    def _info(self, one: Process | Terminal) -> dict[str, Any]:
        meta = one.meta
        words: Sequence[str]
        if isinstance(one, Terminal):
            words = [one.meta.shell, *one.meta.args]
        else:
            words = one.meta.argv or [
                self._environment.get("SHELL") or "sh",
                "-c",
                one.meta.command,
            ]
        config: dict[str, Any] = {"cmd": words[0]}
        if len(words) > 1:
            config["args"] = list(words[1:])
        envs = {name: value for name, value in meta.env.items() if name not in BASE}
        if envs:
            config["envs"] = envs
        if meta.working_dir:
            config["cwd"] = meta.working_dir
        made = {"config": config, "pid": _pid(one)}
        return {**made, "tag": meta.tag} if meta.tag else made

    def _selected(self, selector: structs.Selector, *, running: bool = False) -> Process | Terminal:
        """Return what is selected; raises NotFound."""
        known: list[Process | Terminal] = [*self._processes.all(), *self._terminals.all()]
        for one in reversed(known):
            named = _pid(one) == selector.pid if selector.pid else one.meta.tag == selector.tag
            if named and (selector.pid or selector.tag) and not (running and one.is_over):
                return one
        if selector.pid:
            raise NotFound(f"process with pid {selector.pid} not found")
        if selector.tag:
            raise NotFound(f"process with tag {selector.tag[:256]!r} not found")
        raise Failure("invalid_argument", "a process is selected by its pid or its tag")

    # Changing

    async def update(self, request: Request) -> Response:
        """Give a terminal another size."""
        call = await connect.read_unary(request, structs.UpdateCall)
        found = self._selected(call.process, running=True)
        if call.pty is not None and call.pty.size is not None:
            if not isinstance(found, Terminal):
                raise Failure("failed_precondition", "the process has no terminal")
            found.resize(call.pty.size.cols, call.pty.size.rows)
        return connect.unary({})

    async def send_signal(self, request: Request) -> Response:
        """Send SIGTERM or SIGKILL."""
        call = await connect.read_unary(request, structs.SignalCall)
        number = SIGNALS.get(str(call.signal))
        if number is None:
            raise Failure("unimplemented", f"the signal {str(call.signal)[:64]} is not supported")
        found = self._selected(call.process, running=True)
        name = str(_pid(found))
        self._access.audit("process_signal", caller(request), identifier=name, signal=number.name)
        if isinstance(found, Terminal):
            await found.signal(number)
        elif number == signal.SIGKILL:
            found.kill(name)
        else:
            found.stop(name)
        if number == signal.SIGKILL:
            # Who asks again should find it gone.
            with suppress(TimeoutError):
                async with asyncio.timeout(KILL_SECONDS):
                    await found.over.wait()
        return connect.unary({})

    async def send_input(self, request: Request) -> Response:
        """Type."""
        call = await connect.read_unary(request, structs.InputCall)
        await self._type(request, self._selected(call.process, running=True), call.input)
        return connect.unary({})

    async def stream_input(self, request: Request) -> Response:
        """Type what comes over time; answered when all of it has come."""
        found: Process | Terminal | None = None
        async for message in connect.messages(request, structs.InputMessage):
            if message.start is not None:
                found = self._selected(message.start.process, running=True)
            elif message.data is not None:
                if found is None:
                    raise Failure("invalid_argument", "the stream begins with no start")
                await self._type(request, found, message.data.input)
        return connect.failed_stream(None, before=frame(b"{}"))

    async def _type(
        self, request: Request, found: Process | Terminal, given: structs.Chunk
    ) -> None:
        data = given.data()
        if isinstance(found, Terminal):
            if given.pty is None:
                raise Failure("failed_precondition", "the process has a terminal: send pty input")
            for at in range(0, len(data), TYPED_BYTES):
                found.type(data[at : at + TYPED_BYTES], caller(request))
            return
        if given.stdin is None:
            raise Failure("failed_precondition", "the process has no terminal: send stdin input")
        if found.stdin is None:
            raise Conflict("the process was started without stdin")
        self._access.audit(
            "process_stdin_write", caller(request), identifier=found.meta.pid, bytes=len(data)
        )
        for at in range(0, len(data), STDIN_BODY_BYTES):
            await found.stdin.write(data[at : at + STDIN_BODY_BYTES])

    async def close_stdin(self, request: Request) -> Response:
        """Send end of file."""
        call = await connect.read_unary(request, structs.SelectorCall)
        found = self._selected(call.process, running=True)
        if isinstance(found, Terminal):
            raise Failure("failed_precondition", "the process has a terminal: type ^D there")
        if found.stdin is None:
            raise Conflict("the process was started without stdin")
        self._access.audit("process_stdin_close", caller(request), identifier=found.meta.pid)
        found.stdin.close()
        return connect.unary({})


def _pid(found: Process | Terminal) -> int:
    return found.meta.leader if isinstance(found, Terminal) else natural(found.meta.pid) or 0


def _side(given: int, default: int) -> int:
    return given if 0 < given < 65536 else default


async def _ended(found: Process | Terminal) -> _End:
    if isinstance(found, Terminal):
        await found.over.wait()
        return _End(found.meta.exit_code, found.meta.exit_signal, found.meta.timed_out)
    await found.wait()
    meta = found.meta
    unknown = meta.exit_reason == "unknown"
    return _End(None if unknown else meta.exit_code, meta.exit_signal, found.timed_out)
