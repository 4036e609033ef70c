"""Trees: `/filesystem/tree/{path}`, always absolute; and copies, which are trees as often."""

import asyncio
import re
from collections.abc import Generator
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.blaxel.files.content import FileHandlers
from sandkeeper.api.edge.conditional import conditions
from sandkeeper.api.edge.file_answers import GeneratedBody
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import json_response, utf8
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import path_route, route
from sandkeeper.api.edge.streaming import until_disconnect
from sandkeeper.api.edge.urls import raw_rest
from sandkeeper.api.schemas.encoding import DirectoryEncoder
from sandkeeper.api.schemas.files import CopyRequest, Success, TreeRequest
from sandkeeper.errors import BadInput
from sandkeeper.files.copies import Copies
from sandkeeper.files.paths import Target, resolve_tree
from sandkeeper.files.service import Files
from sandkeeper.files.trees import (
    DEFAULT_BYTES,
    DEFAULT_FILES,
    MAX_BYTES,
    MAX_FILES,
    Tree,
    TreeQuery,
    Trees,
)
from sandkeeper.files.work import Cancel
from sandkeeper.numerals import asked

__all__ = ["TreeHandlers", "routes"]

PREFIX = "/filesystem/tree"
# Names that only begin like it (`tree.txt`, an absolute `/filesystem%2Ftree…`) are plain files.
TREE = re.compile(rb"/+filesystem/tree(?:/|%2[Ff]|$)")


class TreeHandlers:
    """Handlers of trees and copies."""

    def __init__(
        self,
        *,
        files: Files,
        trees: Trees,
        copies: Copies,
        stopping: asyncio.Event,
        plain: FileHandlers,
    ) -> None:
        self._files = files
        self._trees = trees
        self._copies = copies
        self._work = files.work
        self._stopping = stopping
        self._plain = plain

    def _target(self, request: Request) -> Target:
        return resolve_tree(raw_rest(request.scope, PREFIX))

    async def get(self, request: Request) -> Response:
        """List one level, or with `recursive=true` everything, with contents if asked."""
        target = self._target(request)
        if query_of(request).get("recursive") != "true":
            return await self._work.run(self._one_level, target)
        query = _query(request)
        survey = self._work.walk(self._trees.survey, target.absolute, query)
        tree = await until_disconnect(request, survey, self._stopping)
        blocks = self._encode(target, tree)
        headers = {"Content-Type": "application/json; charset=utf-8"}
        return GeneratedBody(self._work, blocks, headers, blocks.close)

    def _one_level(self, target: Target) -> Response:
        self._trees.require_directory(target.absolute)
        return self._plain.directory(target)

    def _encode(self, target: Target, tree: Tree) -> Generator[bytes, None, None]:
        encoder = DirectoryEncoder(self._files.owners, target)
        return encoder.tree_blocks(self._trees.contents(tree), tree.directories)

    async def head(self, request: Request) -> Response:
        """Tell what is there, as HEAD of the path itself does."""
        return await self._work.run(self._plain.describe, self._target(request).absolute)

    async def put(self, request: Request) -> Response:
        """Write many files, all staged before the first is put in place."""
        target = self._target(request)
        body = await read_json(request, TreeRequest, self._files.settings.write_limit)
        contents = {name: text or "" for name, text in body.files.items()}
        return await until_disconnect(
            request, self._work.walk(self._write, target, contents), self._stopping
        )

    def _write(self, target: Target, contents: dict[str, str], cancel: Cancel) -> Response:
        self._trees.write(target.absolute, contents, cancel)
        return self._plain.directory(target)

    async def delete(self, request: Request) -> Response:
        """Delete a directory."""
        target = self._target(request)
        recursive = query_of(request).get("recursive") == "true"
        delete = self._work.walk(self._trees.delete, target.absolute, recursive)
        await until_disconnect(request, delete, self._stopping)
        return json_response(
            Success(path=utf8(target.display), message="Directory deleted successfully")
        )

    async def copy(self, request: Request) -> Response:
        """Copy as `cp -r` does; `noOverwrite` creates everything exclusively."""
        source, destination, body = await self._pair(request)
        copy = partial(self._copies.copy, source.absolute, destination.absolute, body.noOverwrite)
        path = await until_disconnect(request, self._work.walk(copy), self._stopping)
        return json_response(Success(path=utf8(path), message="Copied successfully"))

    async def move(self, request: Request) -> Response:
        """Move as `mv` does, but never merge."""
        source, destination, body = await self._pair(request)
        paths = source.absolute, destination.absolute
        move = partial(self._copies.move, *paths, body.noOverwrite, conditions(request))
        path = await until_disconnect(request, self._work.walk(move), self._stopping)
        return json_response(Success(path=utf8(path), message="Moved successfully"))

    async def _pair(self, request: Request) -> tuple[Target, Target, CopyRequest]:
        body = await read_json(request, CopyRequest, self._files.settings.write_limit)
        if not body.source or not body.destination:
            raise BadInput("source and destination are required")
        resolve = self._files.resolve_text
        return resolve(body.source), resolve(body.destination), body


def _query(request: Request) -> TreeQuery:
    query = query_of(request)
    return TreeQuery(
        content=query.get("content") == "true",
        patterns=_list(query.get("patterns", "")),
        exclude_directories=frozenset(_list(query.get("excludeDirs", ""))),
        exclude_hidden=query.get("excludeHidden") == "true",
        max_files=asked(query, "maxFiles", DEFAULT_FILES, MAX_FILES),
        max_bytes=asked(query, "maxBytes", DEFAULT_BYTES, MAX_BYTES),
    )


def _list(text: str) -> tuple[str, ...]:
    return tuple(item for part in text.split(",") if (item := part.strip()))


def routes(handlers: TreeHandlers) -> list[BaseRoute]:
    """Return the routes of this area; they stand before those of plain files."""
    return [
        path_route(PREFIX, handlers.get, raw_pattern=TREE, need=USER),
        path_route(PREFIX, handlers.head, "HEAD", raw_pattern=TREE, need=USER),
        path_route(PREFIX, handlers.put, "PUT", raw_pattern=TREE, need=USER),
        path_route(PREFIX, handlers.delete, "DELETE", raw_pattern=TREE, need=USER),
        route("/filesystem-copy", handlers.copy, "POST", need=USER),
        route("/filesystem-move", handlers.move, "POST", need=USER),
    ]
