"""`/port/{port}/{path}`: a streaming proxy to the servers of the sandbox, HTTP and WebSocket."""

import asyncio
import re
from contextlib import suppress

from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send

from sandkeeper.api.forwarding import Target, request_headers, response_headers, split_target
from sandkeeper.api.middleware import BARE
from sandkeeper.api.proxy_socket import relay
from sandkeeper.errors import SandkeeperError
from sandkeeper.services.sandbox import Sandbox
from sandkeeper.services.upstream import ClientGone, Upstream, connect

__all__ = ["routes"]

_PATH = re.compile(r"/port/[^/]")


class PortRoute(BaseRoute):
    """Matches every method and WebSockets, before anything decodes the path."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._token = sandbox.settings.token

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match by the prefix only: what follows is the other server's."""
        if scope["type"] in {"http", "websocket"} and _PATH.match(scope["path"]):
            return Match.FULL, {}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Proxy one request or WebSocket."""
        if scope["type"] == "websocket":
            await relay(scope, receive, send, token=self._token)
            return
        target = split_target(scope, self._token)
        upstream = Upstream(head_request=scope["method"] == "HEAD")
        connected = await connect(target.port)
        try:
            head = _head(scope, target, self._token)
            await upstream.start(connected, head)
            await _exchange(scope, receive, send, upstream)
        finally:
            upstream.close()


def _head(scope: Scope, target: Target, token: str) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (scope["method"].encode(), target.full)]
    lines += [b"%s: %s" % field for field in request_headers(scope, target, token)]
    framing, value = _framing(scope)
    if framing:
        lines.append(b"%s: %s" % (framing, value))
    lines.append(b"connection: close\r\n\r\n")
    return b"\r\n".join(lines)


def _framing(scope: Scope) -> tuple[bytes, bytes]:
    """Return the field that frames the request's body; an empty name when there is none."""
    fields = dict(scope["headers"])
    if b"transfer-encoding" in fields:
        return b"transfer-encoding", b"chunked"
    if b"content-length" in fields:
        return b"content-length", fields[b"content-length"]
    return b"", b""


async def _exchange(scope: Scope, receive: Receive, send: Send, upstream: Upstream) -> None:
    chunked = _framing(scope)[0] == b"transfer-encoding"
    upload = asyncio.create_task(_upload(receive, upstream, chunked=chunked))
    try:
        status, received = await upstream.response()
        scope[BARE] = True
        headers = response_headers(status, received)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await _download(send, upstream)
    except ClientGone:
        return
    finally:
        upload.cancel()
        with suppress(asyncio.CancelledError):
            await upload


async def _download(send: Send, upstream: Upstream) -> None:
    more = True
    while more:
        try:
            data, more = await upstream.read()
        except SandkeeperError:
            return  # the head is out: the missing end is how the client learns of it
        await send({"type": "http.response.body", "body": data, "more_body": more})


async def _upload(receive: Receive, upstream: Upstream, *, chunked: bool) -> None:
    """Pass the request's body on, then wait for the client to leave."""
    wanted = True
    while (message := await receive())["type"] != "http.disconnect":
        if wanted:
            wanted = await _pass_on(upstream, message, chunked=chunked)
    upstream.abandon()


async def _pass_on(upstream: Upstream, message: Message, *, chunked: bool) -> bool:
    data: bytes = message.get("body", b"")
    more: bool = message.get("more_body", False)
    parts = [data] if data else []
    if chunked:
        parts = [b"%x\r\n" % len(data), data, b"\r\n"] if data else []
        parts += [] if more else [b"0\r\n\r\n"]
    return (not parts or await upstream.write(*parts)) and more


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [PortRoute(sandbox)]
