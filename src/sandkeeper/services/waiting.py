"""Waiting until a process is ready: ports, an HTTP status, a line of output, a file, its end.

Lines and ends are events. Ports, HTTP and files cannot tell of themselves and are looked at ten
times a second, in passes that waiters of one process share. When the process is over and nobody of
its group is left, everything is looked at once more, and what is not met then never will be.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from sandkeeper.errors import BadInput, SandkeeperError, Unprocessable
from sandkeeper.services.files import Files
from sandkeeper.services.linewatch import LineWatch
from sandkeeper.services.ports import Ports
from sandkeeper.services.process import Process
from sandkeeper.services.query import Question
from sandkeeper.services.upstream import Upstream, connect

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
LAST_LOOK_SECONDS = 0.5
HTTP_SECONDS = 30.0
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
    gone: asyncio.Future[Any]

    async def polled(self, look: Callable[[], Awaitable[Met | None]]) -> Met | None:
        """Look ten times a second, and a last time when the process has gone."""
        while True:
            last = self.gone.done()
            if (met := await self._bounded(look)) is not None or last:
                return met
            await asyncio.wait({self.gone}, timeout=LOOK_SECONDS)

    async def _bounded(self, look: Callable[[], Awaitable[Met | None]]) -> Met | None:
        """Let a look that hangs not outlive the process."""
        task: asyncio.Future[Any] = asyncio.ensure_future(look())
        try:
            await asyncio.wait({task, self.gone}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({task}, timeout=LAST_LOOK_SECONDS)
            met: Met | None = task.result() if task.done() else None
            return met
        finally:
            task.cancel()


@dataclass(frozen=True, slots=True)
class PortsOpen:
    """The process's tree listens on all of `ports`, reachable from outside or at least locally."""

    ports: tuple[int, ...]
    loopback: bool = False

    def __str__(self) -> str:
        return "port " + ", ".join(map(str, self.ports))

    async def watch(self, around: Surroundings) -> Met | None:
        """Wait for it; None when nobody is left who could listen."""

        async def look() -> Met | None:
            leader = around.process.meta.leader
            if not leader:
                return None
            try:
                found = await self._listening(around.ports, leader)
            except OSError as error:
                raise Unprocessable(f"the sockets cannot be listed: {error.strerror}") from None
            return Met() if found >= set(self.ports) else None

        return await around.polled(look)

    async def _listening(self, ports: Ports, leader: int) -> set[int]:
        if not self.loopback:
            return await ports.routable(leader)
        return {one.local_port for one in await ports.of_tree(leader) if one.listening}


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

        async def look() -> Met | None:
            with suppress(TimeoutError, Unprocessable, OSError):
                async with asyncio.timeout(HTTP_SECONDS):
                    status = await self._ask()
                if status == self.status or (not self.status and 200 <= status < 400):
                    return Met(status=status)
            return None

        return await around.polled(look)

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
    """A line answers `question.grep`, from an offset of the output on; raises BadInput."""

    def __init__(self, question: Question, offset: int = 0) -> None:
        self._lines = LineWatch(question)
        self._question = question
        self._offset = offset

    def __str__(self) -> str:
        where = f" on {self._question.stream}" if self._question.stream else ""
        return f"log {self._question.grep!r}{where}"

    async def watch(self, around: Surroundings) -> Met | None:
        """Wait for it; None at the end of the output."""
        found = await self._lines.first(around.process.journal, self._offset)
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

        async def look() -> Met | None:
            with suppress(SandkeeperError):
                await files.work.run(files.look, self.path)
                return Met()
            return None

        return await around.polled(look)


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


class Waiting:
    """Waits for conditions; nothing of a wait is left behind when it is cancelled."""

    def __init__(self, ports: Ports, files: Files) -> None:
        self._ports = ports
        self._files = files

    async def wait(
        self, process: Process, conditions: list[Condition], *, every: bool, seconds: float
    ) -> Outcome:
        """Wait until one condition is met (or `every` one), can never be, or time is over."""
        gone = asyncio.ensure_future(self._gone(process))
        around = Surroundings(process, self._ports, self._files, gone)
        tasks = [asyncio.ensure_future(one.watch(around)) for one in conditions]
        reason = "timeout"
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    reason = await _decided(tasks, every=every)
            return Outcome(reason, tuple(map(_met, tasks)))
        finally:
            for task in (*tasks, gone):
                task.cancel()
            await asyncio.gather(*tasks, gone, return_exceptions=True)

    async def _gone(self, process: Process) -> None:
        """Wait until the process is over and nobody of its group and session lives."""
        await process.ended.wait()
        leader = process.meta.leader
        while leader and await self._ports.members(leader):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)


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
