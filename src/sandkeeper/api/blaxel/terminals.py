"""Terminals over HTTP: sessions, their screens and recordings, what is typed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.request_body import read_body, read_json
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import USER, user_of
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.streaming import StreamResponse, until_disconnect
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.urls import segment
from sandkeeper.api.schemas.terminals import (
    TerminalChange,
    TerminalRequest,
    screen_of,
    terminal_of,
)
from sandkeeper.errors import BadInput
from sandkeeper.journal.cursor import Follow
from sandkeeper.journal.turns import Turns
from sandkeeper.linux.users import Users
from sandkeeper.log.access import Access
from sandkeeper.numerals import asked, whole
from sandkeeper.processes.runs import new_id
from sandkeeper.terminals.looking import until_shown
from sandkeeper.terminals.recording import recording
from sandkeeper.terminals.registry import TerminalOrder, Terminals
from sandkeeper.terminals.spectator import raw_output
from sandkeeper.terminals.terminal import Terminal

__all__ = ["TerminalHandlers", "routes"]

BODY_BYTES = 64 << 10
INPUT_BYTES = 1 << 20
NAME_CHARACTERS = 256
WAIT_MOST_SECONDS = 60
PATIENCE_SECONDS = 60.0


class TerminalHandlers:
    """Handlers of `/terminals`."""

    def __init__(
        self,
        *,
        terminals: Terminals,
        access: Access,
        stopping: asyncio.Event,
        users: Users,
        turns: Turns,
    ) -> None:
        self._terminals = terminals
        self._users = users
        self._turns = turns
        self._access = access
        self._stopping = stopping

    def _get(self, request: Request) -> Terminal:
        return self._terminals.get(segment(request.scope, 1))

    async def list(self, _request: Request) -> Response:
        """List all sessions, ended ones too."""
        return json_response([terminal_of(one) for one in self._terminals.all()])

    async def create(self, request: Request) -> Response:
        """Open a session; its name is made up when none is given."""
        wanted = await read_json(request, TerminalRequest, BODY_BYTES)
        name = wanted.session_id or f"terminal-{new_id()[-8:]}"
        _check_name(name)
        _check_size(wanted.cols, wanted.rows)
        user_of(request, self._users, wanted.user)
        order = TerminalOrder(
            name,
            wanted.shell,
            wanted.working_dir,
            wanted.cols,
            wanted.rows,
            args=tuple(wanted.args),
            env=wanted.env,
            inherit_env=wanted.inherit_env,
            user=wanted.user,
            tag=wanted.tag,
            timeout=wanted.timeout,
        )
        terminal = await self._terminals.create(order)
        self._audit(request, "terminal_create", terminal, shell=terminal.meta.shell)
        return json_response(terminal_of(terminal), 201)

    async def get(self, request: Request) -> Response:
        """Show one session."""
        return json_response(terminal_of(self._get(request)))

    async def change(self, request: Request) -> Response:
        """Rename or resize a session."""
        terminal = self._get(request)
        wanted = await read_json(request, TerminalChange, BODY_BYTES)
        _check_size(wanted.cols, wanted.rows)
        if wanted.session_id is not None:
            _check_name(wanted.session_id)
            await self._terminals.rename(terminal, wanted.session_id)
        if wanted.cols or wanted.rows:
            cols, rows = terminal.size
            terminal.resize(wanted.cols or cols, wanted.rows or rows)
        return json_response(terminal_of(terminal))

    async def close(self, request: Request) -> Response:
        """Hang a session up; remove one that has ended."""
        terminal = self._get(request)
        self._audit(request, "terminal_close", terminal)
        await until_disconnect(request, self._terminals.remove(terminal), self._stopping)
        return json_response({"message": "terminal closed"})

    async def type(self, request: Request) -> Response:
        """Type the raw body."""
        terminal = self._get(request)
        body = await read_body(request, INPUT_BYTES)
        terminal.type(body, caller(request))
        return json_response({"message": f"{len(body)} bytes typed"})

    async def screen(self, request: Request) -> Response:
        """Show the screen as text; `waitFor` waits until it holds a text."""
        terminal = self._get(request)
        query = query_of(request)
        history = asked(query, "history", 0, 2000)
        if text := query.get("waitFor", ""):
            seconds = asked(query, "timeout", 30, WAIT_MOST_SECONDS)
            wait = self._until_shown(terminal, text, seconds)
            await until_disconnect(request, wait, self._stopping)
        record = screen_of(terminal, await terminal.screen(), history)
        if query.get("format") == "text":
            lines = [*record.history, *record.lines]
            return Response("\n".join(lines) + "\n", media_type="text/plain")
        return json_response(record)

    async def _until_shown(self, terminal: Terminal, text: str, seconds: float) -> None:
        """Wait until the screen holds `text`, the shell has ended or time is up."""
        work = asyncio.ensure_future(until_shown(terminal, text))
        try:
            await asyncio.wait({work}, timeout=seconds)
        finally:
            work.cancel()

    async def output(self, request: Request) -> Response:
        """Stream what is shown as it was written, from an offset on, until the shell has ended."""
        terminal = self._get(request)
        self._audit(request, "terminal_output", terminal)
        cursor = query_of(request).get("cursor", "0")
        offset = whole("cursor", cursor)
        if offset > terminal.journal.tail:
            raise BadInput(f"cursor {offset} is beyond the end at {terminal.journal.tail}")
        follow = Follow(terminal.journal, offset, turns=self._turns, consumer="terminal")
        return StreamResponse(self._output(terminal, follow), "application/octet-stream")

    async def _output(self, terminal: Terminal, follow: Follow) -> AsyncIterator[bytes]:
        with closing(follow):
            async for data in raw_output(terminal, follow, PATIENCE_SECONDS):
                yield data

    async def recording(self, request: Request) -> Response:
        """Stream an asciicast of the session up to now."""
        terminal = self._get(request)
        self._audit(request, "terminal_recording", terminal)
        return StreamResponse(recording(terminal), "application/x-asciicast")

    def _audit(self, request: Request, action: str, terminal: Terminal, **extras: str) -> None:
        self._access.audit(action, caller(request), session_id=terminal.meta.name, **extras)


def _check_size(cols: int, rows: int) -> None:
    for number in (cols, rows):
        if not 0 <= number < 65536:
            raise BadInput("cols and rows must be between 0 and 65535")


def _check_name(name: str) -> None:
    if len(name) > NAME_CHARACTERS:
        raise BadInput(f"a session id has at most {NAME_CHARACTERS} characters")


def routes(handlers: TerminalHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    one = "/terminals/{identifier}"
    return [
        route("/terminals", handlers.list, need=USER),
        route("/terminals", handlers.create, "POST", need=USER),
        route(one, handlers.get, need=USER),
        route(one, handlers.change, "PATCH", need=USER),
        route(one, handlers.close, "DELETE", need=USER),
        route(one + "/input", handlers.type, "POST", need=USER),
        route(one + "/screen", handlers.screen, need=USER),
        route(one + "/output", handlers.output, need=USER),
        route(one + "/recording", handlers.recording, need=USER),
    ]
