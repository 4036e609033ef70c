"""`/network/ports/{port}/tcp`: a bare TCP connection to a port of the sandbox.

Two wires, which mean the same. An upgrade to `tcp`: behind the 101 the connection is the other one,
byte for byte, both ends of file included; the kernel carries it (`network.relay`). A WebSocket, for
gateways that pass nothing else and for browsers: binary messages are bytes, an empty one is the end
of that direction.
"""

import asyncio
import socket

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from sandkeeper.api.edge.connections.wire import CARRIED, SWITCHED, wire_of
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import route, socket_route
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.port.socket import wanted_upgrade
from sandkeeper.errors import BadInput, SandkeeperError
from sandkeeper.log.access import Access
from sandkeeper.network.channel import Heir
from sandkeeper.network.dialing import connect
from sandkeeper.network.relay import Relay, duplicate, reset_when_closed
from sandkeeper.numerals import PORTS, natural
from sandkeeper.race import race

__all__ = ["TcpHandlers", "routes"]

READ_BYTES = 256 << 10
REFUSED = 1011
HEAD = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n"


class TcpHandlers:
    """Handlers over the relay."""

    def __init__(self, *, relay: Relay, access: Access) -> None:
        self._relay = relay
        self._access = access

    async def upgrade(self, request: Request) -> Response:
        """Leave the connection to what listens on the port."""
        port = _port(request)
        if wanted_upgrade(request.scope).lower() != b"tcp":
            text = "this is for an upgrade of the connection to tcp, or for a WebSocket"
            return json_response({"error": text}, 426, headers={"Upgrade": "tcp"})
        self._access.audit("port_tcp", caller(request), port=port)
        return _Joined(await connect(port), self._relay)

    async def messages(self, websocket: WebSocket) -> None:
        """Carry bytes as the messages of a WebSocket."""
        await websocket.accept()
        try:
            port = _port(websocket)
            self._access.audit("port_tcp", caller(websocket), port=port)
            connected = await connect(port)
        except SandkeeperError as error:
            await websocket.close(REFUSED, str(error)[:100])
            return
        try:
            code, reason = await _carried(websocket, connected)
            await websocket.close(code, reason)
        except WebSocketDisconnect:
            reset_when_closed(connected)
        finally:
            connected.close()


def _port(request: HTTPConnection) -> int:
    """Read the port; raises BadInput for what is none, and for the server's own."""
    port = natural(request.path_params["port"]) or 0
    if port not in PORTS:
        raise BadInput("invalid port: a number from 1 to 65535 is wanted")
    if port == (request.scope.get("server") or ("", 0))[1]:
        raise BadInput("this is the port of this server itself")
    return port


class _Client(Heir):
    """A client's connection while the kernel carries it: nothing is read here."""

    def __init__(self) -> None:
        super().__init__()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the carrying."""
        super().connection_lost(exc)
        if not self.gone.done():
            self.gone.set_result(None)


class _Joined(Response):
    """101, and then the bytes of both sides until they end."""

    def __init__(self, connected: socket.socket, relay: Relay) -> None:
        super().__init__(None, 101)
        self._connected = connected
        self._relay = relay

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Carry them; an error of either side and the server's end reset both."""
        wire = wire_of(scope)
        assert wire is not None
        with self._connected as connected:
            await send({"type": SWITCHED})
            await wire.flushed()
            client = _Client()
            ahead = wire.switch(client, b"")
            try:
                assert client.transport is not None
                with duplicate(client.transport) as sock:
                    scope[CARRIED] = await self._carried(client, sock, connected, ahead)
            except OSError:
                reset_when_closed(connected)  # one of them was lost before it began
            finally:
                wire.abort()

    async def _carried(
        self, client: _Client, sock: socket.socket, connected: socket.socket, ahead: bytes
    ) -> int:
        for end in (sock, connected):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, HEAD)
        await loop.sock_sendall(connected, ahead)
        joined, _ = await race(self._relay.join(sock, connected, resets=True), client.gone)
        return joined.result() if joined is not None else 0


async def _carried(websocket: WebSocket, connected: socket.socket) -> tuple[int, str]:
    """Carry messages to the end of both directions; returns how to close the WebSocket.

    Raises WebSocketDisconnect when the client has gone.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    async def receive() -> tuple[int, str]:
        while (message := await websocket.receive())["type"] != "websocket.disconnect":
            data = message.get("bytes")
            if data is None:
                return 1003, "messages are bytes here"
            if data:
                await loop.sock_sendall(connected, data)
            elif not ended.is_set():
                connected.shutdown(socket.SHUT_WR)
                ended.set()
        raise WebSocketDisconnect

    async def send() -> tuple[int, str]:
        while data := await loop.sock_recv(connected, READ_BYTES):
            await websocket.send_bytes(data)
        await websocket.send_bytes(b"")
        await ended.wait()
        return 1000, ""

    first, second = await race(receive(), send())
    try:
        done = first or second
        assert done is not None
        told: tuple[int, str] = done.result()
        return told
    except OSError:
        return REFUSED, "the connection was reset"


def routes(handlers: TcpHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    path = "/network/ports/{port}/tcp"
    return [
        route(path, handlers.upgrade, need=USER),
        socket_route(path, handlers.messages, need=USER),
    ]
