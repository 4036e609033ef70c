"""`forward`: ports of this machine that lead to ports of the sandbox, through the server.

Each connection that somebody makes here becomes one of the server's (docs/network.md, "Bare
connections"): an upgrade to `tcp`, which the kernel carries on both sides, or where TLS or a
gateway is between, a WebSocket. When the server goes away those end; new ones wait for it.
"""

import asyncio
import errno
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from sandkeeper.client.completing import ports
from sandkeeper.client.connection import CONNECT_SECONDS, Server
from sandkeeper.client.context import verb
from sandkeeper.client.failures import Absence, ClientError, NoServer, Refused, is_absence
from sandkeeper.client.output import complain, say
from sandkeeper.linux.machine import raise_file_limit
from sandkeeper.network.relay import Relay, reset_when_closed

__all__: list[str] = []

BACKLOG = 1024
THREADS = 32
"""So many connections are begun at once; those that are open cost none."""
AWAY_SECONDS = 10.0
PAUSE_SECONDS = 0.2
READ_BYTES = 256 << 10
SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
UNKNOWN_ROUTE, NOT_UPGRADED = 404, 426
_SPEC = re.compile(r"(?:(?:\[([^\]]+)\]|([^:\[\]]+)):)??(\d{0,5}):(\d{1,5})|(\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Spec:
    """What a person wants: `remote` of the sandbox at `local` of `address`; 0 is any port."""

    address: str
    local: int
    remote: int

    @classmethod
    def read(cls, text: str) -> "Spec":
        """Read `[ADDR:]LOCAL:REMOTE`, `:REMOTE` or `PORT`; raises ClientError."""
        found = _SPEC.fullmatch(text)
        if not found:
            raise ClientError(f"{text!r} is no [ADDR:]LOCAL:REMOTE")
        bracketed, plain, local, remote, same = found.groups()
        spec = cls(bracketed or plain or "localhost", int(local or same or 0), int(remote or same))
        if not (0 <= spec.local < 65536 and 0 < spec.remote < 65536):
            raise ClientError(f"{text!r}: ports are numbers from 1 to 65535")
        return spec


@verb("forward", group="Server")
def forward(
    server: Server,
    specs: Annotated[
        list[str],
        typer.Argument(
            metavar="[ADDR:]LOCAL:REMOTE...", help="Or a port for both.", autocompletion=ports
        ),
    ],
) -> int:
    """Have ports of this machine lead to ports of the sandbox, until Ctrl-C.

    `8080:80` leads to port 80, `:80` from a port that is free (it is printed), `0.0.0.0:8080:80`
    also for other machines.
    """
    wanted = [Spec.read(one) for one in specs]
    _check(server)
    listeners = [(sock, spec) for spec in wanted for sock in _listening(spec)]
    for sock, spec in listeners:
        host, port = sock.getsockname()[:2]
        say(f"{f'[{host}]' if ':' in host else host}:{port} -> {spec.remote}")
    raise_file_limit()
    return asyncio.run(_until_ended(_Forwarding(server).run(listeners)))


def _check(server: Server) -> None:
    """Ask for something, so that a wrong address, token or kind of server is told at once."""
    for one in server.value("GET", "/network/ports")["ports"]:
        int(one["localPort"])


async def _until_ended(work: Coroutine[Any, Any, None]) -> int:
    """Do it until a signal ends it; returns 128 and the number of the signal."""
    loop, task, ended = asyncio.get_running_loop(), asyncio.ensure_future(work), 0

    def end(number: int) -> None:
        nonlocal ended
        ended = number
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, end, number)
    try:
        await task
    except asyncio.CancelledError:
        if not ended:
            raise
    return 128 + ended


def _listening(spec: Spec) -> list[socket.socket]:
    """Listen at every address of the name, with the same port; raises ClientError at none."""
    try:
        places = socket.getaddrinfo(spec.address, spec.local, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ClientError(f"{spec.address}: there is no host of that name") from None
    found: list[socket.socket] = []
    failure: OSError | None = None
    port = spec.local
    for family, _, _, _, place in sorted(places, key=lambda one: one[0]):  # 127.0.0.1 before ::1
        try:
            sock = socket.create_server((str(place[0]), port), family=family, backlog=BACKLOG)
        except OSError as error:
            failure = error
            continue
        sock.setblocking(False)
        port = port or sock.getsockname()[1]
        found.append(sock)
    if not found:
        why = str(failure.strerror if failure else "no address").lower()
        raise ClientError(f"{spec.address}:{spec.local}: {why}")
    return found


class _Forwarding:
    """All connections of one run; they share a thread that carries and threads that begin."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._relay = Relay(failed=complain)
        self._threads = ThreadPoolExecutor(THREADS, "forward")
        self._by_messages = server.is_secure
        self._tasks: set[asyncio.Task[None]] = set()
        self._told = ""

    async def run(self, listeners: list[tuple[socket.socket, Spec]]) -> None:
        """Serve until cancelled."""
        try:
            await asyncio.gather(*(self._accept(sock, spec.remote) for sock, spec in listeners))
        finally:
            for sock, _ in listeners:
                sock.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._relay.stop()
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _accept(self, listener: socket.socket, remote: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                local, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in SCARCE:
                    self._tell(f"no more connections: {str(error.strerror).lower()}")
                    await asyncio.sleep(PAUSE_SECONDS)
                continue
            task = asyncio.create_task(self._serve(local, remote))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, local: socket.socket, remote: int) -> None:
        local.setblocking(False)
        local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with local:
            try:
                await self._connected(local, remote)
                return
            except ClientError as error:
                self._tell(f"port {remote}: {error}")
            except OSError:
                pass  # whoever has connected has gone
            reset_when_closed(local)

    async def _connected(self, local: socket.socket, remote: int) -> None:
        """Begin a connection at the server and carry it; waits a while for one that is away."""
        absence = Absence(AWAY_SECONDS)
        while True:
            try:
                await self._begun(local, f"/network/ports/{remote}/tcp")
                self._told = ""
                return
            except ClientError as error:
                pause = absence.bear(error)
            await asyncio.sleep(pause)

    async def _begun(self, local: socket.socket, path: str) -> None:
        if not self._by_messages:
            loop = asyncio.get_running_loop()
            try:
                far, ahead = await loop.run_in_executor(self._threads, self._server.tcp, path)
            except (NoServer, Refused) as error:
                if is_absence(error):
                    raise
                if error.code == UNKNOWN_ROUTE:
                    raise ClientError("the server is too old to forward") from None
                if isinstance(error, Refused) and error.code != NOT_UPGRADED:
                    raise
                self._by_messages = True  # something in between passes no such upgrade
            else:
                with far:
                    await loop.sock_sendall(local, ahead)
                    await self._relay.join(local, far, resets=True)
                return
        await _Messages(local, self._server).carry(path)

    def _tell(self, sentence: str) -> None:
        """Say what goes wrong, once for all connections that it happens to."""
        if sentence != self._told:
            self._told = sentence
            complain(sentence)


class _Messages:
    """A connection carried as the messages of a WebSocket: an empty one ends its direction."""

    def __init__(self, local: socket.socket, server: Server) -> None:
        self._local = local
        self._server = server

    async def carry(self, path: str) -> None:
        """Carry both directions to their ends; raises ClientError, OSError."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, WebSocketException

        try:
            line = await connect(
                self._server.socket_address(path),
                additional_headers=self._server.headers,
                max_size=None,
                compression=None,
                proxy=None,
                open_timeout=CONNECT_SECONDS,
            )
        except (OSError, WebSocketException, UnicodeError) as error:
            raise self._server.unopened(error) from None
        async with line:
            sending = asyncio.create_task(self._send(line.send))
            try:
                async for data in line:
                    if not data:
                        self._local.shutdown(socket.SHUT_WR)
                        break
                    whole = data if isinstance(data, bytes) else data.encode()
                    await asyncio.get_running_loop().sock_sendall(self._local, whole)
                else:
                    raise ClientError(line.close_reason or "the connection broke off")
                await sending
            except ConnectionClosed:
                raise ClientError(line.close_reason or "the connection broke off") from None
            finally:
                sending.cancel()
                with suppress(asyncio.CancelledError, ConnectionClosed, OSError):
                    await sending

    async def _send(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._local, READ_BYTES):
            await send(data)
        await send(b"")
