"""Upgrades of connections to a port, WebSockets above all: what follows passes as it is.

A handshake is a request like others until the server answers 101. From there on neither side's
bytes are looked at but for where frames end (`network.channel`): messages of any size pass in
pieces, with the compression and the subprotocol that the two agreed on, and each side answers the
other's pings. A refusal reaches the client as it was.
"""

from http import HTTPStatus

from starlette.types import Scope, Send

from sandkeeper.api.edge.connections.wire import CARRIED, SWITCHED, wire_of
from sandkeeper.api.port.answers import Addressee, response_headers
from sandkeeper.network.channel import Channel
from sandkeeper.network.switching import Switching
from sandkeeper.network.upstream import Headers

__all__ = ["HANDSHAKE_SECONDS", "switch", "wanted_upgrade"]

HANDSHAKE_SECONDS = 30.0


def wanted_upgrade(scope: Scope) -> bytes:
    """Return what a request wants its connection to become; empty for all others.

    Only of a connection that can be left to somebody else, and for a request without a body.
    """
    fields = dict(scope["headers"])
    asked = any(
        name == b"connection" and b"upgrade" in value.lower() for name, value in scope["headers"]
    )
    has_body = b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0"
    if not asked or has_body or wire_of(scope) is None:
        return b""
    wanted: bytes = fields.get(b"upgrade", b"")
    return wanted


async def switch(
    scope: Scope, send: Send, upstream: Switching, received: Headers, audience: Addressee
) -> None:
    """Pass a 101 on and then what the two sides have to say, until one of them ends."""
    wire = wire_of(scope)
    assert wire is not None
    protocol = next((value for name, value in received if name.lower() == b"upgrade"), b"")
    channel = Channel(websocket=protocol.lower() == b"websocket")
    await send({"type": SWITCHED})
    try:
        ahead = wire.switch(channel.client, _head(protocol, received, audience))
        upstream.join(channel)
        if ahead:
            channel.client.data_received(ahead)
        channel.client.read(on=not channel.server.full)
        await channel.over
    finally:
        channel.abort()
        scope[CARRIED] = channel.sent


def _head(protocol: bytes, received: Headers, audience: Addressee) -> bytes:
    lines = [b"HTTP/1.1 101 " + HTTPStatus(101).phrase.encode()]
    lines += [b"%s: %s" % field for field in response_headers(101, received, audience)]
    lines += [b"connection: upgrade", b"upgrade: " + protocol, b"", b""]
    return b"\r\n".join(lines)
