"""Standard input of processes: `/process/{identifier}/stdin`."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.request_body import read_body
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.urls import segment
from sandkeeper.errors import Conflict, TooLarge
from sandkeeper.log.access import Access
from sandkeeper.processes.registry import Processes
from sandkeeper.processes.stdin import STDIN_BODY_BYTES, Stdin, StdinFull

__all__ = ["routes"]


class StdinHandlers:
    """Handlers over processes that were started with `stdin`."""

    def __init__(self, processes: Processes, access: Access) -> None:
        self._processes = processes
        self._access = access

    async def write(self, request: Request) -> Response:
        """Write the raw body to the process's standard input."""
        stdin = self._stdin(request)
        try:
            body = await read_body(request, STDIN_BODY_BYTES)
        except TooLarge:
            raise TooLarge(f"stdin data is larger than {STDIN_BODY_BYTES} bytes") from None
        self._access.audit(
            "process_stdin_write",
            caller(request),
            identifier=segment(request.scope, 1),
            bytes=len(body),
        )
        try:
            await stdin.write(body)
        except StdinFull as error:
            # Additive: how much of it, so that a client can go on where it stopped.
            return json_response({"error": str(error), "written": error.written}, 503)
        return json_response({"message": f"{len(body)} bytes written to stdin"})

    async def close(self, request: Request) -> Response:
        """Send end of file; doing it again is fine."""
        stdin = self._stdin(request)
        self._access.audit(
            "process_stdin_close", caller(request), identifier=segment(request.scope, 1)
        )
        stdin.close()
        return json_response({"message": "stdin closed"})

    def _stdin(self, request: Request) -> Stdin:
        process = self._processes.get(segment(request.scope, 1))
        if process.stdin is None:
            raise Conflict("the process was started without stdin")
        return process.stdin


def routes(processes: Processes, access: Access) -> list[BaseRoute]:
    """Return the routes of this area."""
    handlers, path = StdinHandlers(processes, access), "/process/{identifier}/stdin"
    return [
        route(path, handlers.write, "POST", need=USER),
        route(path, handlers.close, "DELETE", need=USER),
    ]
