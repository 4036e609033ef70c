"""The terminal's WebSocket: frames in, frames out, and how it closes.

Close codes: 1000 `Shell exited`; 1008 refused (before the handshake, so the client sees 403);
1009 a frame over 1 MiB and 1011 no answer to pings (both by the WebSocket layer), also 1011 when
the shell cannot be started; 1012 the server stops; 1013 too many, or input that nobody reads.

With `format=raw` what is shown comes as binary frames, byte for byte, and a binary frame is typed
as it is; text frames stay JSON (`resize`). With `sizes=true` the size is told by `resize` frames:
at once, and whenever anybody sets another, between the output before and after. With `create=false`
a session is joined by its id or name, an ended one too, and never opened.
"""

from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.request_body import parse_json
from sandkeeper.api.edge.rights import user_of
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.tickets.sessions import offered_protocol
from sandkeeper.api.schemas.terminals import ClientMessage, ServerMessage, SizeMessage
from sandkeeper.errors import BadInput, Conflict, SandkeeperError
from sandkeeper.linux.users import Users
from sandkeeper.log.access import Access
from sandkeeper.numerals import natural
from sandkeeper.race import race
from sandkeeper.terminals.registry import TerminalOrder, Terminals
from sandkeeper.terminals.spectator import Size, watch, watch_raw
from sandkeeper.terminals.terminal import Terminal, Viewer

__all__ = ["TerminalSocket"]

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(ClientMessage)
NAME_CHARACTERS = 256


class TerminalSocket:
    """Serves `/terminal/ws`."""

    def __init__(self, *, terminals: Terminals, access: Access, users: Users) -> None:
        self._users = users
        self._access = access
        self._terminals = terminals

    async def serve(self, socket: WebSocket) -> None:
        """Handle one connection."""
        order = _order(socket)
        await socket.accept(subprotocol=offered_protocol(socket.scope))
        with suppress(WebSocketDisconnect):
            try:
                user_of(socket, self._users, order.user)
                viewer = _viewer(socket)
                terminal, created = await self._found(socket, order)
                self._terminals.attach(terminal, viewer)
            except SandkeeperError as error:
                await _send(socket, ServerMessage("error", str(error)))
                code = 1013 if isinstance(error, Conflict) else 1011
                await socket.close(code, str(error).encode()[:100].decode("utf-8", "ignore"))
                return
            try:
                await self._attached(socket, terminal, viewer, order, created=created)
            finally:
                terminal.detach(viewer)

    async def _found(self, socket: WebSocket, order: TerminalOrder) -> tuple[Terminal, bool]:
        """Return the session to show and whether it is new; `create=false` opens none."""
        if not query_of(socket).flag("create", True):
            return self._terminals.get(order.name), False
        return await self._terminals.open(order)

    async def _attached(
        self,
        socket: WebSocket,
        terminal: Terminal,
        viewer: Viewer,
        order: TerminalOrder,
        *,
        created: bool,
    ) -> None:
        who = caller(socket)
        meta = terminal.meta
        extras = {"session_id": meta.name, "shell": meta.shell, "working_dir": meta.working_dir}
        self._access.audit("terminal_connect", who, **extras)
        if not created and not viewer.read_only:
            terminal.resize(order.cols, order.rows)
        sending = self._send_all(socket, terminal, viewer)
        receiving = self._receive_all(socket, terminal, viewer)
        try:
            ended = await race(sending, receiving)
        finally:
            self._access.audit("terminal_disconnect", who, **extras)
        for done in filter(None, ended):
            with suppress(WebSocketDisconnect):
                done.result()

    async def _send_all(self, socket: WebSocket, terminal: Terminal, viewer: Viewer) -> None:
        if _is_raw(socket):
            async with aclosing(watch_raw(terminal, viewer)) as blocks:
                async for block in blocks:
                    if isinstance(block, tuple):
                        await _send(socket, SizeMessage(*block))
                    else:
                        await socket.send({"type": "websocket.send", "bytes": block})
        else:
            async with aclosing(watch(terminal, viewer)) as texts:
                async for text in texts:
                    await _send(socket, _told(text))
        await socket.close(1000, "Shell exited")

    async def _receive_all(self, socket: WebSocket, terminal: Terminal, viewer: Viewer) -> None:
        who = caller(socket)
        while True:
            frame = await socket.receive()
            if frame["type"] != "websocket.receive":
                return
            typed = self._typed(socket, terminal, viewer, frame)
            if typed and not terminal.is_over:
                try:
                    terminal.type(typed, who)
                except Conflict as error:
                    if not terminal.is_over:
                        await socket.close(1013, str(error))
                        return

    def _typed(
        self, socket: WebSocket, terminal: Terminal, viewer: Viewer, frame: Mapping[str, Any]
    ) -> bytes:
        """Return what a frame types; do what else it may ask for."""
        data: bytes = frame.get("bytes") or b""
        if data and _is_raw(socket):
            return b"" if viewer.read_only else data
        message = _message(frame.get("text") or data)
        if message is None or viewer.read_only:
            return b""
        if message.type == "resize":
            terminal.resize(message.cols, message.rows)
        return message.data.encode("utf-8", "replace") if message.type == "input" else b""


def _told(one: str | Size) -> ServerMessage | SizeMessage:
    return SizeMessage(*one) if isinstance(one, tuple) else ServerMessage("output", one)


def _viewer(socket: WebSocket) -> Viewer:
    query = query_of(socket)
    return Viewer(read_only=query.flag("readOnly"), sizes=query.flag("sizes"))


def _is_raw(socket: WebSocket) -> bool:
    return query_of(socket).get("format") == "raw"


def _message(frame: str | bytes) -> ClientMessage | None:
    """Read a frame, at once if it is written as most clients do; None where it makes no sense."""
    with suppress(msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        message = _decoder.decode(frame)
        if message.data or (message.cols and message.rows):
            return message
    with suppress(BadInput):
        data = frame.encode("utf-8", "surrogatepass") if isinstance(frame, str) else frame
        return parse_json(data, ClientMessage)
    return None


async def _send(socket: WebSocket, message: ServerMessage | SizeMessage) -> None:
    text = _encode(message).decode()
    await socket.send({"type": "websocket.send", "text": text})


def _order(socket: WebSocket) -> TerminalOrder:
    query = query_of(socket)
    return TerminalOrder(
        name=query.get("sessionId", "default")[:NAME_CHARACTERS],
        shell=query.get("shell", ""),
        working_dir=query.get("workingDir", ""),
        cols=_size(query.get("cols", ""), 80),
        rows=_size(query.get("rows", ""), 24),
        args=tuple(query.getlist("arg")),
        user=query.get("user", ""),
    )


def _size(text: str, default: int) -> int:
    """Return an unsigned 16-bit number; the default for 0 and for anything else."""
    size = natural(text)
    return size if size and size < 65536 else default
