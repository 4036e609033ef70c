"""Watching: a live stream of changes, and what changed since a cursor."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.respond import encode_json, json_response, utf8
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import empty_head, path_route
from sandkeeper.api.edge.streaming import StreamResponse
from sandkeeper.api.edge.urls import raw_rest
from sandkeeper.api.schemas.watch import ChangesResponse, WatchEvent
from sandkeeper.files.paths import Target, located
from sandkeeper.files.service import Files
from sandkeeper.journal.lines import KEEPALIVE_SECONDS
from sandkeeper.journal.turns import Turns
from sandkeeper.watch.changes import Changes
from sandkeeper.watch.service import Block, Change, Watch, Watches
from sandkeeper.watch.watcher import Scope as WatchScope

__all__ = ["WatchHandlers", "routes"]

WATCH, CHANGES = "/watch/filesystem", "/filesystem-changes"
HEARTBEAT = b"[keepalive]\n"


class WatchStream(StreamResponse):
    """The lines of one watch. The watch ends with the stream, and the stream with the watch."""

    def __init__(self, watches: Watches, watch: Watch, turns: Turns) -> None:
        super().__init__(_lines(watch, turns), "text/plain; charset=utf-8")
        self._release = partial(watches.release, watch)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until either side ends."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self._release())


async def _lines(watch: Watch, turns: Turns) -> AsyncIterator[bytes]:
    """Yield lines as they come, and a heartbeat after every silence; never a heartbeat at once."""
    while (block := await watch.take(KEEPALIVE_SECONDS)) is not None:
        await turns.take()
        yield _encoded(block) or HEARTBEAT


def _encoded(block: Block) -> bytes:
    """Encode a block once, whoever reads it."""
    if block.encoded is None:
        block.encoded = b"".join(map(_line, block))
    return block.encoded


def _line(change: Change) -> bytes:
    name = change.name.decode("utf-8", "replace")
    directory = change.directory.decode("utf-8", "replace")
    return encode_json(WatchEvent(change.how, name, directory)) + b"\n"


class WatchHandlers:
    """Handlers of both."""

    def __init__(self, *, watches: Watches, changes: Changes, turns: Turns, files: Files) -> None:
        self._watches = watches
        self._changes = changes
        self._turns = turns
        self._files = files

    async def watch(self, request: Request) -> Response:
        """Open a watch and stream it."""
        target = self._target(request, WATCH)
        recursive = target.display.endswith("/**")
        if recursive:
            display = target.display.removesuffix("**")
            target = located(display, workdir=self._files.workdir)
        scope = WatchScope(target.absolute, recursive, _ignored(request))
        watches = self._watches
        return WatchStream(watches, await watches.watch(scope), self._turns)

    async def changes(self, request: Request) -> Response:
        """Tell what changed since a cursor."""
        target = self._target(request, CHANGES)
        scope = WatchScope(target.absolute, True, _ignored(request))
        cursor = query_of(request).get("since", "")
        answer = await self._changes.since(scope, cursor)
        response = ChangesResponse(
            utf8(target.shown),
            answer.cursor,
            answer.reset,
            _texts(answer.created),
            _texts(answer.changed),
            _texts(answer.deleted),
        )
        return json_response(response)

    def _target(self, request: Request, prefix: str) -> Target:
        return self._files.resolve(raw_rest(request.scope, prefix))


def _ignored(request: Request) -> tuple[str, ...]:
    """Read the texts to ignore: neither trimmed nor patterns, as the contract has it."""
    texts = query_of(request).get("ignore", "").split(",")
    return tuple(text for text in texts if text)


def _texts(paths: list[bytes]) -> list[str]:
    return [path.decode("utf-8", "replace") for path in paths]


def routes(handlers: WatchHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        path_route(WATCH, handlers.watch, need=USER),
        path_route(WATCH, empty_head, "HEAD", need=USER),
        path_route(CHANGES, handlers.changes, need=USER),
        path_route(CHANGES, empty_head, "HEAD", need=USER),
    ]
