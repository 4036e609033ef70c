"""A kept shell, spoken with through named pipes (`interpreter/shell.bash` is its other end).

Ends come on a pipe of their own, never in the output: whatever a program prints, a cell is over
when the shell says so. All that it wrote before is in the pipes by then, so it is read first.
"""

import asyncio
import errno
import fcntl
import os
import re
import stat
import struct
import termios
from collections import deque
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from sandkeeper.interpreter.events import EndStatus, Outcome
from sandkeeper.interpreter.orders import Execute
from sandkeeper.interpreter.scribe.engine import EngineFailed, Given, Lost, Tell, Unsupported
from sandkeeper.interpreter.scribe.shell_questions import QUESTIONS, quoted
from sandkeeper.journal.segment import STDERR, STDOUT, Stream
from sandkeeper.numerals import natural

__all__ = ["ShellEngine"]

T = TypeVar("T")

READ_BYTES = 64 << 10
WORD_BYTES, WORDS_KEPT = 4096, 64
"""Of a line that the shell tells, and of such lines: any program of a cell can write more."""

BETWEEN_BYTES = 64 << 10
"""So much of what is written while no cell runs waits for the next one, of each stream."""

ANSWER_BYTES = 4 << 20
PIPE_BYTES = 1 << 20
STATUS_MOST, COUNT_MOST = 255, 1 << 53
"""Whatever a program of a cell writes in the shell's place."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ShellEngine:
    """One shell; an `Engine` (scribe.engine)."""

    def __init__(self, given: Given) -> None:
        """Take up the pipes of a place (`interpreter.shell_start` makes them)."""
        self._place, self._turn = str(given["place"]), str(given["generation"])
        self._loop = asyncio.get_running_loop()
        self._pipes: dict[str, int] = {}
        self._free = asyncio.Lock()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._words: deque[list[str]] = deque(maxlen=WORDS_KEPT)
        self._said = asyncio.Event()
        self._told = b""
        self._answer = bytearray()
        self._tell: Tell | None = None
        self._next: Tell | None = None
        self._between = {STDOUT: bytearray(), STDERR: bytearray()}
        self._count = 0
        self._number = 0

    async def start(self) -> dict[str, Any]:
        """Wait until the shell takes orders."""
        try:
            for name in ("orders", "told", "out", "err", "answer"):
                self._pipes[name] = _open_pipe(f"{self._place}/{name}-{self._turn}")
            for name in ("out", "err"):
                with suppress(OSError):
                    fcntl.fcntl(self._pipes[name], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError as error:
            self.close()
            raise EngineFailed(f"the shell's pipes: {error.strerror}") from None
        for name, read in (
            ("told", self._read_told),
            ("out", lambda: self._read_output("out", STDOUT)),
            ("err", lambda: self._read_output("err", STDERR)),
            ("answer", self._read_answer),
        ):
            self._loop.add_reader(self._pipes[name], read)
        if self._tell is not None:
            return {"language": "bash"}
        async with self._free:
            await self._order("ping", 0)
            ready = await self._word("ready")
        self._number = self._count = natural(ready[1] if len(ready) > 1 else "", COUNT_MOST) or 0
        return {"language": "bash", "version": ready[2] if len(ready) > 2 else ""}

    # Orders

    async def execute(self, order: Execute, tell: Tell) -> Outcome:
        """Have the shell run a cell."""
        if why := _unfit(order):
            tell.event("error", name="ValueError", value=why, traceback=[])
            return Outcome(EndStatus.ERROR)
        async with self._free:
            self._number += 1
            self._count += not order.silent
            try:
                self._next = tell
                await self._order("run", self._number, _cell(order).encode("utf-8", "replace"))
                end = await self._word("end", str(self._number))
                self._drain()
            finally:
                self._tell = self._next = None
        return _outcome(end, self._count)

    def resume(self, identifier: str, tell: Tell) -> Coroutine[Any, Any, Outcome]:
        """Hear of the cell that runs: nothing is lost of what is in the pipes; see `Engine`."""
        self._tell = tell
        return self._resumed()

    async def _resumed(self) -> Outcome:
        end: list[str] = []
        async with self._free:
            try:
                await self._write("ping", 0)
                while (found := await self._word())[0] != "ready":
                    end = found if found[0] == "end" else end
                self._drain()
            finally:
                self._tell = None
            self._number = self._count = (
                natural(found[1] if len(found) > 1 else "", COUNT_MOST) or 0
            )
        if end[1:2] != found[1:2]:
            return Outcome(EndStatus.UNKNOWN, "how it ended was said while nobody heard it")
        return _outcome(end, self._count)

    async def interrupt(self) -> bool:
        """Say that SIGINT is what it listens to."""
        return False

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Ask once the shell is free; what is asked changes nothing in it."""
        question = QUESTIONS.get(name)
        if question is None:
            raise Unsupported(f"a shell knows no {name}")
        async with self._free:
            self._number += 1
            self._answer.clear()
            await self._order("ask", self._number, question.script(arguments).encode())
            await self._word("answered", str(self._number))
            self._read_answer()
            return question.read(bytes(self._answer), arguments)

    async def died(self) -> None:
        """Take in the last words, then have whoever waits raise Lost."""
        with suppress(OSError, KeyError):
            self._read_told()
            self._drain()
        # Whoever waits for a word that is here gets it first.
        await asyncio.sleep(0)
        if not self._over.done():
            self._over.set_result(None)

    def relieve(self, *, looks: bool) -> None:
        """Hold nothing that could grow; see `Engine`."""

    def close(self) -> None:
        """Let go of the pipes."""
        for name, fd in self._pipes.items():
            if name != "orders":
                self._loop.remove_reader(fd)
            else:
                self._loop.remove_writer(fd)
            os.close(fd)
        self._pipes.clear()
        if not self._over.done():
            self._over.set_result(None)

    async def _order(self, word: str, number: int, body: bytes = b"") -> None:
        """Write an order whole; what was told before is no answer to it."""
        for _ in range(0, _waiting(self._pipes["told"]), READ_BYTES):
            self._read_told()
        self._words.clear()
        await self._write(word, number, body)

    async def _write(self, word: str, number: int, body: bytes = b"") -> None:
        left = memoryview(f"{word} {number} {len(body)}\n".encode() + body)
        while left:
            if self._over.done():
                raise Lost
            try:
                left = left[os.write(self._pipes["orders"], left) :]
            except BlockingIOError:
                await self._unless_over(self._writable())

    async def _writable(self) -> None:
        fd, room = self._pipes["orders"], asyncio.Event()
        self._loop.add_writer(fd, room.set)
        try:
            await room.wait()
        finally:
            if self._pipes:
                self._loop.remove_writer(fd)

    async def _word(self, *wanted: str) -> list[str]:
        """Return the first line that begins with some words; others belong to what is no more."""
        while True:
            while self._words:
                found = self._words.popleft()
                if tuple(found[: len(wanted)]) == wanted:
                    return found
            self._said.clear()
            await self._unless_over(self._said.wait())

    async def _unless_over(self, work: Awaitable[T]) -> T:
        """Await work, or raise Lost when the shell ends first."""
        task = asyncio.ensure_future(work)
        try:
            both: list[asyncio.Future[Any]] = [task, self._over]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Lost
            return task.result()
        finally:
            task.cancel()

    # What the shell says

    def _read_told(self) -> None:
        with suppress(BlockingIOError):
            self._told += os.read(self._pipes["told"], READ_BYTES)
        *lines, self._told = self._told.split(b"\n")
        self._told = self._told[-WORD_BYTES:]
        for line in lines:
            words = line.decode("ascii", "replace").split()
            if words[:2] == ["begin", str(self._number)] and self._next is not None:
                self._begin(self._next)
            elif len(line) <= WORD_BYTES and words:
                self._words.append(words)
                self._said.set()

    def _begin(self, tell: Tell) -> None:
        """From here on output is that of the cell; before come words of the background."""
        self._next, self._tell = None, tell
        tell.event("started", executionCount=self._count)
        for stream, kept in self._between.items():
            if kept:
                tell.text(stream, bytes(kept))
                kept.clear()

    def _read_output(self, name: str, stream: Stream, most: int = READ_BYTES) -> int:
        """Read once and pass it on; returns how much that was."""
        if self._next is not None:
            self._read_told()  # a cell's beginning is told before its first word
        try:
            data = os.read(self._pipes[name], most)
        except BlockingIOError:
            return 0
        if self._tell is not None:
            self._tell.text(stream, data)
        else:
            self._keep(stream, data)
        return len(data)

    def _keep(self, stream: Stream, data: bytes) -> None:
        """Keep the last of what programs in the background write between two cells."""
        kept = self._between[stream]
        kept += data
        del kept[:-BETWEEN_BYTES]

    def _drain(self) -> None:
        """Read what is in the pipes now; more may come for ever, from the background."""
        for name, stream in (("out", STDOUT), ("err", STDERR)):
            left = _waiting(self._pipes[name])
            while left > 0 and (count := self._read_output(name, stream, min(left, READ_BYTES))):
                left -= count

    def _read_answer(self) -> None:
        """Read what is in the pipe now; more may come for ever."""
        with suppress(BlockingIOError):
            for _ in range(0, _waiting(self._pipes["answer"]), READ_BYTES):
                self._answer += os.read(self._pipes["answer"], READ_BYTES)
                del self._answer[ANSWER_BYTES:]


def _open_pipe(path: str) -> int:
    """Open one end that never sees the other go; raises OSError for what is no pipe.

    It belongs to whom its folder belongs to: there may be links to those of others in it.
    """
    owner = os.stat(os.path.dirname(path)).st_uid
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        if not stat.S_ISFIFO(info.st_mode) or info.st_uid != owner:
            raise OSError(errno.EINVAL, "it is no pipe of the shell's")
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(fd)


def _waiting(fd: int) -> int:
    """Return how many bytes a pipe holds (FIONREAD, pipe(7))."""
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))
    return int(count)


def _unfit(order: Execute) -> str:
    """Say what of an order no shell can be told."""
    texts = (order.code, order.cwd, *order.env.values())
    if any("\0" in text for text in texts):
        return "code, cwd and env of a shell hold no NUL"
    for name in order.env:
        if not _NAME.fullmatch(name):
            return f"env: {name[:64]!r} is no name of a shell's variable"
    return ""


def _cell(order: Execute) -> str:
    """Return what the shell evaluates: the code, in a folder and with variables for it alone."""
    if not (order.env or order.cwd):
        return order.code
    pairs = "".join(f"{name}={quoted(value)} " for name, value in order.env.items())
    text = f"{pairs}eval {quoted(order.code)}"
    if order.cwd:
        text = f"__sk_back=$PWD; builtin cd -- {quoted(order.cwd)} && {text}"
    return text


def _outcome(end: list[str], count: int) -> Outcome:
    """Read `end NUMBER STATUS [interrupted]`."""
    code = natural(end[2] if len(end) > 2 else "", STATUS_MOST)
    code = -1 if code is None else code
    status = EndStatus.OK if code == 0 else EndStatus.ERROR
    if "interrupted" in end[3:]:
        status = EndStatus.INTERRUPTED
    return Outcome(status, execution_count=count, exit_code=code)
