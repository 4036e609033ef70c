"""agent-sandbox's python-runtime: five routes of plain HTTP, on a port of their own."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.bodies.forms import form_parts, is_form
from sandkeeper.api.edge.long_answers import long_answer
from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import json_response, utf8
from sandkeeper.api.edge.rights import OPEN, USER, Need
from sandkeeper.api.edge.routing import path_route, route
from sandkeeper.api.edge.streaming import until_disconnect
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.urls import raw_rest
from sandkeeper.api.kubernetes.files import SandboxFiles, name_of
from sandkeeper.api.kubernetes.runs import OUTPUT_BYTES, Runs, exit_code
from sandkeeper.api.kubernetes.words import in_words
from sandkeeper.errors import BadInput, Unprocessable
from sandkeeper.journal.output import read_long_texts
from sandkeeper.journal.turns import Turns

__all__ = ["RuntimeHandlers", "routes"]

PREFIX = "/python-runtime"
OURS = Need(USER.right, own_words=True)
TIMED_OUT_CODE = 124  # timeout(1)
SECONDS_MOST = 86400.0


class CommandRequest(msgspec.Struct):
    """The body of `/execute`; the time in seconds."""

    command: str = ""
    timeout_seconds: float | None = None


class RuntimeHandlers:
    """Handlers of the routes."""

    def __init__(
        self,
        *,
        runs: Runs,
        files: SandboxFiles,
        turns: Turns,
        stopping: asyncio.Event,
        body_limit: int,
    ) -> None:
        self._turns = turns
        self._stopping = stopping
        self._runs = runs
        self._files = files
        self._body_limit = body_limit

    async def health(self, _request: Request) -> Response:
        """Say that the server answers."""
        return json_response({"status": "ok", "message": "sandkeeper is running"})

    async def execute(self, request: Request) -> Response:
        """Run a command in a shell and answer with all it wrote."""
        wanted = await read_json(request, CommandRequest, self._body_limit)
        seconds = wanted.timeout_seconds
        if not wanted.command:
            raise BadInput("command is required")
        if seconds is not None and not (0 < seconds <= SECONDS_MOST and math.isfinite(seconds)):
            raise BadInput(f"timeout_seconds: a number of seconds up to {SECONDS_MOST:g}")
        words = ["/bin/sh", "-c", wanted.command]
        try:
            process = await self._runs.start(words, caller(request), seconds=seconds)
        except Unprocessable as error:  # this wire tells it as the end of a command
            return json_response({"stdout": "", "stderr": utf8(str(error)), "exit_code": 1})
        await until_disconnect(request, process.wait(), self._stopping)
        journal, late = process.journal, process.timed_out
        said = f"Command timed out after {seconds:g} seconds\n" if late else ""
        code = TIMED_OUT_CODE if late else exit_code(process)
        return await long_answer(
            request.scope,
            2 * min(2 * OUTPUT_BYTES, journal.kept),
            partial(read_long_texts, journal, OUTPUT_BYTES),
            lambda texts: {
                "stdout": texts.stdout,
                "stderr": texts.stderr + said,
                "exit_code": code,
                "timed_out": late,
            },
            self._turns,
        )

    async def upload(self, request: Request) -> Response:
        """Write the file of a form; its file name is the path."""
        if not is_form(request):
            raise BadInput("send multipart/form-data with the part 'file'")
        written = ""
        async with aclosing(form_parts(request)) as parts:
            async for part in parts:
                if part.name == "file" and part.filename and not written:
                    await self._files.write(part.filename, aiter(part))
                    written = part.filename
        if not written:
            raise BadInput("the form has no part 'file' with a file name")
        return json_response({"message": f"File '{utf8(written)}' uploaded successfully."})

    async def download(self, request: Request) -> Response:
        """Send a file."""
        return await self._files.send(self._name(request, "/download"), request)

    async def list(self, request: Request) -> Response:
        """List a folder."""
        return await self._files.listing(self._name(request, "/list"), old=True)

    async def exists(self, request: Request) -> Response:
        """Say whether something is there."""
        name = self._name(request, "/exists")
        return json_response({"path": utf8(name), "exists": await self._files.exists(name)})

    def _name(self, request: Request, route: str) -> str:
        return name_of(raw_rest(request.scope, PREFIX + route))


def _failed(status: int, message: str) -> Response:
    return json_response({"message": message, "error": message}, status)


def routes(handlers: RuntimeHandlers) -> list[BaseRoute]:
    """Return the routes; what came in at their port has the prefix from the edge."""
    reads: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/download": handlers.download,
        "/list": handlers.list,
        "/exists": handlers.exists,
    }
    return [
        route(PREFIX + "/", handlers.health, need=OPEN),
        route(PREFIX + "/execute", in_words(handlers.execute, _failed), "POST", need=OURS),
        route(PREFIX + "/upload", in_words(handlers.upload, _failed), "POST", need=OURS),
        *(path_route(PREFIX + at, in_words(one, _failed), need=OURS) for at, one in reads.items()),
    ]
