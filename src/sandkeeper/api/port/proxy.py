"""`/port/{port}/{path}` and host names of ports: a streaming proxy to the sandbox's servers."""

import asyncio
import re
import socket
from contextlib import suppress

from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send

from sandkeeper.api.edge.connections.exchange import BARE
from sandkeeper.api.edge.connections.wire import LONG_BYTES, Wire, wire_of
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.subject import Gateways
from sandkeeper.api.port.answers import Addressee, response_headers
from sandkeeper.api.port.door import Door
from sandkeeper.api.port.forwarding import Forwarding, PortTarget, framing
from sandkeeper.api.port.instead import Instead
from sandkeeper.api.port.pages import Doors
from sandkeeper.api.port.socket import HANDSHAKE_SECONDS, switch, wanted_upgrade
from sandkeeper.errors import SandkeeperError, Unprocessable
from sandkeeper.network.dialing import NOT_LISTENING, connect
from sandkeeper.network.hops import Hops
from sandkeeper.network.relay import Relay
from sandkeeper.network.switching import SWITCHED, Switching
from sandkeeper.network.upstream import ClientGone, Headers, Upstream
from sandkeeper.settings import Settings

__all__ = ["PortRoute", "head_of", "pass_on"]

_PATH = re.compile(r"/port(?:-keep)?/[^/]")


class PortRoute(BaseRoute):
    """Matches every method, upgrades among them, before anything decodes the path."""

    need = USER

    def __init__(self, settings: Settings, relay: Relay, doors: Doors, instead: Instead) -> None:
        self.doors = doors
        self._instead = instead
        self._forwarding = Forwarding(self.doors, Gateways(settings.edge.gateways), Hops())
        self._relay = relay

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match by the prefix only: what follows is the other server's."""
        if scope["type"] == "http" and _PATH.match(scope["path"]):
            return Match.FULL, {}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Proxy one request, or what becomes of it."""
        upgrade = wanted_upgrade(scope)
        door = Door.of(scope)
        if door is not None and not upgrade:
            answer = await self.doors.answer(scope, door)
            if answer is not None:
                await answer(scope, receive, send)
                return
        target = self._forwarding.target(scope)
        head = head_of(scope, target, self._forwarding.headers(scope, target), upgrade)
        try:
            connected = await self._connected(target.port)
        except Unprocessable as error:
            if upgrade or error.code != NOT_LISTENING or door is None:
                raise
            if await self._instead.answer(scope, receive, send, door, target.path):
                return
            raise
        audience = self._forwarding.audience(scope, target)
        await pass_on(
            scope, receive, send, connected, head, audience, self._relay, upgrade=bool(upgrade)
        )

    async def _connected(self, port: int) -> socket.socket:
        """Connect; raises Unprocessable, also where only this server itself would be found."""
        if self._instead.owns(port):
            raise Unprocessable(f"nothing listens on port {port}", code=NOT_LISTENING)
        return await connect(port)


async def pass_on(
    scope: Scope,
    receive: Receive,
    send: Send,
    connected: socket.socket,
    head: bytes,
    audience: Addressee,
    relay: Relay,
    *,
    upgrade: bool,
) -> None:
    """Have a request answered by the server at the other end of a socket, which is closed then.

    `upgrade` says that the request asks for one. Raises Unprocessable for an answer that is none.
    """
    upstream = Switching() if upgrade else Upstream(head_request=scope["method"] == "HEAD")
    try:
        await upstream.start(connected, head)
        await _Exchange(scope, receive, send, upstream, relay, audience).run()
    finally:
        upstream.close()


def head_of(scope: Scope, target: PortTarget, headers: Headers, upgrade: bytes) -> bytes:
    """Write the head of a request as it goes on; raises BadInput as `framing`."""
    lines = [b"%s %s HTTP/1.1" % (scope["method"].encode(), target.full)]
    lines += [b"%s: %s" % field for field in headers]
    name, value = framing(scope)
    if name:
        lines.append(b"%s: %s" % (name, value))
    lines += [b"connection: upgrade", b"upgrade: " + upgrade] if upgrade else [b"connection: close"]
    lines += [b"", b""]
    return b"\r\n".join(lines)


class _Exchange:
    """One request and its answer, both ways at once."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        upstream: Upstream,
        relay: Relay,
        audience: Addressee,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._upstream = upstream
        self._relay = relay
        self._audience = audience
        self._wire = wire_of(scope)
        name, value = framing(scope)
        self._chunked = name == b"transfer-encoding"
        self._left = int(value) if name == b"content-length" else 0
        self._upload = asyncio.create_task(self._pass_body())

    async def run(self) -> None:
        """Pass everything on; returns when the answer is out or the client has gone."""
        try:
            status, received = await self._response()
            if isinstance(self._upstream, Switching) and status == SWITCHED:
                await self._stop_upload()
                await switch(self._scope, self._send, self._upstream, received, self._audience)
                return
            self._scope[BARE] = True
            headers = response_headers(status, received, self._audience)
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._pass_answer()
        except ClientGone:
            return
        finally:
            await self._stop_upload()

    async def _response(self) -> tuple[int, Headers]:
        if not isinstance(self._upstream, Switching):
            return await self._upstream.response()
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                return await self._upstream.response()
        except TimeoutError as error:
            text = f"the server on this port did not answer within {HANDSHAKE_SECONDS:.0f} s"
            raise Unprocessable(text, code="UPSTREAM_BROKEN") from error

    async def _stop_upload(self) -> None:
        self._upload.cancel()
        with suppress(asyncio.CancelledError):
            await self._upload

    async def _pass_answer(self) -> None:
        try:
            if self._wire is not None and self._upstream.divert(LONG_BYTES):
                while self._upstream.arrived:
                    data, _ = await self._upstream.read()
                    await self._send_body(data, more=True)
                if not await self._carry_answer(self._wire):
                    return
                await self._stop_upload()
                await self._send_body(b"", more=False)
                return
            more = True
            while more:
                data, more = await self._upstream.read()
                if not more:
                    await self._stop_upload()  # it may hold the connection, which now goes on
                await self._send_body(data, more=more)
        except SandkeeperError:
            return  # the head is out: the missing end is how the client learns of it

    async def _carry_answer(self, wire: Wire) -> bool:
        """Carry the rest of the answer; False when it is not whole, or the client has left."""
        with self._upstream.rest() as (source, part):
            carrying = asyncio.create_task(wire.answer(self._relay, source, part, self._scope))
            try:
                # The upload ends when the client is gone, and never before the answer does.
                await asyncio.wait({carrying, self._upload}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                carrying.cancel()
                (failure,) = await asyncio.gather(carrying, return_exceptions=True)
        if isinstance(failure, Exception):
            raise failure
        return part.moved == part.count

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _pass_body(self) -> None:
        """Pass the request's body on, then wait for the client to leave."""
        wanted = True
        while (message := await self._receive())["type"] != "http.disconnect":
            self._left -= len(message.get("body", b""))
            if wanted:
                wanted = await self._pass_on(message)
            if wanted and self._wire is not None and self._wire.is_long(self._left):
                wanted = await self._carry_body(self._wire)
        self._upstream.abandon()

    async def _pass_on(self, message: Message) -> bool:
        data: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        parts = [data] if data else []
        if self._chunked:
            parts = [b"%x\r\n" % len(data), data, b"\r\n"] if data else []
            parts += [] if more else [b"0\r\n\r\n"]
        return (not parts or await self._upstream.write(*parts)) and more

    async def _carry_body(self, wire: Wire) -> bool:
        with wire.body(self._left) as (first, source, part):
            self._left = 0
            if not first or await self._upstream.write(first):
                await self._upstream.write_from(self._relay, source, part)
        return False
