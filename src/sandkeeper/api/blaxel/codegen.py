"""Code editing for agents: fast apply and reranking."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.query import query_of
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
from sandkeeper.codegen.service import DEFAULT_THRESHOLD, DEFAULT_TOKENS, Codegen
from sandkeeper.errors import BadInput
from sandkeeper.files.paths import Target
from sandkeeper.files.service import Files
from sandkeeper.log.access import Access
from sandkeeper.numerals import decimal, natural

__all__ = ["CodegenHandlers", "routes"]

APPLY = "/codegen/fastapply"
RERANK = "/codegen/reranking"


class CodegenHandlers:
    """Handlers over the code tools."""

    def __init__(
        self,
        *,
        codegen: Codegen,
        files: Files,
        access: Access,
        stopping: asyncio.Event,
        body_limit: int,
    ) -> None:
        self._codegen = codegen
        self._files = files
        self._stopping = stopping
        self._access = access
        self._body_limit = body_limit

    async def apply(self, request: Request) -> Response:
        """Merge an edit into a file."""
        self._codegen.require()
        target = self._target(request, APPLY)
        body = await read_json(request, ApplyEditRequest, self._body_limit)
        if not body.code_edit:
            raise BadInput("invalid request body: codeEdit is required")
        self._access.audit("codegen_fastapply", caller(request), path=target.display)
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
        query = query_of(request).get("query", "")
        if not query:
            raise BadInput("query parameter is required")
        threshold = _number(request, "scoreThreshold") or DEFAULT_THRESHOLD
        token_limit = int(_number(request, "tokenLimit", whole=True)) or DEFAULT_TOKENS
        self._access.audit("codegen_reranking", caller(request), path=target.display)
        ranked = await until_disconnect(
            request,
            self._codegen.rerank(
                target,
                query,
                threshold=threshold,
                token_limit=token_limit,
                pattern=query_of(request).get("filePattern", ""),
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
        return self._files.resolve(raw_rest(request.scope, prefix))


def _number(request: Request, name: str, *, whole: bool = False) -> float:
    """Read a number of the query; 0 when absent; raises BadInput."""
    text = query_of(request).get(name, "")
    if not text:
        return 0
    value = natural(text.removeprefix("+")) if whole else decimal(text)
    if value is None:
        raise BadInput(f"invalid {name}: {text!r} is not a number")
    if not 0 <= value <= 1 << 40:
        raise BadInput(f"invalid {name}: {text!r} is out of range")
    return value


def routes(handlers: CodegenHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        path_route(APPLY, handlers.apply, "PUT", need=USER),
        path_route(RERANK, handlers.rerank, "GET", need=USER),
        path_route(RERANK, empty_head, "HEAD", need=USER),
    ]
