"""Port monitors: tell a callback which ports a process tree has begun to listen on.

One loop looks at all monitored trees in one pass. Every registration has its own memory, empty at
first, so ports that are already open are told at the first look whoever asked about them before;
a port that closes and opens again is told again. A registration ends with its process tree.

Notices wait in a bounded queue for a few senders; a callback that hangs costs one sender five
seconds, and what the queue cannot hold is dropped and logged.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sandkeeper.errors import BadInput, Task, Unprocessable
from sandkeeper.linux.identity import Identity, acting_for
from sandkeeper.linux.procs import read_process
from sandkeeper.log.lines import Log
from sandkeeper.network.sockets import TreePorts, listening_trees

if TYPE_CHECKING:
    import httpx

__all__ = ["PortMonitors"]

LOOK_SECONDS = 0.25
CALLBACK_SECONDS = 5.0
MAX_REGISTRATIONS = 256
MAX_NOTICES = 1024
SENDERS = 4


@dataclass(slots=True)
class _Registration:
    pid: int
    url: str
    started: int | None  # the leader's start time: a reused pid is another process
    seen: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Notice:
    pid: int
    port: int
    url: str


def _checked(url: str) -> str:
    """Return a callback's address; raises BadInput unless it is http(s) with a host."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        valid = False
    if not valid:
        raise BadInput("callback must be an http or https URL", task=Task.ACCEPT_REQUEST)
    return url


class PortMonitors:
    """The registrations and what serves them; looks at nothing while there are none."""

    def __init__(self, log: Log, identity: Identity | None = None) -> None:
        self._log = log
        self._identity = identity
        self._registered: dict[tuple[int, str], _Registration] = {}
        self._notices: asyncio.Queue[_Notice] = asyncio.Queue(MAX_NOTICES)
        self._looking: asyncio.Task[None] | None = None
        self._senders: list[asyncio.Task[None]] = []
        self._client: httpx.AsyncClient | None = None
        self.dropped = 0

    def statistics(self) -> dict[str, int]:
        """Return registrations, waiting notices and dropped ones."""
        return {
            "registrations": len(self._registered),
            "queued": self._notices.qsize(),
            "dropped": self.dropped,
        }

    async def add(self, pid: int, callback: str) -> None:
        """Monitor a tree; the same callback again replaces the earlier registration.

        Without a callback there is nobody to tell, and nothing is kept. Raises BadInput on a
        callback that is not http(s), Unprocessable beyond 256 registrations.
        """
        if not callback:
            return
        key = (pid, _checked(callback))
        if key not in self._registered and len(self._registered) >= MAX_REGISTRATIONS:
            raise Unprocessable(f"more than {MAX_REGISTRATIONS} port monitors")
        leader = await asyncio.to_thread(read_process, pid)
        self._registered[key] = _Registration(pid, callback, leader.started if leader else None)
        self._run()

    def remove(self, pid: int) -> None:
        """Drop all registrations of a process; there may be none."""
        for key in [key for key in self._registered if key[0] == pid]:
            del self._registered[key]

    async def close(self) -> None:
        """Stop looking and sending."""
        self._registered.clear()
        tasks = [*self._senders, *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _run(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        if not self._senders:
            self._senders = [asyncio.create_task(self._send()) for _ in range(SENDERS)]

    async def _look(self) -> None:
        while self._registered:
            with suppress(OSError):  # no descriptors left: look again
                await self._look_once()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_once(self) -> None:
        registered = dict(self._registered)
        pids = {pid for pid, _ in registered}
        ports = await asyncio.to_thread(self._ports, pids)
        leaders = await asyncio.to_thread(lambda: {pid: _started(pid) for pid in pids})
        for key, registration in registered.items():
            if self._registered.get(key) is not registration:
                continue  # removed or replaced meanwhile
            self._compare(key, registration, ports, leaders[registration.pid])

    def _ports(self, pids: set[int]) -> dict[int, TreePorts | None]:
        """Look as the workload's user does: any pid can be asked about."""
        with acting_for(self._identity):
            return listening_trees(pids)

    def _compare(
        self,
        key: tuple[int, str],
        registration: _Registration,
        ports: Mapping[int, TreePorts | None],
        leader: int | None,
    ) -> None:
        found = ports[registration.pid]
        reused = leader is not None and leader != registration.started
        if found is None or reused:
            del self._registered[key]
            return
        open_now = found.listening
        for port in sorted(open_now - registration.seen):
            self._queue(_Notice(registration.pid, port, registration.url))
        registration.seen = open_now

    def _queue(self, notice: _Notice) -> None:
        try:
            self._notices.put_nowait(notice)
        except asyncio.QueueFull:
            self.dropped += 1
            self._log.warning(f"port callback dropped: {MAX_NOTICES} are waiting", port=notice.port)

    async def _send(self) -> None:
        while True:
            notice = await self._notices.get()
            try:
                async with asyncio.timeout(CALLBACK_SECONDS):
                    await self._post(notice)
            except Exception as error:  # noqa: BLE001 - any failure of theirs is one log line
                self._log.warning(
                    f"port callback failed: {type(error).__name__} {error}", port=notice.port
                )

    async def _post(self, notice: _Notice) -> None:
        client = self._client
        if client is None:
            import httpx  # few servers ever send a callback

            client = httpx.AsyncClient(timeout=CALLBACK_SECONDS, follow_redirects=False)
            self._client = client
        body = {"pid": notice.pid, "port": notice.port}
        async with client.stream("POST", notice.url, json=body):
            pass  # the reply's body is nobody's business and may never end


def _started(pid: int) -> int | None:
    process = read_process(pid)
    return process.started if process else None
