"""sandboxd's REST: files, health, metadata (KEP-539.2, `filesystem.yaml`)."""

import re
from collections.abc import Callable, Mapping
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.bodies.coding import inflated, is_gzip
from sandkeeper.api.edge.bodies.forms import form_parts, is_form
from sandkeeper.api.edge.connections.wire import blocks_of
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.respond import json_response, utf8
from sandkeeper.api.edge.rights import OPEN, USER, Need
from sandkeeper.api.edge.routing import path_route, route
from sandkeeper.api.edge.urls import raw_rest
from sandkeeper.api.kubernetes.files import SandboxFiles, name_of
from sandkeeper.api.kubernetes.words import in_words
from sandkeeper.errors import BadInput
from sandkeeper.log.redaction import is_secret

__all__ = ["SandboxdHandlers", "routes"]

FILES = "/v1/files"
OURS = Need(USER.right, own_words=True)
TOLD = "SANDBOX_"
CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "CONFLICT",
    413: "RESOURCE_EXHAUSTED",
    422: "FAILED_PRECONDITION",
    503: "UNAVAILABLE",
    507: "RESOURCE_EXHAUSTED",
}
TRUE, FALSE = frozenset({"true", "t", "1"}), frozenset({"", "false", "f", "0"})
_MODE = re.compile(r"0[0-7]{3}")


class SandboxdHandlers:
    """Handlers of `/v1`; `is_serving` says whether the server is ready, `variables` what the
    workload inherits.
    """

    def __init__(
        self,
        *,
        files: SandboxFiles,
        is_serving: Callable[[], bool],
        uptime: Callable[[], float],
        variables: Callable[[], Mapping[str, str]],
    ) -> None:
        self._files = files
        self._is_serving = is_serving
        self._variables = variables
        self._uptime = uptime

    async def get(self, request: Request) -> Response:
        """Send a file, or list a folder."""
        return await self._files.send(self._name(request), request, folders=True)

    async def head(self, request: Request) -> Response:
        """Say whether something is there."""
        return await self._files.describe(self._name(request))

    async def put(self, request: Request) -> Response:
        """Write a file: the body, or the part `file` of a form."""
        name = self._name(request)
        text = query_of(request).get("mode", "") or "0644"
        if not _MODE.fullmatch(text):
            raise BadInput(f"invalid mode: {text[:16]!r} is not like 0644")
        mode = int(text, 8)
        if is_form(request):
            await self._put_form(request, name, mode)
        else:
            async with aclosing(blocks_of(request)) as blocks:
                data = inflated(blocks) if is_gzip(request) else blocks
                await self._files.write(name, data, mode)
        return Response(None, 204)

    async def _put_form(self, request: Request, name: str, mode: int) -> None:
        found = False
        async with aclosing(form_parts(request)) as parts:
            async for part in parts:
                if part.name == "file" and not found:
                    found = True
                    await self._files.write(name, aiter(part), mode)
        if not found:
            raise BadInput("the form has no part 'file'")

    async def delete(self, request: Request) -> Response:
        """Remove a file or a folder."""
        text = query_of(request).get("recursive", "").lower()
        if text not in TRUE | FALSE:
            raise BadInput(f"invalid recursive: {text[:16]!r} is neither true nor false")
        await self._files.remove(self._name(request), recursive=text in TRUE)
        return Response(None, 204)

    async def health(self, _request: Request) -> Response:
        """Say whether the server is ready."""
        if not self._is_serving():
            return _failed(503, "starting or stopping")
        return json_response({"status": "ok", "uptime_seconds": int(self._uptime())})

    async def metadata(self, _request: Request) -> Response:
        """Tell what the orchestrator has given: variables whose names begin so, but no secrets."""
        told = {
            name: utf8(value)
            for name, value in sorted(self._variables().items())
            if name.startswith(TOLD) and not is_secret(name)
        }
        return json_response({"env": told})

    def _name(self, request: Request) -> str:
        return name_of(raw_rest(request.scope, FILES))


def _failed(status: int, message: str) -> Response:
    return json_response({"code": CODES.get(status, "INTERNAL"), "message": message}, status)


def routes(handlers: SandboxdHandlers) -> list[BaseRoute]:
    """Return the routes of this wire."""
    methods = {"GET": handlers.get, "HEAD": handlers.head, "PUT": handlers.put}
    methods["DELETE"] = handlers.delete
    return [
        *(
            path_route(FILES, in_words(one, _failed), name, need=OURS)
            for name, one in methods.items()
        ),
        route("/v1/health", handlers.health, need=OPEN),
        route("/v1/metadata", in_words(handlers.metadata, _failed), need=OURS),
    ]
