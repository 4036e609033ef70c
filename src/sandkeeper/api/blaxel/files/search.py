"""Searching: by pattern, by fuzzy query, by content."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.respond import encode_json, json_response, utf8
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import Handler, empty_head, path_route
from sandkeeper.api.edge.streaming import until_disconnect
from sandkeeper.api.edge.urls import raw_rest
from sandkeeper.api.schemas.search import (
    ContentMatch,
    ContentSearchResponse,
    FindMatch,
    FindResponse,
    FuzzyMatch,
    FuzzySearchResponse,
)
from sandkeeper.errors import BadInput
from sandkeeper.files.paths import Target
from sandkeeper.files.service import Files
from sandkeeper.numerals import asked
from sandkeeper.search.content import ContentQuery, ContentSearch, MatchingLine
from sandkeeper.search.find import EXCLUDED, FileSearch, Names, TreeFilter

__all__ = ["SearchHandlers", "routes"]

MAX_RESULTS = 1000
MAX_CONTEXT = 20
MAX_LISTED = 1000
_UNESCAPED = re.compile(rb"[A-Za-z0-9 !#$%'()*+,./:;=?@\[\]^_`{|}~-]*").fullmatch
FIND, FUZZY, CONTENT = "/filesystem-find", "/filesystem-search", "/filesystem-content-search"


class SearchHandlers:
    """Handlers of the three searches."""

    def __init__(
        self, *, search: FileSearch, grep: ContentSearch, files: Files, stopping: asyncio.Event
    ) -> None:
        self._search = search
        self._grep = grep
        self._files = files
        self.stopping = stopping

    async def find(self, request: Request) -> Response:
        """Find by pattern; without a limit the reply is streamed."""
        query = query_of(request)
        kind = query.get("type", "") or "file"
        if kind not in {"file", "directory"}:
            raise BadInput(f"invalid search type: {kind}")
        limit = asked(query_of(request), "maxResults", 20, MAX_RESULTS)
        tree = _tree(request, self._target(request, FIND).absolute)
        found = self._search.find(tree, directories=kind == "directory", limit=limit)
        if not limit:
            return await _streamed(found, kind)
        matches = [match async for batch in found for match in _matches(batch, kind)]
        return json_response(FindResponse(matches, len(matches)))

    async def fuzzy(self, request: Request) -> Response:
        """Rank by a fuzzy query; without one the path is the query."""
        target = self._target(request, FUZZY)
        query = query_of(request).get("query", "")
        limit = asked(query_of(request), "maxResults", 20, MAX_RESULTS)
        if (
            not query
            and target.display in {".", "/"}
            and b"%2F" not in raw_rest(request.scope, FUZZY)
        ):
            raise BadInput("query parameter is required in path")
        tree = _tree(request, target.absolute)
        found = await self._search.fuzzy(
            tree,
            query or target.display,
            limit,
            otherwise="" if query else self._files.workdir,
        )
        matches = [
            FuzzyMatch(each.path, each.score, "directory" if each.is_directory else "file")
            for each in found
        ]
        return json_response(FuzzySearchResponse(matches, len(matches)))

    async def content(self, request: Request) -> Response:
        """Search the contents of files for a literal text."""
        given = query_of(request)
        text = given.get("query", "")
        if not text:
            raise BadInput("query parameter is required")
        query = ContentQuery(
            text,
            self._content_root(request),
            case_sensitive=given.get("caseSensitive") == "true",
            limit=asked(given, "maxResults", 100, MAX_RESULTS),
            pattern=given.get("filePattern", ""),
            excluded=_excluded(request),
            context=asked(given, "contextLines", 0, MAX_CONTEXT),
            recursive=given.flag("recursive", default=True),
        )
        lines = await self._grep.search(query)
        matches = [_content_match(line) for line in lines]
        return json_response(ContentSearchResponse(utf8(text), matches, len(matches)))

    def _content_root(self, request: Request) -> str:
        """Return the directory; `//` is the working directory here, an encoded slash the root."""
        target = self._target(request, CONTENT)
        if target.display == "/" and b"%2F" not in raw_rest(request.scope, CONTENT):
            return self._files.workdir
        return target.absolute

    def _target(self, request: Request, prefix: str) -> Target:
        return self._files.resolve(raw_rest(request.scope, prefix))


def _listed(request: Request, name: str) -> list[str]:
    parts = query_of(request).get(name, "").split(",", MAX_LISTED)
    if len(parts) > MAX_LISTED:
        raise BadInput(f"{name} has more than {MAX_LISTED} entries")
    return [part.strip() for part in parts if part.strip()]


def _excluded(request: Request) -> frozenset[str]:
    """Read the directories to leave out; an empty parameter is the default, `,` is none."""
    if not query_of(request).get("excludeDirs", ""):
        return EXCLUDED
    return frozenset(_listed(request, "excludeDirs"))


def _tree(request: Request, root: str) -> TreeFilter:
    return TreeFilter(
        root,
        patterns=tuple(_listed(request, "patterns")),
        excluded=_excluded(request),
        hidden=query_of(request).get("excludeHidden", "") not in {"", "true"},
    )


def _text(path: bytes) -> str:
    return path.decode("utf-8", "replace")


def _content_match(line: MatchingLine) -> ContentMatch:
    hit = line.hit
    match = ContentMatch(_text(line.path), hit.line, hit.column, _text(hit.text))
    if line.context is not None:
        match.context = _text(line.context)
    return match


async def _streamed(found: AsyncGenerator[list[Names], None], kind: str) -> Response:
    """Answer with all matches, batch by batch; what is wrong with the root shows before."""
    first: list[Names] = await anext(found, [])

    async def body() -> AsyncIterator[bytes]:
        count = sum(len(names) for _, names in first)
        yield b'{"matches":[' + await asyncio.to_thread(_encoded, first, kind)
        async with aclosing(found):
            async for batch in found:
                yield b"," + await asyncio.to_thread(_encoded, batch, kind)
                count += sum(len(names) for _, names in batch)
        yield b'],"total":%d}' % count

    return StreamingResponse(body(), media_type="application/json; charset=utf-8")


def _matches(batch: list[Names], kind: str) -> Iterator[FindMatch]:
    for prefix, names in batch:
        for name in names:
            yield FindMatch(_text(prefix + name), kind)


def _encoded(batch: list[Names], kind: str) -> bytes:
    """Encode matches without the brackets around them.

    Where no character needs an escape, and few names have one, those of a directory only need the
    same text between them: a tenth of the time.
    """
    end = b'","type":"' + kind.encode() + b'"}'
    parts: list[bytes] = []
    for prefix, names in batch:
        if _UNESCAPED(prefix) and _UNESCAPED(b"".join(names)):
            begin = b'{"path":"' + prefix
            parts.append(begin + (end + b"," + begin).join(names) + end)
        else:
            parts.append(encode_json(list(_matches([(prefix, names)], kind)))[1:-1])
    return b",".join(parts)


def _while_wanted(handler: Handler, stopping: asyncio.Event) -> Handler:
    """Give a handler up when its client goes or the server stops."""

    async def handle(request: Request) -> Response:
        return await until_disconnect(request, handler(request), stopping)

    return handle


def routes(handlers: SearchHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    made: list[BaseRoute] = []
    for prefix, handler in (
        (FIND, handlers.find),
        (FUZZY, handlers.fuzzy),
        (CONTENT, handlers.content),
    ):
        made.append(path_route(prefix, _while_wanted(handler, handlers.stopping), need=USER))
        made.append(path_route(prefix, empty_head, "HEAD", need=USER))
    return made
