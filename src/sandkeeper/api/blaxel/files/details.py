"""Entries of a directory to any depth, with where links lead and extended attributes."""

import base64
import posixpath
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.file_answers import GeneratedBody
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.respond import encode_json, utf8
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import path_route
from sandkeeper.api.edge.urls import raw_rest
from sandkeeper.api.schemas.files import Entry
from sandkeeper.blocks import gathered
from sandkeeper.errors import BadInput, NoDirectory, NotFound, Unprocessable, failure
from sandkeeper.files.details import DEPTH_MOST, Detail, detail, details, page
from sandkeeper.files.entries import Owners, file_type, unix_mode
from sandkeeper.files.paths import Target
from sandkeeper.files.service import Files
from sandkeeper.linux.clocks import rfc3339
from sandkeeper.linux.paths import useros as os
from sandkeeper.numerals import asked

__all__ = ["DetailHandlers", "attributes_of", "routes"]

ENTRIES = "/filesystem-entries"
BLOCK_BYTES = 64 << 10
PAGE_MOST = 10_000


def attributes_of(found: Detail) -> dict[str, Any]:
    """Return extended attributes as JSON has them: texts, or `{"base64": …}` for other bytes."""
    made: dict[str, Any] = {}
    for name, value in found.attributes.items():
        try:
            made[utf8(name)] = value.decode()
        except UnicodeDecodeError:
            made[utf8(name)] = {"base64": base64.b64encode(value).decode()}
    return made


def _entry(found: Detail, owners: Owners) -> Entry:
    info = found.info
    name = posixpath.basename(found.path)
    shown = utf8(name)
    return Entry(
        path=utf8(found.path),
        name=shown,
        type=file_type(info.st_mode),
        size=info.st_size,
        permissions=unix_mode(info.st_mode),
        owner=owners.user(info.st_uid),
        group=owners.group(info.st_gid),
        lastModified=rfc3339(info.st_mtime_ns),
        target=utf8(found.target) if found.is_link else UNSET,
        targetType=file_type(found.reached) if found.is_link and found.reached else UNSET,
        link=utf8(found.link) if found.is_link else UNSET,
        attributes=attributes_of(found) or UNSET,
        encodedName=UNSET if shown == name else _encoded(os.fsencode(name)),
    )


def _encoded(name: bytes) -> str:
    """Write a name as it stands in an address."""
    return quote(name, safe="")


class DetailHandlers:
    """Handlers of `/filesystem-entries/…`."""

    def __init__(self, *, files: Files) -> None:
        self._files = files
        self._work = files.work

    async def entries(self, request: Request) -> Response:
        """List a directory, `depth` levels of it (0: all), or with `limit` a page of one level."""
        target = self._files.resolve(raw_rest(request.scope, ENTRIES))
        query = query_of(request)
        depth = asked(query, "depth", 1, DEPTH_MOST)
        limit = asked(query, "limit", 0, PAGE_MOST)
        if limit and depth != 1:
            raise BadInput("limit: only a listing of one level (depth=1) comes in pages")
        await self._work.run(self._check, target)
        after = unquote_to_bytes(query.get("after", ""))
        listed = self._page(target, after, limit) if limit else self._listed(target, depth)
        blocks = gathered(listed, BLOCK_BYTES)
        headers = {"Content-Type": "application/json; charset=utf-8"}
        return GeneratedBody(self._work, blocks, headers)

    def _check(self, target: Target) -> None:
        try:
            found = detail(target.absolute)
        except FileNotFoundError as error:
            raise failure(NotFound, None, "stat", target.absolute, error) from None
        except (OSError, ValueError) as error:
            raise failure(Unprocessable, None, "stat", target.absolute, error) from None
        if found.reached is None or file_type(found.reached) != "directory":
            raise NoDirectory()

    def _listed(self, target: Target, depth: int) -> Iterator[bytes]:
        yield b'{"path":' + encode_json(utf8(target.shown)) + b',"entries":['
        yield from self._encoded(details(target.absolute, depth))
        yield b"]}"

    def _page(self, target: Target, after: bytes, limit: int) -> Iterator[bytes]:
        found = page(target.absolute, after, limit)
        head = {"path": utf8(target.shown), "total": found.total, "next": _encoded(found.last)}
        yield encode_json(head)[:-1] + b',"entries":['
        yield from self._encoded(found.entries)
        yield b"]}"

    def _encoded(self, entries: Iterable[Detail]) -> Iterator[bytes]:
        owners = self._files.owners
        owners.refresh()
        before = b""
        for found in entries:
            yield before + encode_json(_entry(found, owners))
            before = b","


def routes(handlers: DetailHandlers) -> list[BaseRoute]:
    """Return the routes of entries."""
    return [path_route(ENTRIES, handlers.entries, need=USER)]
