"""E2B's plain HTTP for files: download, upload, and several files made one."""

import posixpath
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sandkeeper.api.e2b.entries import METADATA
from sandkeeper.api.e2b.people import People
from sandkeeper.api.edge.bodies.coding import accepts, inflated, is_gzip
from sandkeeper.api.edge.bodies.downloads import download
from sandkeeper.api.edge.bodies.forms import form_parts, is_form
from sandkeeper.api.edge.bodies.weights import media_type
from sandkeeper.api.edge.connections.wire import blocks_of
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import plain_json, utf8
from sandkeeper.errors import BadInput
from sandkeeper.files.conditions import NO_CONDITIONS
from sandkeeper.files.feed import Feed
from sandkeeper.files.paths import resolve_text
from sandkeeper.files.service import Files
from sandkeeper.files.work import by_errno
from sandkeeper.linux.paths import useros as os
from sandkeeper.linux.users import Users

__all__ = ["FileCalls", "Unacceptable"]

HEADER = "x-metadata-"
KEY_BYTES, METADATA_BYTES = 246, 4096
COMPOSED_MOST = 1000
COMPOSE_BODY = 1 << 20
OCTETS = "application/octet-stream"


class Unacceptable(Exception):
    """No form of the answer is one that the client takes."""


class ComposeCall(msgspec.Struct):
    """The body of `/files/compose`."""

    source_paths: list[str] = []
    destination: str = ""
    username: str = ""


class FileCalls:
    """Answers `/files` and `/files/compose`; raises SandkeeperError, Unacceptable."""

    def __init__(self, *, files: Files, people: People, users: Users) -> None:
        self._users = users
        self._files = files
        self._work = files.work
        self._people = people

    def _path(self, request: Request, given: str, username: str = "") -> str:
        if not given:
            raise BadInput("path is required")
        home = self._people.of(request, username).home
        return resolve_text(given, workdir=home, home=home).absolute

    async def read(self, request: Request) -> Response:
        """Send a file, or ranges of it."""
        query = query_of(request)
        path = self._path(request, query.get("path", ""), query.get("username", ""))
        weights = accepts(request.headers.get("accept-encoding", ""))
        plain = weights.get("identity", weights.get("*", 1.0))
        if not plain and not weights.get("gzip"):
            raise Unacceptable("Accept-Encoding takes neither gzip nor identity")
        return await self._work.run(self._read, path, request)

    def _read(self, path: str, request: Request) -> Response:
        try:
            info = os.stat(path)
            if stat.S_ISREG(info.st_mode):  # what the system says of it is told as it is
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        except (OSError, ValueError) as error:
            raise by_errno(path, error) from None
        if stat.S_ISDIR(info.st_mode):
            raise BadInput(f"path '{path}' is a directory")
        return download(self._work, path, self._files.open(path, info), request)

    # Writing

    async def write(self, request: Request) -> Response:
        """Write the files of a form, or the one that is the body."""
        metadata = _metadata(request)
        if is_form(request):
            written = [one async for one in self._from_form(request, metadata)]
            if not written:
                raise BadInput("the form has no part 'file'")
        else:
            kind = media_type(request.headers.get("content-type", OCTETS))
            if kind != OCTETS:
                raise BadInput(f"Content-Type {kind[:80]!r}: send multipart/form-data or {OCTETS}")
            written = [await self._from_body(request, metadata)]
        return plain_json(written)

    async def _from_form(
        self, request: Request, metadata: dict[str, bytes]
    ) -> AsyncIterator[dict[str, Any]]:
        query = query_of(request)
        given = query.get("path", "")
        count = 0
        async with aclosing(form_parts(request)) as parts:
            async for part in parts:
                if part.name != "file":
                    continue
                count += 1
                if given and count > 1:
                    raise BadInput("several files come without a path in the query")
                path = self._path(request, given or part.filename, query.get("username", ""))
                yield await self._store(path, aiter(part), metadata)

    async def _from_body(self, request: Request, metadata: dict[str, bytes]) -> dict[str, Any]:
        query = query_of(request)
        path = self._path(request, query.get("path", ""), query.get("username", ""))
        packed = is_gzip(request)
        async with aclosing(blocks_of(request)) as blocks:
            try:
                return await self._store(path, inflated(blocks) if packed else blocks, metadata)
            except ClientDisconnect:
                raise BadInput("the connection was closed") from None

    async def _store(
        self, path: str, blocks: AsyncIterator[bytes], metadata: dict[str, bytes]
    ) -> dict[str, Any]:
        upload = self._files.upload(path, NO_CONDITIONS)
        upload.kind, upload.attributes = "user." + METADATA, metadata
        feed: Feed[os.stat_result] = Feed(self._work.run, upload)
        await feed.take_all(blocks)
        made: dict[str, Any] = {
            "name": utf8(posixpath.basename(path)),
            "path": utf8(path),
            "type": "file",
        }
        if metadata:
            made["metadata"] = {name: value.decode() for name, value in metadata.items()}
        return made

    async def compose(self, request: Request) -> Response:
        """Put files one behind the other in a new one, and remove them."""
        call = await read_json(request, ComposeCall, COMPOSE_BODY)
        if not call.source_paths:
            raise BadInput("source_paths is required")
        if len(call.source_paths) > COMPOSED_MOST:
            raise BadInput(f"source_paths has more than {COMPOSED_MOST}")
        sources = [self._path(request, one, call.username) for one in call.source_paths]
        target = self._path(request, call.destination, call.username)
        with self._users.acting_as(self._people.of(request, call.username).identity):
            await self._work.run(self._compose, sources, target)
        made = {"name": utf8(posixpath.basename(target)), "path": utf8(target), "type": "file"}
        return plain_json(made)

    def _compose(self, sources: list[str], target: str) -> None:
        current = target
        try:
            draft = self._files.draft(target, 0o644)
            try:
                for current in sources:
                    self._append(draft, current)
                draft.commit()
            finally:
                draft.discard()
            for current in set(sources) - {target}:
                os.unlink(current)
        except (OSError, ValueError) as error:
            raise by_errno(current, error) from None

    def _append(self, draft: Any, path: str) -> None:
        opened = self._files.open(path, os.stat(path))
        try:
            draft.copy_from(opened.fd.number)
        finally:
            opened.fd.close()


def _metadata(request: Request) -> dict[str, bytes]:
    """Read what is to be kept with a file; raises BadInput."""
    found: dict[str, bytes] = {}
    size = 0
    for name, value in request.headers.items():
        if not name.startswith(HEADER):
            continue
        key = name.removeprefix(HEADER)
        if not key or len(key) > KEY_BYTES:
            raise BadInput(f"a key of metadata has 1 to {KEY_BYTES} bytes")
        if not all(" " <= one <= "~" for one in key + value):
            raise BadInput(f"metadata {key[:64]!r} holds more than printable ASCII")
        found[key] = value.encode()
        size += len(key) + len(value)
    if size > METADATA_BYTES:
        raise BadInput(f"metadata takes {size} bytes, which is more than {METADATA_BYTES}")
    return found
