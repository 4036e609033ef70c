"""The routes of the wire, and how those who ask for a port of a code interpreter come to them.

Its clients know one by its port: E2B's 49999, Blaxel's 8888 (`/port/8888/execute`). Where no
server of the sandbox listens on that port, this one answers.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.code_wires.calls import CodeCalls
from sandkeeper.api.edge.respond import not_found
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import Handler, route
from sandkeeper.api.edge.urls import asked_port

__all__ = ["routes"]


def routes(calls: CodeCalls, *, at_root: bool) -> list[BaseRoute]:
    """Return the routes; unless `at_root` only those find them who ask for a port of this wire."""

    def bound(call: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            if not (at_root or asked_port(request.scope)):
                return not_found()
            return await calls.answer(call, request)

        return answer

    return [
        route("/execute", bound(calls.execute), "POST", need=USER),
        route("/contexts", bound(calls.list), need=USER),
        route("/contexts", bound(calls.create), "POST", need=USER),
        route("/contexts/{id}", bound(calls.remove), "DELETE", need=USER),
        route("/contexts/{id}/restart", bound(calls.restart), "POST", need=USER),
    ]
