"""Export by OTLP as the server sees it: a thread that hands loads to a process that exports them.

OpenTelemetry's library, its encoding and its waits are in that process (`.exporter_main`), for an
interpreter that encodes protobuf keeps all others in it waiting. The thread here gives it a load of
each signal and gets back what became of it. Until then the load stays here, and the positions of
output where they were: whatever becomes of the process, of the collector or of this server, what
was not acknowledged is sent again.
"""

import asyncio
import select
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, thread_time
from typing import Any

import msgspec

from sandkeeper.linux.children.child import Child
from sandkeeper.linux.children.children import Children
from sandkeeper.linux.children.spawn import Spawn
from sandkeeper.linux.worker import Bell
from sandkeeper.log.formats import Shipped
from sandkeeper.log.lines import Log
from sandkeeper.observability.otlp import exporter_main
from sandkeeper.observability.otlp.exporter_main import HEAD, NO_LIBRARY, SIGNALS
from sandkeeper.observability.otlp.lane import Lane
from sandkeeper.settings import Environment

__all__ = ["SERVICE", "Shipping"]

SERVICE = "sandkeeper"
"""The name of the server inside a sandbox, to collectors."""

REST_SECONDS = 0.005
AGAIN_SECONDS = (1.0, 30.0)
"""How soon another process is started after one has ended: at first, and at most."""
SILENT_SECONDS = 60.0
"""One that says nothing for so long, though it says that it lives every five, is replaced."""
TELL_SECONDS = 60.0
ANSWER_BYTES = 64 << 10
WHAT = {"logs": "log lines", "traces": "spans", "metrics": "readings of metrics"}


class Receipt(msgspec.Struct):
    """A line of the process: which lane, what became of its load; without a lane it lives."""

    lane: int = -1
    done: bool = False
    taken: int = 0
    lost: int = 0
    why: str = ""


class Shipping:
    """Made and started on the event loop; `add` and `replace` of the lanes are for any thread.

    `asked` returns a number that grows with each request: while there are some, the thread rests
    twice as long as it works.
    """

    def __init__(
        self,
        signals: frozenset[str],
        children: Children,
        environment: Environment,
        log: Log,
        service: str = SERVICE,
    ) -> None:
        self.lanes = {name: Lane(SIGNALS.index(name), name) for name in SIGNALS if name in signals}
        self.asked: Callable[[], int] = int
        self._by_number = {lane.number: lane for lane in self.lanes.values()}
        self._children = children
        self._environment = environment
        self._log = log
        self._form = Shipped()
        self._who = [service, str(uuid.uuid4())]
        self._bell = Bell()
        self._lock = threading.Lock()
        self._next_socket: socket.socket | None = None
        self._socket: socket.socket | None = None
        self._sending = bytearray()
        self._received = bytearray()
        self._heard = 0.0
        self._told: dict[str, float] = {}
        self._again = AGAIN_SECONDS[0]
        self._deadline: float | None = None
        self._paused = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._child: Child | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._loops_thread = 0
        self._rung = False

    # The event loop's

    def start(self) -> None:
        """Start the process and the thread."""
        self._loop, self._loops_thread = asyncio.get_running_loop(), threading.get_ident()
        if "logs" in self.lanes:
            self._log.copy = self.line
        self._begin()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    async def close(self, seconds: float) -> None:
        """Ship what there is for at most so long, then end."""
        self._loop = None
        if self._retry is not None:
            self._retry.cancel()
        self._deadline = monotonic() + seconds
        self._paused.set()
        self._bell.ring()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, seconds + 1.0)
            if not self._thread.is_alive():
                self._bell.close()
        self._log.copy = None

    def wake(self) -> None:
        """Have the thread look for work; news of a request is gathered for a moment."""
        loop = self._loop
        if loop is None or threading.get_ident() != self._loops_thread:
            self._bell.ring()
        elif not self._rung:
            self._rung = True
            loop.call_later(REST_SECONDS, self._ring)

    def _ring(self) -> None:
        self._rung = False
        self._bell.ring()

    def _begin(self) -> None:
        loop, self._retry = self._loop, None
        if loop is None:
            return
        ours, its = socket.socketpair()
        with its:
            argv = [sys.executable, "-I", exporter_main.__file__, str(its.fileno()), *self._who]
            env = self._environment.for_children()
            spawn = Spawn(
                [*argv, *self.lanes], env, new_session=True, pass_fds=(its.fileno(),),
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                self._child = child = self._children.spawn(spawn)
            except (OSError, ValueError) as error:
                ours.close()
                self._log.warning(f"the exporter of OTLP cannot be started: {error}")
                self._begin_later()
                return
        loop.add_reader(child.pidfd.number, self._ended, child)
        ours.setblocking(False)
        with self._lock:
            self._next_socket = ours
        self._bell.ring()

    def _ended(self, child: Child) -> None:
        asyncio.get_running_loop().remove_reader(child.pidfd.number)
        status = child.reap()
        if self._loop is None:
            return
        if status.code == NO_LIBRARY:
            self._log.warning(
                "nothing is exported by OTLP, for its library is not installed: "
                "pip install 'sandkeeper[otlp]'"
            )
            return
        self._log.warning("the exporter of OTLP has ended; another one is started")
        self._begin_later()

    def _begin_later(self) -> None:
        if self._loop is not None:
            self._retry = self._loop.call_later(self._again, self._begin)
            self._again = min(2 * self._again, AGAIN_SECONDS[1])

    # Any thread's

    def line(self, level: str, message: str, fields: dict[str, Any]) -> None:
        """Have a line of the server's log exported."""
        if self.lanes["logs"].add(self._form.line(level, message, fields)):
            self.wake()

    def statistics(self) -> dict[str, dict[str, int]]:
        """Return what `Lane.statistics` does, by signal."""
        return {name: lane.statistics() for name, lane in self.lanes.items()}

    # The thread's

    def _run(self) -> None:
        while True:
            self._take_socket()
            worked = self._load()
            self._flush()
            if self._deadline is not None and self._is_over():
                break
            waiting = select.poll()
            waiting.register(self._bell.fd, select.POLLIN)
            if self._socket is not None:
                out = select.POLLOUT if self._sending else 0
                waiting.register(self._socket, select.POLLIN | out)
            waiting.poll(0 if worked else self._patience())
            self._bell.hush()
            self._receive()
        if self._socket is not None:
            self._socket.close()

    def _patience(self) -> int | None:
        """Return how many milliseconds to wait for news at most."""
        if self._deadline is not None:
            return max(1, int(1000 * (self._deadline - monotonic())))
        return 10_000 if self._socket is not None else None

    def _is_over(self) -> bool:
        """Say whether the end has come: all was taken, nobody is there for it, or it is late."""
        if self._socket is None or all(lane.is_idle for lane in self.lanes.values()):
            return True
        return self._deadline is not None and monotonic() >= self._deadline

    def _take_socket(self) -> None:
        """Go on with a new process: it gets what the one before had not acknowledged."""
        with self._lock:
            found, self._next_socket = self._next_socket, None
        if found is None:
            if self._socket is not None and monotonic() - self._heard > SILENT_SECONDS:
                self._give_up()
            return
        if self._socket is not None:
            self._socket.close()
        self._socket, self._heard = found, monotonic()
        self._sending.clear()
        self._received.clear()
        for lane in self.lanes.values():
            if lane.out:
                self._send(lane)

    def _load(self) -> bool:
        """Give each lane that has nothing out its next load; rest from it beside requests."""
        if self._socket is None:
            return False
        worked = False
        for lane in self.lanes.values():
            if lane.out:
                continue
            began, asked = thread_time(), self.asked()
            if lane.load():
                self._send(lane)
                worked = True
            if self.asked() != asked:
                self._paused.wait(min(2 * (thread_time() - began), REST_SECONDS))
        return worked

    def _send(self, lane: Lane) -> None:
        self._sending += HEAD.pack(lane.number, len(lane.out)) + lane.out

    def _flush(self) -> None:
        try:
            while self._socket is not None and self._sending:
                sent = self._socket.send(self._sending)
                del self._sending[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._give_up()

    def _receive(self) -> None:
        try:
            while self._socket is not None:
                got = self._socket.recv(ANSWER_BYTES)
                if not got:
                    self._give_up()
                    return
                self._heard = monotonic()
                self._received += got
                *lines, rest = self._received.split(b"\n")
                self._received = bytearray(rest)
                for line in lines:
                    self._answered(msgspec.json.decode(line, type=Receipt))
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """Have no more to do with a process; the loop notices its end and starts another."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.signal_group(9)

    def _answered(self, answer: Receipt) -> None:
        lane = self._by_number.get(answer.lane)
        if lane is None:
            return
        if answer.done:
            self._again = AGAIN_SECONDS[0]
            lane.done(answer.taken, answer.lost)
        was, lane.failing = lane.failing, answer.why
        if answer.why and self._may_tell(lane.name):
            end = f"{answer.lost} were dropped" if answer.lost else "it is tried again"
            self._log.warning(f"the collector does not take {lane.name}: {answer.why}; {end}")
        elif was and not answer.why and self._told.pop(lane.name, None) is not None:
            self._log.info(f"the collector takes {lane.name} again")
        if answer.done and lane.has_untold and self._may_tell(f"{lane.name} dropped"):
            what = WHAT[lane.name]
            self._log.warning(f"{lane.untold()} {what} had no room on their way to the collector")

    def _may_tell(self, what: str) -> bool:
        """Say whether this was not told for a while."""
        now = monotonic()
        if now - self._told.get(what, -TELL_SECONDS) < TELL_SECONDS:
            return False
        self._told[what] = now
        return True
