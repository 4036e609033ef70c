"""What git is doing: each operation is bounded in time, can be cancelled, and leaves nothing.

An operation is one or several calls of git in a row. When its time is up, its client is gone or
somebody cancels it, git gets SIGTERM, upon which it removes its locks and half a clone, and what is
left of its session GRACE_SECONDS later (hooks that do not listen) is killed. What a hook has left
running in the background outlives a git that ended by itself, and is not waited for.
"""

import asyncio
import os
import secrets
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from sandkeeper.errors import (
    Conflict,
    NotFound,
    NotInstalled,
    SandkeeperError,
    Unavailable,
    Unprocessable,
)
from sandkeeper.files.service import Files
from sandkeeper.git.addresses import Credential, origin_of, without_users
from sandkeeper.git.failures import failure_of
from sandkeeper.git.program import command, memory_file, variables
from sandkeeper.git.progress import Progress
from sandkeeper.git.records import RunningOperation, named
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.members import SessionMembers
from sandkeeper.linux.children.tool import Tool, readable
from sandkeeper.linux.clocks import rfc3339_utc
from sandkeeper.linux.identity import Identity
from sandkeeper.linux.paths.entering import enter_folder
from sandkeeper.linux.users import Users
from sandkeeper.log.redaction import HIDDEN, redact_command
from sandkeeper.processes.launch import variables_of
from sandkeeper.settings import Environment

__all__ = ["CallEnd", "GitCall", "Operation", "Operations"]

GRACE_SECONDS = 3.0
DRAIN_SECONDS = 0.25
"""So long a pipe may be silent after git's end: what hooks have left running may hold it."""

AT_ONCE = 64
CHUNK_BYTES = 64 << 10
KEPT_BYTES = 4 << 20
NO_GIT = "git is not installed in this sandbox"
NO_PROGRAM = (126, 127)
SHORT_SECRET = 4
"""A password of so few characters is not looked for in texts: it would stand everywhere."""


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call ended, and what it wrote to its standard output."""

    code: int
    stdout: bytes

    @property
    def line(self) -> str:
        """Its only line, as text."""
        return self.stdout.decode("utf-8", "replace").strip()


@dataclass(eq=False)
class Operation:
    """One operation; made by `Operations.begin`."""

    owner: "Operations"
    action: str
    path: str
    folder: str
    identity: Identity | None
    user: str
    progress: Progress
    credential: Credential | None = None
    origin: str = ""
    cancelled: bool = False
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    started: float = field(default_factory=time.time)
    deadline: asyncio.Timeout | None = None

    def cancel(self) -> None:
        """Have it end, as when its time is up."""
        self.cancelled = True
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(asyncio.get_running_loop().time())

    def serve(self, credential: Credential | None, address: str) -> None:
        """Have a credential be told to where `address` leads, and to nobody else."""
        self.credential, self.origin = credential, origin_of(address)

    def inherited(self) -> dict[str, str]:
        """Return the variables of the workload."""
        return self.owner.inherited(self.identity)

    async def git(
        self,
        *arguments: str | bytes,
        stdin: bytes | None = None,
        accepts: Sequence[int] = (0,),
        given: Mapping[str, str] | None = None,
        config: Sequence[tuple[str, str]] = (),
        remote: bool = False,
    ) -> CallEnd:
        """Call git to its end; raises what its failure means, unless the code is one of `accepts`.

        Of its output KEPT_BYTES are kept.
        """
        kept: list[bytes] = []
        size = 0
        calling = self.calling(arguments, stdin=stdin, given=given, config=config, remote=remote)
        async with calling as call:
            async for chunk in call.chunks():
                if size < KEPT_BYTES:
                    kept.append(chunk)
                size += len(chunk)
        answer = CallEnd(call.code, b"".join(kept))
        if answer.code not in accepts:
            raise self.failure(answer)
        return answer

    def failure(self, answer: CallEnd) -> SandkeeperError:
        """Return the error for a call that failed."""
        said = [*self.progress.words, self.progress.shown(answer.line)]
        return failure_of(self.action, "\n".join(filter(None, said)))

    @asynccontextmanager
    async def calling(
        self,
        arguments: Sequence[str | bytes],
        *,
        stdin: bytes | None = None,
        given: Mapping[str, str] | None = None,
        config: Sequence[tuple[str, str]] = (),
        remote: bool = False,
    ) -> AsyncIterator["GitCall"]:
        """Call git, whose output is read inside; who stops reading before its end, ends git.

        Raises NotInstalled, NotFound, Unprocessable when it cannot be started.
        """
        secret = self.credential if remote and self.origin else None
        words = [os.fsdecode(word) for word in arguments]
        argv = command(words, config, self.origin, secret=secret is not None)
        call = GitCall(await self.owner.start(self, argv, given or {}, secret, stdin))
        telling = asyncio.ensure_future(self._tell(call))
        try:
            yield call
            if call.is_read:
                await call.end()
                await telling
                if secret is not None and call.code in NO_PROGRAM:
                    raise NotInstalled(NO_GIT)
        finally:
            telling.cancel()
            await self.owner.ended(call)

    async def _tell(self, call: "GitCall") -> None:
        async for chunk in call.words():
            self.progress.feed(chunk)
        self.progress.finish()


class GitCall:
    """One git that runs. `code` is its exit code once it is over: -1 for a signal or its end."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self._exited = asyncio.ensure_future(readable(tool.child.pidfd.number))
        self.is_read = False
        self.code = -1

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield its standard output, up to its end."""
        async for chunk in self._pieces(self._tool.stdout):
            yield chunk
        self.is_read = True

    def words(self) -> AsyncIterator[bytes]:
        """Return its standard error in pieces."""
        return self._pieces(self._tool.stderr)

    async def _pieces(self, stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
        chunk = b"-"
        while chunk:
            read = asyncio.ensure_future(stream.read(CHUNK_BYTES))
            try:
                await asyncio.wait({read, self._exited}, return_when=asyncio.FIRST_COMPLETED)
                if not read.done():
                    await asyncio.wait({read}, timeout=DRAIN_SECONDS)
                chunk = read.result() if read.done() else b""
            finally:
                read.cancel()
            if chunk:
                yield chunk
                await asyncio.sleep(0)  # what stands in the buffer already would keep the loop

    async def end(self) -> None:
        """Wait for its end."""
        await asyncio.shield(self._exited)
        status = await self._tool.wait()
        self.code = -1 if status.code is None else status.code

    async def close(self) -> None:
        """End it if it still runs, hooks too, and give everything back."""
        if not self._exited.done():
            await self._terminate()
        await self.end()
        await self._tool.close()

    async def _terminate(self) -> None:
        """Have git and all of its session end. While it is not reaped, its number is its own."""
        child = self._tool.child
        with suppress(ProcessLookupError):
            child.signal_group(signal.SIGTERM)
        await asyncio.wait({self._exited}, timeout=GRACE_SECONDS)
        members = await asyncio.to_thread(SessionMembers.find, child.pid, leader_too=True)
        with suppress(ProcessLookupError):
            child.signal_group(signal.SIGKILL)
        members.signal(signal.SIGKILL)
        await members.end(signal.SIGKILL, after=GRACE_SECONDS)
        members.close()


class Operations:
    """All that run now. Event loop's thread only."""

    def __init__(
        self, children: Children, files: Files, users: Users, environment: Environment
    ) -> None:
        self._children = children
        self._files = files
        self._users = users
        self._environment = environment
        self._running: dict[str, Operation] = {}
        self._ending: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def begin(
        self, action: str, path: str, folder: str, seconds: float, progress: Progress
    ) -> AsyncIterator[Operation]:
        """Do something about `path` in `folder`, for `seconds` at most.

        Raises Unavailable when AT_ONCE run, Unprocessable when the time is up, Conflict when it was
        cancelled.
        """
        if len(self._running) >= AT_ONCE:
            raise Unavailable(f"git does {AT_ONCE} things at once: try again")
        identity = self._users.current()
        user = identity.name if identity is not None and identity != self._users.default else ""
        operation = Operation(self, action, path, folder, identity, user, progress)
        progress.shown = lambda text: _shown(text, operation.credential)
        self._running[operation.id] = operation
        try:
            async with asyncio.timeout(seconds) as operation.deadline:
                yield operation
        except TimeoutError:
            if operation.cancelled:
                raise Conflict(f"git {action} was cancelled", code="CANCELLED") from None
            why = f"git {action} took longer than {seconds:g} s and was ended"
            raise Unprocessable(why, code="TIMED_OUT") from None
        finally:
            del self._running[operation.id]

    def running(self) -> list[RunningOperation]:
        """Return what whoever asks may see, oldest first."""
        return [
            RunningOperation(
                one.id,
                one.action,
                named(os.fsencode(one.path))[0],
                rfc3339_utc(int(one.started * 1e6)),
                one.progress.latest,
            )
            for one in self._running.values()
            if self._users.reaches(one.user)
        ]

    def cancel(self, number: str) -> None:
        """Have one end; raises NotFound, Forbidden."""
        found = self._running.get(number)
        if found is None:
            raise NotFound(f"no git operation {number} is running")
        self._users.check_reach(found.user)
        found.cancel()

    def inherited(self, identity: Identity | None) -> dict[str, str]:
        """Return the variables that the programs of a user see."""
        return variables_of(self._environment, identity, {})

    async def start(
        self,
        operation: Operation,
        words: Sequence[str],
        given: Mapping[str, str],
        secret: Credential | None,
        stdin: bytes | None,
    ) -> Tool:
        """Start git; raises NotInstalled, Unprocessable."""
        try:
            await self._files.work.own(enter_folder, operation.folder, operation.identity)
        except OSError as error:
            why = f"cannot use the folder {operation.folder}: {(error.strerror or '').lower()}"
            kind = NotFound if isinstance(error, FileNotFoundError) else Unprocessable
            raise kind(f"git {operation.action}: {why}", code="NO_FOLDER") from None
        inherited = operation.inherited()
        # A given credential is the only one: nobody else is asked.
        env = variables(inherited, given, asks=secret is None)
        data = secret.answer if secret is not None else stdin
        fd = memory_file(data) if data is not None else subprocess.DEVNULL
        try:
            return await self._children.start_tool(
                words,
                env=env,
                cwd=operation.folder,
                identity=operation.identity,
                stdin=fd,
                new_session=True,
            )
        except FileNotFoundError:
            raise NotInstalled(NO_GIT) from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise Unprocessable(f"git cannot be started: {why}", code="NOT_STARTED") from None
        finally:
            if fd >= 0:
                os.close(fd)

    async def ended(self, call: GitCall) -> None:
        """End a call if it still runs; that goes on when whoever waits for it is cancelled."""
        ending = asyncio.ensure_future(call.close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        await asyncio.shield(ending)

    async def close(self) -> None:
        """End everything: the server stops."""
        for operation in self._running.values():
            operation.cancel()
        while self._ending:
            await asyncio.wait(self._ending)


def _shown(text: str, credential: Credential | None) -> str:
    """Return a text of git's, or of a server's, without secrets."""
    if credential is not None and len(credential.password) >= SHORT_SECRET:
        text = text.replace(credential.password.decode("utf-8", "replace"), HIDDEN)
    return without_users(redact_command(text))
