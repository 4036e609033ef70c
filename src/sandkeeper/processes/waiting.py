"""Waiting until a process is ready: ports, an HTTP status, a line of output, a file, its end.

Lines and ends are events. Ports, HTTP and files cannot tell of themselves and are looked at ten
times a second or, where many wait for many, less often: lines by one pass over a journal
(journal.linewatch), ports by one pass over the machine's (network.ports), the others in turns
(processes.probes), each for all who wait. When the process is over and nobody of its group is left,
everything is looked at once more, and what is not met then never will be.
"""

import asyncio
import re
from collections.abc import Awaitable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from sandkeeper.errors import BadInput, StartFailed, Unavailable, Unprocessable
from sandkeeper.files.service import Files
from sandkeeper.journal.linewatch import LineBoard, Pattern
from sandkeeper.journal.matching import Question
from sandkeeper.network.dialing import connect
from sandkeeper.network.ports import Ports
from sandkeeper.network.upstream import Upstream
from sandkeeper.processes.probes import Fits, Look, Probes
from sandkeeper.processes.process import Process

__all__ = [
    "Condition",
    "FileExists",
    "HttpAnswers",
    "LineWritten",
    "Met",
    "Outcome",
    "PortsOpen",
    "ProcessEnds",
    "Waiting",
]

LOOK_SECONDS = 0.1
PORT_POLL_SECONDS = 0.05
LAST_LOOK_SECONDS = 0.5
HTTP_SECONDS = 30.0
CONDITIONS_MOST = 8192
TOLD_AT_ONCE = 4
_PATH = re.compile(r"/[\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class Met:
    """How a condition was met: the `line` and the offset behind it, or the HTTP `status`."""

    line: str = ""
    offset: int = 0
    status: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a wait ended: `met`, `exited` (some can never be met any more) or `timeout`.

    `met` tells for each condition in the given order how it was met, None where it was not.
    """

    reason: str
    met: tuple[Met | None, ...]


class Condition(Protocol):
    """Something to wait for; `str` names it in errors."""

    def watch(self, around: "Surroundings") -> Awaitable[Met | None]:
        """Wait for it; None when it can never be met any more."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What conditions look at. `gone` is done when nobody of the process is left."""

    process: Process
    ports: Ports
    files: Files
    lines: LineBoard
    probes: Probes
    gone: asyncio.Future[Any]

    async def probed(self, thing: Hashable, look: Look, fits: Fits) -> int:
        """Look ten times a second at most, and a last time when the process has gone."""
        key = (self.process.meta.id, thing)
        return await self.probes.answered(key, look, fits, self.gone, LAST_LOOK_SECONDS)


@dataclass(frozen=True, slots=True)
class PortsOpen:
    """The process's tree listens on all of `ports`, reachable from outside or at least locally."""

    ports: tuple[int, ...]
    loopback: bool = False

    def __str__(self) -> str:
        return "port " + ", ".join(map(str, self.ports))

    async def watch(self, around: Surroundings) -> Met | None:
        """Wait for it; None when nobody is left who could listen."""
        process = around.process
        try:
            found = await around.ports.opened(
                lambda: process.meta.leader, self.ports, loopback=self.loopback, gone=around.gone
            )
        except OSError as error:
            raise Unprocessable(f"the sockets cannot be listed: {error.strerror}") from None
        return Met() if found else None


@dataclass(frozen=True, slots=True)
class HttpAnswers:
    """A GET of `path` on a port of the sandbox is answered by `status` (0: 200 to 399).

    Raises BadInput for a path that no request line can carry.
    """

    port: int
    path: str = "/"
    status: int = 0

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path):
            raise BadInput("http.path must begin with / and be percent-encoded")

    def __str__(self) -> str:
        return f"http {self.status or '2xx or 3xx'} from :{self.port}{self.path}"

    async def watch(self, around: Surroundings) -> Met | None:
        """Wait for it; redirects are not followed."""
        status = await around.probed((self.port, self.path), self._look, self._fits)
        return Met(status=status) if status else None

    def _fits(self, status: int) -> bool:
        return status == self.status or (not self.status and 200 <= status < 400)

    async def _look(self) -> int:
        async with asyncio.timeout(HTTP_SECONDS):
            return await self._ask()

    async def _ask(self) -> int:
        head = (
            f"GET {self.path} HTTP/1.1\r\nhost: localhost:{self.port}\r\n"
            "user-agent: sandkeeper\r\naccept: */*\r\nconnection: close\r\n\r\n"
        )
        upstream = Upstream(head_request=False)
        try:
            await upstream.start(await connect(self.port), head.encode())
            status, _ = await upstream.response()
            return status
        finally:
            upstream.close()


class LineWritten:
    """A line answers `question.grep`, from an offset of the output on.

    Raises BadInput, and Unavailable when too many patterns are waited for.
    """

    def __init__(self, question: Question, offset: int = 0) -> None:
        self._pattern = Pattern.of(question)
        self._question = question
        self._offset = offset

    def __str__(self) -> str:
        where = f" on {self._question.stream}" if self._question.stream else ""
        return f"log {self._question.grep!r}{where}"

    async def watch(self, around: Surroundings) -> Met | None:
        """Wait for it; None at the end of the output."""
        found = await around.lines.first(around.process.journal, self._pattern, self._offset)
        return None if found is None else Met(line=found.text, offset=found.end)


@dataclass(frozen=True, slots=True)
class FileExists:
    """The workload's user can see something at an absolute path."""

    path: str

    def __str__(self) -> str:
        return f"file {self.path}"

    async def watch(self, around: Surroundings) -> Met | None:
        """Wait for it."""
        files = around.files

        async def look() -> int:
            await files.work.run(files.look, self.path)
            return 1

        return Met() if await around.probed(self.path, look, bool) else None


@dataclass(frozen=True, slots=True)
class ProcessEnds:
    """The process is over for good, with `code` if one is named."""

    code: int | None = None

    def __str__(self) -> str:
        return "exit" if self.code is None else f"exit {self.code}"

    async def watch(self, around: Surroundings) -> Met | None:
        """Wait for it; None when it ended otherwise."""
        await around.process.wait()
        meta = around.process.meta
        fits = self.code is None or (meta.exit_code == self.code and meta.exit_signal is None)
        return Met(offset=around.process.journal.tail) if fits else None


@dataclass(eq=False, slots=True)
class _Leaving:
    """Who waits for the end of one process, and what watches for it."""

    waiting: list[asyncio.Future[Any]]
    task: asyncio.Task[None]


class Waiting:
    """Waits for conditions; nothing of a wait is left behind when it is cancelled."""

    def __init__(self, ports: Ports, files: Files) -> None:
        self._ports = ports
        self._files = files
        self._lines = LineBoard()
        self._probes = Probes()
        self._leaving: dict[Process, _Leaving] = {}
        self._conditions = 0

    async def wait(
        self, process: Process, conditions: list[Condition], *, every: bool, seconds: float
    ) -> Outcome:
        """Wait until one condition is met (or `every` one), can never be, or time is over.

        Raises Unavailable when CONDITIONS_MOST are waited for already.
        """
        if self._conditions + len(conditions) > CONDITIONS_MOST:
            raise Unavailable(f"more than {CONDITIONS_MOST} conditions are waited for")
        self._conditions += len(conditions)
        with self._gone(process) as gone:
            around = Surroundings(
                process, self._ports, self._files, self._lines, self._probes, gone
            )
            tasks = [asyncio.ensure_future(one.watch(around)) for one in conditions]
            reason = "timeout"
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        reason = await _decided(tasks, every=every)
                return Outcome(reason, tuple(map(_met, tasks)))
            finally:
                self._conditions -= len(conditions)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def _gone(self, process: Process) -> Iterator[asyncio.Future[Any]]:
        """Give what is done when the process is over and nobody of its group and session lives."""
        leaving = self._leaving.get(process)
        if leaving is None or leaving.task.done():
            waiting: list[asyncio.Future[Any]] = []
            leaving = _Leaving(waiting, asyncio.ensure_future(self._leave(process, waiting)))
            self._leaving[process] = leaving
        gone = asyncio.get_running_loop().create_future()
        leaving.waiting.append(gone)
        try:
            yield gone
        finally:
            gone.cancel()
            with suppress(ValueError):  # told already
                leaving.waiting.remove(gone)
            if not leaving.waiting and self._leaving.get(process) is leaving:
                leaving.task.cancel()
                del self._leaving[process]

    async def _leave(self, process: Process, waiting: list[asyncio.Future[Any]]) -> None:
        await process.ended.wait()
        leader = process.meta.leader
        while leader and await self._ports.members(leader):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        while waiting:  # a few at a time: each of them now looks at all its conditions
            for gone in [waiting.pop() for _ in range(min(TOLD_AT_ONCE, len(waiting)))]:
                if not gone.done():
                    gone.set_result(None)
            await asyncio.sleep(0)

    async def wait_for_ports(self, process: Process, wanted: list[int]) -> None:
        """Wait until the tree of a process is reachable on all ports.

        Raises Unprocessable when its time is up, or at once when nobody is left who could listen.
        """
        gone = asyncio.ensure_future(self._left(process))
        try:
            found = await self._ports.opened(lambda: process.meta.leader, wanted, gone=gone)
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        if found:
            return
        if process.timed_out:
            seconds = process.meta.timeout
            raise Unprocessable(f"process timed out waiting for ports after {seconds} seconds")
        listed = ", ".join(map(str, wanted))
        raise StartFailed(
            f"it ended with exit code {process.meta.exit_code} before it listened on {listed}"
        )

    async def _left(self, process: Process) -> None:
        """Wait until a process is over, and nobody of its group lives or its time is up."""
        while not process.timed_out and not process.ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(PORT_POLL_SECONDS):
                    await process.ended.wait()
        leader = process.meta.leader
        while not process.timed_out and leader and await self._ports.members(leader):  # noqa: ASYNC110
            await asyncio.sleep(PORT_POLL_SECONDS)

    async def close(self) -> None:
        """Stop looking: the server stops."""
        await self._probes.close()
        await self._lines.close()


async def _decided(tasks: Sequence[asyncio.Future[Met | None]], *, every: bool) -> str:
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        results = [task.result() for task in done]
        if every and None in results:
            return "exited"
        if not every and any(results):
            return "met"
    return "met" if every else "exited"


def _met(task: asyncio.Future[Met | None]) -> Met | None:
    return task.result() if task.done() and not task.cancelled() else None
