"""The WebSocket half of `/port`: two connections, messages passed on both ways.

Each hop answers the pings of its own peer. Subprotocols are the other server's choice; its refusal
of the handshake reaches the client with status and body. Compression is not negotiated: within one
machine it only costs.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from starlette.types import Receive, Scope, Send

from sandkeeper.api.edge.respond import error_response
from sandkeeper.api.port.answers import Audience, response_headers
from sandkeeper.api.port.forwarding import Forwarding, Target
from sandkeeper.errors import SandkeeperError, Unprocessable
from sandkeeper.network.upstream import Headers, connect
from sandkeeper.race import race

__all__ = ["relay"]

MESSAGE_BYTES = 16 << 20
QUEUED_MESSAGES = 4
HANDSHAKE_SECONDS = 30.0
CLOSE_SECONDS = 5.0
NO_STATUS = 1005
ABNORMAL = 1006
NORMAL = 1000
BAD_GATEWAY = 1014
HANDSHAKE = frozenset(
    {
        *("sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"),
        *("sec-websocket-protocol", "sec-websocket-accept", "content-length"),
    }
)


async def relay(scope: Scope, receive: Receive, send: Send, *, forwarding: Forwarding) -> None:
    """Proxy one WebSocket from its handshake to its end."""
    await receive()  # websocket.connect
    try:
        target = forwarding.target(scope)
        fields = forwarding.headers(scope, target)
        audience = forwarding.audience(scope, target)
        upstream = await _dial(scope, target, fields, audience)
    except SandkeeperError as error:
        await error_response(error)(scope, receive, send)
        return
    if isinstance(upstream, _Refusal):
        await upstream.send(send)
        return
    try:
        await _accept(send, upstream, audience)
        await _both_ways(receive, send, upstream)
    finally:
        upstream.transport.abort()


class _Refusal:
    """The other server's answer to a handshake it does not want."""

    def __init__(self, response: Any, audience: Audience) -> None:
        self._response = response
        self._audience = audience

    async def send(self, send: Send) -> None:
        """Pass it on; uvicorn knows registered statuses only."""
        status = self._response.status_code
        known = status in {one.value for one in HTTPStatus}
        headers = [(k.encode(), v.encode("latin-1")) for k, v in self._response.headers.raw_items()]
        await send(
            {
                "type": "websocket.http.response.start",
                "status": status if known else HTTPStatus.BAD_REQUEST,
                "headers": response_headers(status, headers, self._audience),
            }
        )
        await send({"type": "websocket.http.response.body", "body": self._response.body or b""})


async def _dial(scope: Scope, target: Target, fields: Headers, audience: Audience) -> Any:
    """Connect and shake hands; returns the connection or the refusal.

    Built from the library's parts: its own `connect` would follow redirects, wherever they lead.
    """
    from websockets.client import ClientProtocol
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.uri import parse_uri

    from sandkeeper.api.port.paced_client import PacedClient

    headers = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in fields
        if name != b"host" and name.decode("latin-1").lower() not in HANDSHAKE
    ]
    uri = parse_uri(f"ws://{target.host.decode()}{target.full.decode('latin-1')}")
    offered = scope["subprotocols"] or None
    connection = PacedClient(
        ClientProtocol(uri, subprotocols=offered, max_size=MESSAGE_BYTES),
        ping_interval=None,
        close_timeout=CLOSE_SECONDS,
        max_queue=QUEUED_MESSAGES,
    )
    connected = await connect(target.port)
    await asyncio.get_running_loop().create_connection(lambda: connection, sock=connected)
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await connection.handshake(headers, user_agent_header=None)
    except InvalidStatus as refused:
        connection.transport.abort()
        return _Refusal(refused.response, audience)
    except (InvalidHandshake, OSError, TimeoutError, ValueError, EOFError) as error:
        connection.transport.abort()
        text = f"the server on this port failed: no WebSocket handshake ({error})"
        raise Unprocessable(text, code="UPSTREAM_BROKEN") from error
    except BaseException:
        connection.transport.abort()
        raise
    return connection


async def _accept(send: Send, upstream: Any, audience: Audience) -> None:
    headers = [
        (name.lower().encode(), value.encode("latin-1"))
        for name, value in upstream.response.headers.raw_items()
        if name.lower() not in HANDSHAKE
    ]
    await send(
        {
            "type": "websocket.accept",
            "subprotocol": upstream.subprotocol,
            "headers": response_headers(101, headers, audience),
        }
    )


async def _both_ways(receive: Receive, send: Send, upstream: Any) -> None:
    """Pass messages until either side ends, then tell the other with the same code."""
    for done in await race(_inward(receive, upstream), _outward(send, upstream)):
        if done:
            done.result()


async def _inward(receive: Receive, upstream: Any) -> None:
    """Client to server, until the client leaves."""
    from websockets.exceptions import ConnectionClosed

    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        try:
            await upstream.send(message["bytes"] if text is None else text)
        except ConnectionClosed:
            await asyncio.Event().wait()  # the other direction knows the code
    code = message.get("code", NO_STATUS)
    if code == ABNORMAL:
        return  # an end without goodbye is passed on as one
    await upstream.close(NORMAL if code == NO_STATUS else code, message.get("reason") or "")


async def _outward(send: Send, upstream: Any) -> None:
    """Server to client, until the server closes."""
    from websockets.exceptions import ConnectionClosed

    while True:
        try:
            message = await upstream.recv()
        except ConnectionClosed:
            break
        kind = "text" if isinstance(message, str) else "bytes"
        await send({"type": "websocket.send", kind: message})
    code = upstream.close_code or BAD_GATEWAY
    reason = upstream.close_reason or ""
    if code == NO_STATUS:
        code = NORMAL
    elif code == ABNORMAL:
        code, reason = BAD_GATEWAY, "the server on this port went away"
    await send({"type": "websocket.close", "code": code, "reason": reason})
