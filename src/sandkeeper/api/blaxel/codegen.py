"""Code editing for agents: fast apply and reranking."""

import math
import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import json_response, utf8
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import empty_head, path_route
from sandkeeper.api.edge.streaming import until_disconnect
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.edge.urls import raw_rest
from sandkeeper.api.schemas.codegen import (
    ApplyEditRequest,
    ApplyEditResponse,
    RankedFile,
    RerankingResponse,
)
from sandkeeper.codegen.service import DEFAULT_THRESHOLD, DEFAULT_TOKENS
from sandkeeper.errors import BadInput
from sandkeeper.files.paths import Target
from sandkeeper.sandbox import Sandbox

__all__ = ["routes"]

APPLY = "/codegen/fastapply"
RERANK = "/codegen/reranking"
_WRITTEN = re.compile(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?")


class CodegenHandlers:
    """Handlers over the code tools."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._codegen = sandbox.codegen
        self._stopping = sandbox.stopping

    async def apply(self, request: Request) -> Response:
        """Merge an edit into a file."""
        self._codegen.require()
        target = self._target(request, APPLY)
        settings = self._sandbox.settings
        body = await read_json(request, ApplyEditRequest, settings.body_limit)
        if not body.code_edit:
            raise BadInput("invalid request body: codeEdit is required")
        self._sandbox.access.audit("codegen_fastapply", caller(request), path=target.display)
        done = await until_disconnect(
            request, self._codegen.apply(target, body.code_edit, body.model), self._stopping
        )
        return json_response(
            ApplyEditResponse(
                success=True,
                path=utf8(done.path),
                original_content=done.original,
                updated_content=done.updated,
                provider=done.provider,
                message="Code edit applied successfully",
            )
        )

    async def rerank(self, request: Request) -> Response:
        """Rank the files below a folder by relevance to a query."""
        self._codegen.require()
        target = self._target(request, RERANK)
        query = request.query_params.get("query", "")
        if not query:
            raise BadInput("query parameter is required")
        threshold = _number(request, "scoreThreshold") or DEFAULT_THRESHOLD
        token_limit = int(_number(request, "tokenLimit", whole=True)) or DEFAULT_TOKENS
        self._sandbox.access.audit("codegen_reranking", caller(request), path=target.display)
        ranked = await until_disconnect(
            request,
            self._codegen.rerank(
                target,
                query,
                threshold=threshold,
                token_limit=token_limit,
                pattern=request.query_params.get("filePattern", ""),
            ),
            self._stopping,
        )
        if not ranked.candidates:
            message = "No files found matching criteria"
        else:
            message = f"Found {len(ranked.files)} relevant files"
        files = [RankedFile(item.path, item.content, item.score) for item in ranked.files]
        return json_response(RerankingResponse(True, files, message, ranked.truncated))

    def _target(self, request: Request, prefix: str) -> Target:
        return self._sandbox.files.resolve(raw_rest(request.scope, prefix))


def _number(request: Request, name: str, *, whole: bool = False) -> float:
    """Read a number of the query; 0 when absent; raises BadInput."""
    text = request.query_params.get(name, "")
    if not text:
        return 0
    if not _WRITTEN.fullmatch(text):  # Python's own idea of a number is wider
        raise BadInput(f"invalid {name}: {text!r} is not a number")
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        raise BadInput(f"invalid {name}: {text!r} is not a number") from None
    if not math.isfinite(value) or value < 0 or value > 1 << 40:
        raise BadInput(f"invalid {name}: {text!r} is out of range")
    return value


def routes(sandbox: Sandbox) -> list[BaseRoute]:
    """Return the routes of this area."""
    handlers = CodegenHandlers(sandbox)
    return [
        path_route(APPLY, handlers.apply, "PUT", need=USER),
        path_route(RERANK, handlers.rerank, "GET", need=USER),
        path_route(RERANK, empty_head, "HEAD", need=USER),
    ]
