"""Leaving connections to the version that takes our place, so that no client notices the change.

A connection at rest goes on as it is: its descriptor is kept over exec, and what its client sends
meanwhile waits in the kernel, as new connections wait in the listening socket. What is being
answered is answered first, within a bound. Behind that

- a request that nothing was answered to and that may be asked again is given to the next server,
  connection and all: every GET and HEAD, and who waits for a process that was started for him;
- a stream ends at the border of a record, without its last chunk: its client comes again and goes
  on where it was;
- a WebSocket is closed with 1012 (service restart).
"""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from uvicorn.server import Server

from sandkeeper.api.edge.streaming import RESUME
from sandkeeper.api.edge.urls import is_for_port
from sandkeeper.upgrade.handover import HeldConnection

if TYPE_CHECKING:
    from sandkeeper.api.edge.connections.protocol import EdgeProtocol

__all__ = ["Departure", "take_over"]

LOOK_EVERY = 0.002
STREAM_SECONDS = 2.0
BODY_HEADERS = {b"content-length", b"content-type", b"transfer-encoding", b"expect"}


class Departure:
    """Takes all connections of a server that are to go on; the others end.

    What is being answered has `drain` seconds; `begin_stop` sends away whoever waits then.
    """

    def __init__(self, server: Server, *, drain: float, begin_stop: Callable[[], None]) -> None:
        self._server = server
        self._drain = drain
        self._begin_stop = begin_stop
        self._left: list[HeldConnection] = []

    async def leave(self) -> list[HeldConnection]:
        """Stop accepting, wait for what is being answered, return the connections that go on."""
        for listening in self._server.servers:
            listening.close()
        await self._settle(self._drain, _must_be_answered)
        for connection in self._http():
            if _may_ask_again(connection):
                self._take(connection, _request_of(connection))
        self._begin_stop()
        for other in self._server.server_state.connections - set(self._http()):
            other.shutdown()
        await self._settle(STREAM_SECONDS, lambda _connection: True)
        for other in list(self._server.server_state.connections):
            other.transport.abort()
        tasks = list(self._server.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self._left

    async def _settle(self, seconds: float, matters: "Callable[[EdgeProtocol], bool]") -> None:
        """Take connections as they come to rest, until none that matters is left, or time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            for connection in self._http():
                if connection.is_idle:
                    self._take(connection, b"")
            waiting = any(matters(connection) for connection in self._http())
            if not waiting or loop.time() > deadline:
                return
            await asyncio.sleep(LOOK_EVERY)

    def _http(self) -> "list[EdgeProtocol]":
        """Return the connections that speak HTTP and are not closing."""
        found: list[Any] = [
            connection
            for connection in self._server.server_state.connections
            if hasattr(connection, "is_idle") and not connection.transport.is_closing()
        ]
        return found

    def _take(self, connection: "EdgeProtocol", request: bytes) -> None:
        """Keep the socket under another number and let the protocol go.

        No other turn of the loop comes between the look at it and the closing, so nothing that the
        client sends can be read by us any more.
        """
        number = connection.transport.get_extra_info("socket").fileno()
        self._left.append(HeldConnection(os.dup(number), request))
        connection.transport.close()


def _must_be_answered(connection: "EdgeProtocol") -> bool:
    """Say whether only we can give the answer, and it has an end: a stream has none."""
    if _may_ask_again(connection):
        return False
    cycle = connection.cycle
    return cycle is None or cycle.response_complete or not cycle.chunked_encoding


def _may_ask_again(connection: "EdgeProtocol") -> bool:
    """Say whether the request can be asked again without anybody noticing."""
    cycle = connection.cycle
    if cycle is None or cycle.response_started or connection.pipeline or not connection.is_asked:
        return False
    scope = cycle.scope
    if RESUME in scope:
        return True
    return scope["method"] in {"GET", "HEAD"} and not is_for_port(scope)


def _request_of(connection: "EdgeProtocol") -> bytes:
    """Write the head of the present request again, or of the one that stands for it."""
    scope: dict[str, Any] = dict(connection.cycle.scope)
    method, target = scope["method"].encode(), scope["raw_path"]
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    if RESUME in scope:
        method, target = b"GET", scope[RESUME]().encode()
    head = [method + b" " + target + b" HTTP/1.1"]
    head += [name + b": " + value for name, value in scope["headers"] if name not in BODY_HEADERS]
    return b"\r\n".join(head) + b"\r\n\r\n"


async def take_over(held: HeldConnection, make: "Callable[[], EdgeProtocol]") -> None:
    """Serve a connection of the server before; one that is gone meanwhile is left out."""
    try:
        sock = socket.socket(fileno=held.fd)
    except OSError:
        return
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        _, connection = await loop.connect_accepted_socket(make, sock)
        if held.request:
            connection.data_received(held.request)
