"""A Jupyter kernel as an engine: what it is asked over its sockets, and what it answers.

An execution is over when the kernel has said both: `idle`, behind which nothing of it comes on
iopub, and the reply. Messages that belong to no execution of ours (a thread of an earlier cell) go
to the one that runs, or wait for the next.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

import zmq

from sandkeeper.interpreter.events import EndStatus, Outcome
from sandkeeper.interpreter.orders import Execute
from sandkeeper.interpreter.scribe import prelude
from sandkeeper.interpreter.scribe.answers import completion
from sandkeeper.interpreter.scribe.channels import KernelChannel, opened_socket
from sandkeeper.interpreter.scribe.ending import Ending
from sandkeeper.interpreter.scribe.engine import EngineFailed, Given, Lost, Tell, Unsupported
from sandkeeper.interpreter.scribe.messages import Message, Packer, clean_text, execute_request
from sandkeeper.interpreter.scribe.telling import PASSED_OVER, Hearer, Late, Teller, Witness
from sandkeeper.linux.procstat import read_stat

__all__ = ["KernelEngine"]

PYTHON = prelude.PYTHON
CHANNELS = ("shell", "iopub", "stdin", "control")
LOOK_SECONDS = 0.005
HELLO_SECONDS = 0.05
QUIET_SECONDS = 0.05
DYING_SECONDS = 0.5
"""A process closes its sockets before it has ended."""
DEAF_SECONDS = 30.0
"""So long what was replied to may take on iopub."""
PASSED_OVER_SECONDS, PASSED_OVER_MOST = 0.25, 8
"""Some kernels (tslab's) pass over what comes within a moment after an error."""
UNORDERED = frozenset({"Deno kernel"})
"""They may publish what an execution said behind its `idle`, but before the next one's."""
PAST = 1000
"""So many executions may still have threads that say something."""


T = TypeVar("T")


class KernelEngine:
    """Speaks with the kernel whose sockets are `<given.prefix>-1` to `-4`, by CHANNELS.

    Some kernels name them `<given.prefix>:1`, some know TCP only: then `given` has an `address`,
    and a `port` for the first one. It has `prefix`, `key`, `uid` (whose sockets they must be),
    `language`, `messages` (it is interrupted by a message), `again` (it was spoken with before)
    and `pid`.
    """

    def __init__(self, given: Given) -> None:
        self._given = given
        self._wire = Packer(str(given["key"]))
        self._channels: dict[str, KernelChannel] = {}
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._replies: dict[str, asyncio.Future[Message]] = {}
        self._listeners: dict[str, Hearer] = {}
        self._running: Teller | None = None
        self._late = Late()
        self._past: dict[str, None] = {}
        self._heard = asyncio.Event()
        self._language = str(given.get("language") or "")
        self._is_unordered = False
        self._is_pausing = self._is_stopped = False

    # Beginning

    async def start(self) -> dict[str, Any]:
        """Wait for its sockets, then until both ways are open; raises EngineFailed, Lost."""
        prefix = str(self._given["prefix"])
        for number, name in enumerate(CHANNELS, 1):
            opened = await self._appeared(prefix, number)
            kind = zmq.SUB if name == "iopub" else zmq.DEALER
            take = getattr(self, f"_from_{name}")
            identity = f"sandkeeper-{os.path.basename(prefix)}".encode()
            lost = self._unheard if name == "iopub" else None
            self._channels[name] = KernelChannel(kind, opened, identity, take, lost=lost)
        facts = await self._greeted()
        info = facts.get("language_info")
        info = info if isinstance(info, dict) else {}
        self._language = str(info.get("name") or self._language).lower()
        self._is_unordered = str(facts.get("implementation", "")) in UNORDERED
        if self._language in PYTHON and not self._given.get("again"):
            await self._silent(prelude.loader())
        return {
            "language": self._language,
            "version": str(info.get("version", "")),
            "implementation": str(facts.get("implementation", "")),
            "banner": str(facts.get("banner", "")),
        }

    async def _appeared(self, prefix: str, number: int) -> int | str:
        if address := self._given.get("address"):
            return f"{address}:{int(self._given['port'] or 0) + number - 1}"
        uid = int(self._given["uid"] or 0)
        while not self._gone.done():
            for path in (f"{prefix}-{number}", f"{prefix}:{number}"):
                try:
                    return opened_socket(path, uid)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise EngineFailed(f"its socket cannot be opened: {error.strerror}") from None
            await asyncio.sleep(LOOK_SECONDS)
        raise Lost

    async def _greeted(self) -> dict[str, Any]:
        """Ask who it is until it is heard on iopub too: a subscription takes its time."""
        channel = "control" if self._given.get("again") else "shell"
        while True:
            facts = await self._asked("kernel_info_request", {}, channel)
            with suppress(TimeoutError):
                async with asyncio.timeout(HELLO_SECONDS):
                    await self._heard.wait()
                return facts

    # Running

    async def execute(self, order: Execute, tell: Tell) -> Outcome:
        """Run code; see `Engine`."""
        self._is_stopped = False
        entered = bool(order.env or order.cwd)
        if entered and (wrong := await self._enter(order)) is not None:
            tell.event("error", **wrong)
            return Outcome("error")
        try:
            return await self._execute(order, tell)
        finally:
            if entered and not self._gone.done():
                await self._surely(prelude.leaving(self._language))

    async def _execute(self, order: Execute, tell: Tell) -> Outcome:
        stores = order.store_history and not order.silent
        content = execute_request(order.code, silent=order.silent, store_history=stores)

        async def sent() -> Outcome:
            if self._is_stopped:
                return Outcome(EndStatus.INTERRUPTED, "before the interpreter took it")
            return await self._sent(order.id, tell, content)

        return await self._insisted(sent, lambda made: made.status == EndStatus.CANCELLED)

    async def _insisted(self, ask: Callable[[], Awaitable[T]], is_passed: Callable[[T], bool]) -> T:
        """Ask again, for a bounded time, where a kernel has passed it over."""
        answer = await ask()
        for _ in range(PASSED_OVER_MOST):
            if not is_passed(answer):
                break
            self._is_pausing = True
            try:
                await asyncio.sleep(PASSED_OVER_SECONDS)
            finally:
                self._is_pausing = False
            answer = await ask()
        return answer

    async def _sent(self, number: str, tell: Tell, content: dict[str, Any]) -> Outcome:
        teller = self._running = Teller(tell)
        self._late.tell(teller)
        _, frames = self._wire.pack("execute_request", content, number)
        if self._gone.done():
            raise Lost
        self._channels["shell"].send(frames)
        return await self._followed(number, teller, self._awaited(number, teller))

    def resume(self, identifier: str, tell: Tell) -> Coroutine[Any, Any, Outcome]:
        """Hear of an execution that another scribe has begun; see `Engine`."""
        teller = self._running = Teller(tell)
        reply = self._awaited(identifier, teller)  # before the sockets are open
        return self._resumed(identifier, teller, reply)

    async def _resumed(
        self, number: str, teller: Teller, reply: "asyncio.Future[Message]"
    ) -> Outcome:
        try:
            return await self._followed(number, teller, reply, lost=True)
        finally:
            if prelude.entering(self._language, {}, "") is not None and not self._gone.done():
                await self._surely(prelude.leaving(self._language))

    def _awaited(self, number: str, teller: Teller) -> "asyncio.Future[Message]":
        self._listeners[number] = teller
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        return reply

    async def _followed(
        self,
        number: str,
        teller: Teller,
        reply: "asyncio.Future[Message]",
        *,
        lost: bool = False,
    ) -> Outcome:
        """Hear of an execution until it is over; some of it may be `lost` already."""
        ending = Ending(reply, teller, self._gone, wake=self._wake, behind=self._behind)
        try:
            heard = await ending.heard(lost=lost)
            if self._is_unordered:
                await self._behind(teller)
            if heard:
                return teller.outcome(reply.result().content())
            return await self._remembered(number, teller)
        finally:
            self._running = None
            del self._replies[number], self._listeners[number]
            self._past[number] = None
            if len(self._past) > PAST:
                del self._past[next(iter(self._past))]

    async def _remembered(self, number: str, teller: Teller) -> Outcome:
        """Return how an execution ended whose reply was lost, where the kernel knows it still."""
        if self._language in PYTHON:
            answer = prelude.answer_of(await self._silent("", prelude.ended(number)))
            if isinstance(answer, dict) and answer:
                return teller.outcome(answer)
        return Outcome(EndStatus.UNKNOWN, "how it ended was said while nobody heard it")

    def _wake(self) -> None:
        """Ask what nobody waits for."""
        _, frames = self._wire.pack("kernel_info_request", {})
        self._channels["control"].send(frames)

    async def _behind(self, teller: Teller | None = None) -> None:
        """Have nothing run behind all that was sent, until its end is heard on iopub."""
        witness, number = Witness(teller), uuid4().hex
        self._listeners[number] = witness
        try:
            await self._silent("", identity=number)
            with suppress(TimeoutError):
                async with asyncio.timeout(DEAF_SECONDS):
                    await self._or_lost(witness.idle)
        finally:
            del self._listeners[number]

    async def _enter(self, order: Execute) -> dict[str, Any] | None:
        """Have variables and folder hold for what follows; returns the error that it raises."""
        code = prelude.entering(self._language, order.env, order.cwd)
        if code is None:
            why = f"env and cwd of one execution are not known for {self._language}"
            return {"name": "Unsupported", "value": why, "traceback": []}
        answer = await self._surely(code)
        if answer.get("status") not in {"error", *PASSED_OVER}:
            return None
        return {
            "name": str(answer.get("ename") or "Unsupported"),
            "value": clean_text(str(answer.get("evalue") or "env and cwd were not taken")),
            "traceback": [],
        }

    async def _surely(self, code: str) -> dict[str, Any]:
        """Run code as `_silent` does, and again where it was passed over."""
        return await self._insisted(
            lambda: self._silent(code), lambda answer: answer.get("status") in PASSED_OVER
        )

    async def _silent(self, code: str, expression: str = "", identity: str = "") -> dict[str, Any]:
        """Run code that nobody sees; returns the reply's content."""
        wanted = {"answer": expression} if expression else {}
        content = {**execute_request(code, silent=True), "user_expressions": wanted}
        return await self._asked("execute_request", content, identity=identity)

    async def interrupt(self) -> bool:
        """Interrupt by a message where the kernel wants that; see `Engine`."""
        self._is_stopped = True
        if self._is_pausing and self._running is None:
            return True  # a signal would meet a kernel that runs nothing
        if not self._given.get("messages"):
            return False
        await self._asked("interrupt_request", {}, "control")
        return True

    # Asking

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Answer; see `Engine`."""
        if name == "complete":
            wanted = {"code": arguments["code"], "cursor_pos": arguments["cursor"]}
            return completion(await self._asked("complete_request", wanted))
        if name == "inspect":
            wanted = {
                "code": arguments["code"],
                "cursor_pos": arguments["cursor"],
                "detail_level": arguments.get("detail", 0),
            }
            found = await self._asked("inspect_request", wanted)
            return {"found": bool(found.get("found")), "data": found.get("data") or {}}
        if name == "adapt":
            return await self._adapt(arguments)
        if self._language not in PYTHON:
            raise Unsupported(f"variables are not known for {self._language}")
        answer = await self._silent("", prelude.VARIABLES)
        return prelude.answer_of(answer)

    async def _adapt(self, arguments: dict[str, Any]) -> None:
        code = prelude.entering(self._language, arguments["env"], arguments["cwd"], for_good=True)
        answer = {} if code is None else await self._surely(code)
        if code is None or answer.get("status") in {"error", *PASSED_OVER}:
            raise Unsupported(str(answer.get("evalue", "it cannot be changed")))

    async def _asked(
        self, kind: str, content: dict[str, Any], channel: str = "shell", identity: str = ""
    ) -> dict[str, Any]:
        """Send a message and return the content of what answers it; raises Lost."""
        if self._gone.done():
            raise Lost
        number, frames = self._wire.pack(kind, content, identity)
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        try:
            self._channels[channel].send(frames)
            await self._or_lost(reply)
            return reply.result().content()
        finally:
            del self._replies[number]

    async def _or_lost(self, wanted: "asyncio.Future[Any]") -> Any:
        await asyncio.wait([wanted, self._gone], return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return wanted.result()
        raise Lost

    # What it says

    def _from_shell(self, frames: list[bytes]) -> None:
        message = self._wire.read(frames)
        future = self._replies.get(message.parent)
        if future is not None and not future.done():
            future.set_result(message)

    _from_control = _from_shell

    def _from_stdin(self, frames: list[bytes]) -> None:
        """Refuse input: a kernel that asks although it was told not to would wait for ever."""
        message = self._wire.read(frames)
        if message.kind == "input_request":
            if self._running is not None:
                self._running.refuse(message.content())
            _, answer = self._wire.pack("input_reply", {"value": "", "status": "ok"})
            self._channels["stdin"].send(answer)

    def _from_iopub(self, frames: list[bytes]) -> None:
        self._heard.set()
        message = self._wire.read(frames)
        listener = self._listeners.get(message.parent)
        if listener is not None:
            listener.hear(message)
        elif message.parent in self._past and message.kind in {"stream", "display_data", "error"}:
            if self._running is not None:
                self._running.hear(message)
            else:
                self._late.keep(message)

    def _unheard(self) -> None:
        """Take notice of a connection that broke: with its process, or by what it has sent."""
        if self._running is not None:
            asyncio.get_running_loop().call_later(DYING_SECONDS, self._go_on, self._running)

    def _go_on(self, running: Teller) -> None:
        """Go on without what was lost: the reply alone tells then that an execution is over."""
        found = read_stat(int(self._given.get("pid") or 0))
        lives = found is not None and found[1][0] not in {b"Z", b"X"}
        if lives and not self._gone.done() and self._running is running:
            running.unheard()

    # The end

    async def died(self) -> None:
        """Take in what it still said; see `Engine`."""
        iopub = self._channels.get("iopub")
        seen = -1
        while iopub is not None and seen != iopub.seen:
            seen = iopub.seen
            await asyncio.sleep(QUIET_SECONDS)
        if not self._gone.done():
            self._gone.set_result(None)

    def relieve(self, *, looks: bool) -> None:
        """Let go of messages that do not become whole; see `Engine`."""
        for channel in self._channels.values():
            channel.look() if looks else channel.relieve()

    def close(self) -> None:
        """Close the sockets."""
        if not self._gone.done():
            self._gone.set_result(None)
        for channel in self._channels.values():
            channel.close()
