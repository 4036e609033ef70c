"""The scribe: `main.py SOCKET DESCRIPTOR PATHS LIMITS`, run by path; outlives the server.

It ends when nobody is connected and no context is left, when its socket's name is gone or another
scribe's, or when all it speaks with has been over for an hour and no server came.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # Run by path with -I: what the server can import is given, nothing of the environment counts.
    sys.path[:] = json.loads(sys.argv[3])

import msgspec

from sandkeeper.interpreter.events import EndStatus, Outcome
from sandkeeper.interpreter.orders import (
    HEAD_BYTES,
    Attach,
    Call,
    Detach,
    Died,
    Execute,
    Finish,
    FromScribe,
    Hello,
    Interrupt,
    Order,
    OrderAnswer,
    framed,
)
from sandkeeper.interpreter.scribe.engine import EngineFailed, Lost, Unsupported, make_engine
from sandkeeper.interpreter.scribe.finishing import finish
from sandkeeper.interpreter.scribe.recorder import ExecutionRecorder
from sandkeeper.interpreter.scribe.rooms import ContextRoom
from sandkeeper.journal.budget import Budget
from sandkeeper.linux.procstat import start_time
from sandkeeper.observability.heap import resident

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_SECONDS = 10.0
FORGET_SECONDS = 3600.0
NEWS_SECONDS = 0.005
"""Growth is told so often; an end at once."""
FRAME_BYTES = 128 << 20
BEHIND_BYTES = 16 << 20
"""So much may wait for a server that does not read: one that somebody has stopped."""
MEMORY_SECONDS, RELIEF_SECONDS = 1.0, 0.1
MOST_BYTES = 3 << 29
"""Three messages of the largest size: more is what never becomes whole."""
CULPRITS: "dict[type[Exception], str]" = {
    EngineFailed: "failed",
    ImportError: "missing",
    Lost: "lost",
    Unsupported: "unsupported",
    KeyError: "unknown",
    OSError: "storage",
}


class Scribe:
    """All contexts, and the one server that is connected at a time."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._rooms: dict[str, ContextRoom] = {}
        self._peer: asyncio.StreamWriter | None = None
        self._dirty: dict[str, ExecutionRecorder] = {}
        self._flushing: asyncio.TimerHandle | None = None
        self._flushed = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self.left = asyncio.Event()
        self.watching: asyncio.Task[None] | None = None

    @property
    def is_needed(self) -> bool:
        """Whether somebody is connected, or there is something to listen to."""
        return self._peer is not None or bool(self._rooms)

    @property
    def lives(self) -> bool:
        """Whether somebody is connected, or a process of a context runs."""
        return self._peer is not None or any(start_time(one.pid) for one in self._rooms.values())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the orders of a server; the one before it is sent away."""
        if self._peer is not None:
            self._peer.close()
        self._peer = writer
        self._greet()
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(HEAD_BYTES), "big")
                if size > FRAME_BYTES:
                    return
                self._obey(msgspec.json.decode(await reader.readexactly(size), type=Order))
        except (OSError, asyncio.IncompleteReadError, msgspec.DecodeError):
            return
        finally:
            writer.close()
            if self._peer is writer:
                self._peer = None
                self.left.set()

    def _greet(self) -> None:
        mine = os.getpid()
        attached = {name: room.generation for name, room in self._rooms.items()}
        self._say(Hello(pid=mine, born=start_time(mine), contexts=attached))
        for room in self._rooms.values():
            for recorder in room.recorders:
                self._say(recorder.news(whole=True))

    def _say(self, message: FromScribe) -> None:
        if self._peer is None or self._peer.is_closing():
            return
        if self._peer.transport.get_write_buffer_size() > BEHIND_BYTES:
            self._peer.transport.abort()  # when it goes on, it comes again and is told all
            return
        self._peer.write(framed(message))

    async def stay_small(self) -> None:
        """Keep kernels that send what never ends from filling the memory."""
        while True:
            await asyncio.sleep(MEMORY_SECONDS)
            if resident() > MOST_BYTES:
                engines = [room.engine for room in self._rooms.values()]
                for engine in engines:
                    engine.relieve(looks=True)
                await asyncio.sleep(RELIEF_SECONDS)
                for engine in engines:
                    engine.relieve(looks=False)

    # News

    def news(self, recorder: ExecutionRecorder) -> None:
        """Have the server told that there is more; at once when it is the end."""
        if recorder.is_over:
            self._dirty.pop(recorder.meta.id, None)
            self._say(recorder.news())
            return
        self._dirty[recorder.meta.id] = recorder
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_at(self._flushed + NEWS_SECONDS, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        self._flushed = asyncio.get_running_loop().time()
        dirty, self._dirty = self._dirty, {}
        for recorder in dirty.values():
            self._say(recorder.news())

    # Orders

    def _obey(self, order: Order) -> None:
        if isinstance(order, Execute):  # at once: they run in the order in which they came
            self._answer(order.number, lambda: self._execute(order))
            return
        task = asyncio.ensure_future(self._obey_later(order))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _answer(self, number: int, act: "Callable[[], Any]") -> None:
        try:
            self._say(OrderAnswer(number=number, value=act()))
        except Exception as error:  # noqa: BLE001 - every order is answered
            self._say(_failure(number, error))

    async def _obey_later(self, order: Order) -> None:
        try:
            self._say(OrderAnswer(number=order.number, value=await self._do(order)))
        except Exception as error:  # noqa: BLE001 - every order is answered
            self._say(_failure(order.number, error))

    def _execute(self, order: Execute) -> None:
        self._rooms[order.context].take(order)

    async def _do(self, order: Order) -> Any:
        match order:
            case Attach():
                return await self._attach(order)
            case Interrupt():
                return await self._rooms[order.context].interrupt(order.status, order.only)
            case Call():
                return await self._rooms[order.context].call(order.name, order.arguments)
            case Died():
                return await self._died(order)
            case Detach():
                return self._detach(order.context)
            case Finish():
                return finish(order, self._budget, self.news)
        return None

    async def _attach(self, order: Attach) -> dict[str, Any]:
        room = self._rooms.get(order.context)
        if room is None or room.generation != order.generation:
            engine = make_engine(order.kind, {**order.engine, "pid": order.pid})
            room = ContextRoom(order, engine, self._budget, self.news)
            if order.running:
                room.resume(order.running)
            self._rooms[order.context] = room
        try:
            return await room.start()
        except Exception:
            if self._rooms.get(order.context) is room:
                del self._rooms[order.context]
                room.close()
            raise

    async def _died(self, order: Died) -> None:
        room = self._rooms.get(order.context)
        if room is not None and room.generation == order.generation:
            await room.died(order.outcome)
            if self._rooms.get(order.context) is room:
                del self._rooms[order.context]

    def _detach(self, context: str) -> None:
        room = self._rooms.pop(context, None)
        if room is not None:
            for recorder in room.recorders:
                recorder.end(Outcome(EndStatus.DELETED))
            room.close()


def _failure(number: int, error: Exception) -> OrderAnswer:
    kind = next((name for type_, name in CULPRITS.items() if isinstance(error, type_)), "other")
    if kind == "unknown":
        return OrderAnswer(number=number, kind=kind, error="the scribe does not know this context")
    return OrderAnswer(number=number, kind=kind, error=str(error) or repr(error))


def _place(path: str) -> tuple[int, int]:
    try:
        info = os.stat(path)
    except OSError:
        return 0, 0
    return info.st_dev, info.st_ino


async def run(path: str, listener: socket.socket, limits: dict[str, int]) -> None:
    """Serve until there is no reason to."""
    scribe = Scribe(Budget(**limits))
    ours = _place(path)
    loop = asyncio.get_running_loop()
    alive_at = loop.time()
    scribe.watching = loop.create_task(scribe.stay_small())
    async with await asyncio.start_unix_server(scribe.serve, sock=listener):
        while _place(path) == ours != (0, 0):
            scribe.left.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await scribe.left.wait()
            if scribe.lives:
                alive_at = loop.time()
            if not scribe.is_needed or loop.time() - alive_at > FORGET_SECONDS:
                if _place(path) == ours:
                    os.unlink(path)
                return


if __name__ == "__main__":
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    asyncio.run(run(sys.argv[1], socket.socket(fileno=int(sys.argv[2])), json.loads(sys.argv[4])))
