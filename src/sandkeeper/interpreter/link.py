"""The server's end of the scribe: started at need, or found; orders out, answers and news in."""

import asyncio
import json
import socket
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from sandkeeper.errors import (
    Conflict,
    Internal,
    NotFound,
    NotInstalled,
    SandkeeperError,
    StorageFull,
    Unavailable,
    Unprocessable,
)
from sandkeeper.interpreter.orders import (
    HEAD_BYTES,
    Attach,
    Call,
    FromScribe,
    Grown,
    Hello,
    Order,
    OrderAnswer,
    framed,
)
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.daemon import Daemon
from sandkeeper.linux.children.localsockets import connected, listening
from sandkeeper.log.lines import Log

__all__ = ["Link"]

SILENT = "what listens to interpreters does not answer: try again"

CONNECT_SECONDS = 60.0
"""On a very busy machine its start takes long."""
ANSWER_SECONDS = 60.0
"""So long an order waits: a scribe that somebody has stopped must keep nobody for ever."""

BEHIND_BYTES = 64 << 20
"""So much may wait for a scribe that does not read."""

SCRIBE = Path(__file__).parent / "scribe" / "main.py"
PATIENT = (Attach, Call)
"""An interpreter answers these, and whoever asks says for how long."""

KINDS: dict[str, type[SandkeeperError]] = {
    "failed": Unprocessable,
    "lost": Conflict,
    "missing": NotInstalled,
    "storage": StorageFull,
    "unknown": NotFound,
    "unsupported": Unprocessable,
}


class Link:
    """Event loop's thread only. `news` gets how executions stand, `lost` is told of a scribe's end.

    `limits` are those of its journals (journal.budget).
    """

    def __init__(
        self,
        path: Path,
        log_path: Path,
        children: Children,
        log: Log,
        limits: dict[str, int],
        *,
        news: Callable[[Grown], None],
        lost: Callable[[], None],
        seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._seconds = seconds
        self._path = path
        self._log_path = log_path
        self._children = children
        self._log = log
        self._limits = limits
        self._news = news
        self._lost = lost
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[OrderAnswer]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._daemon: Daemon | None = None
        self._closing = False
        self.hello: Hello | None = None

    @property
    def is_open(self) -> bool:
        """Whether a scribe is connected."""
        return self._writer is not None

    async def open(self, *, start: bool = True) -> bool:
        """Connect to the scribe, with `start` to a new one where there is none.

        Says whether there is one. Raises Internal when none can be started.
        """
        async with self._opening:
            if self._writer is None:
                try:
                    sock = await asyncio.to_thread(self._connect)
                except OSError:
                    if not start:
                        return False
                    sock = await self._begin()
                await self._greet(sock)
        return True

    async def ask(self, order: Order) -> Any:
        """Have an order carried out; raises what its failure is, Unavailable without a scribe.

        Unavailable as well where the scribe does not answer.
        """
        await self.open()
        if self._writer is None:
            raise Unavailable("what listens to interpreters has ended: try again")
        if self._writer.transport.get_write_buffer_size() > BEHIND_BYTES:
            raise Unavailable(SILENT)
        order.number = next(self._numbers)
        future: asyncio.Future[OrderAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[order.number] = future
        try:
            self._writer.write(framed(order))
            async with asyncio.timeout(None if isinstance(order, PATIENT) else self._seconds):
                answer = await future
        except TimeoutError:
            raise Unavailable(SILENT) from None
        finally:
            self._waiting.pop(order.number, None)
        if answer.kind or answer.error:
            raise KINDS.get(answer.kind, Internal)(answer.error)
        return answer.value

    async def close(self) -> None:
        """Let go; the scribe goes on."""
        self._closing = True
        if self._writer is not None:
            self._writer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._daemon is not None:
            self._daemon.release()

    # Beginning

    def _connect(self) -> socket.socket:
        return connected(self._path, socket.SOCK_STREAM, CONNECT_SECONDS)

    async def _begin(self) -> socket.socket:
        try:
            listener = await asyncio.to_thread(self._listen)
            try:
                argv = [sys.executable, "-I", str(SCRIBE), str(self._path)]
                argv += [str(listener.fileno()), json.dumps(sys.path), json.dumps(self._limits)]
                self._daemon = await Daemon.start(
                    self._children, argv, {}, self._log_path, (listener.fileno(),)
                )
            finally:
                listener.close()
            self._later(self._reap(self._daemon))
            return await asyncio.to_thread(self._connect)
        except OSError as error:
            why = error.strerror or str(error)
            raise Internal(f"what listens to interpreters cannot be started: {why}") from None

    def _listen(self) -> socket.socket:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return listening(self._path, socket.SOCK_STREAM)

    async def _reap(self, daemon: Daemon) -> None:
        await daemon.wait()

    async def _greet(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                first = await _read(reader)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, msgspec.DecodeError):
            first = None
        if not isinstance(first, Hello):
            writer.close()
            told = self._daemon.tail() if self._daemon is not None else ""
            raise Internal(f"what listens to interpreters does not answer: {told}")
        self.hello, self._writer = first, writer
        self._later(self._listen_to(reader, writer))

    # Listening

    async def _listen_to(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self._take(await _read(reader))
        except (OSError, asyncio.IncompleteReadError, msgspec.DecodeError):
            pass
        finally:
            writer.close()
            self._writer = None
            waiting, self._waiting = self._waiting, {}
            for future in waiting.values():
                if not future.done():
                    future.set_exception(Unavailable("what listens to interpreters has ended"))
                    future.exception()  # whoever waited may have gone
        if not self._closing:
            self._log.warning("what listens to interpreters has ended: another one is started")
            self._lost()

    def _take(self, message: FromScribe) -> None:
        if isinstance(message, Grown):
            self._news(message)
        elif isinstance(message, OrderAnswer):
            future = self._waiting.get(message.number)
            if future is not None and not future.done():
                future.set_result(message)

    def _later(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _read(reader: asyncio.StreamReader) -> FromScribe:
    size = int.from_bytes(await reader.readexactly(HEAD_BYTES), "big")
    message: FromScribe = msgspec.json.decode(await reader.readexactly(size), type=FromScribe)
    return message
