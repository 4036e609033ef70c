"""Files: read, download, list, write, delete, and what HEAD tells."""

import asyncio
import stat
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from sandkeeper.api.edge.bodies.downloads import download
from sandkeeper.api.edge.bodies.forms import form_parts, is_form, read_field
from sandkeeper.api.edge.conditional import conditions, http_date, modified_since
from sandkeeper.api.edge.connections.fields import first_fields
from sandkeeper.api.edge.connections.plain import Early, PlainAnswer
from sandkeeper.api.edge.file_answers import GeneratedBody
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.request_body import in_turn, parse_json, read_json
from sandkeeper.api.edge.respond import encode_json, json_response, utf8
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import path_route
from sandkeeper.api.edge.streaming import until_disconnect
from sandkeeper.api.edge.urls import raw_rest
from sandkeeper.api.schemas.encoding import DirectoryEncoder, encode_file, file_blocks
from sandkeeper.api.schemas.files import FileRequest, Success
from sandkeeper.errors import BadInput
from sandkeeper.files.conditions import NO_CONDITIONS, Conditions
from sandkeeper.files.entries import etag, parse_octal, unix_mode
from sandkeeper.files.feed import Feed
from sandkeeper.files.paths import Target
from sandkeeper.files.service import Files
from sandkeeper.files.work import Cancel
from sandkeeper.linux.paths import useros as os

__all__ = ["FileHandlers", "octal", "routes", "wants_download"]

PREFIX = "/filesystem"
SMALL = 256 * 1024
"""Up to this size JSON is made in one go."""

PLAIN_FILE = 32 << 10
"""Up to this size JSON is made at once."""

DECIDING = frozenset(
    {
        *(b"if-match", b"if-none-match", b"if-modified-since", b"if-range", b"range"),
        *(b"if-unmodified-since", b"transfer-encoding"),
    }
)
"""Fields that decide what is answered."""

WRITTEN = "File created/updated successfully"


def octal(text: str, default: int) -> int:
    """Read a `permissions` value; an empty one is the default. Raises BadInput."""
    if not text:
        return default
    try:
        return parse_octal(text)
    except ValueError as error:
        raise BadInput(f"invalid permissions format '{text[:64]}': {error}") from None


def wants_download(request: Request) -> bool:
    """Say whether a file is to be sent as it is rather than as JSON."""
    if query_of(request).get("download") == "true":
        return True
    accept = ",".join(request.headers.getlist("accept"))
    if "application/octet-stream" in accept:
        return True
    return bool(accept) and "application/json" not in accept and "*/*" not in accept


class FileHandlers:
    """Handlers of `/filesystem/{path}`."""

    def __init__(self, *, files: Files, stopping: asyncio.Event) -> None:
        self._files = files
        self._work = files.work
        self._stopping = stopping

    def _target(self, request: Request) -> Target:
        return self._files.resolve(raw_rest(request.scope, PREFIX))

    async def get(self, request: Request) -> Response:
        """Read a file as JSON, download it, or list a directory."""
        target = self._target(request)
        return await self._work.run(
            self._get, target, wants_download(request), conditions(request), request
        )

    def _get(self, target: Target, as_file: bool, wanted: Conditions, request: Request) -> Response:
        info = self._files.look(target.absolute)
        if stat.S_ISDIR(info.st_mode):
            return self.directory(target)
        wanted.check_read(info)
        if wanted.unchanged(info) or (as_file and not modified_since(request.headers, info)):
            return Response(None, 304, {"ETag": etag(info), "Last-Modified": http_date(info)})
        if as_file:
            opened = self._files.open(target.absolute, info)
            return download(self._work, target.absolute, opened, request)
        owners, text = self._files.owners, self._files.text(target.absolute, info)
        headers = {"ETag": etag(text.info), "Content-Type": "application/json; charset=utf-8"}
        if text.size > SMALL:
            blocks = file_blocks(owners, target, text)
            return GeneratedBody(self._work, blocks, headers)
        body = encode_file(owners, target, text.info, b"".join(text.blocks))
        return Response(body, 200, headers)

    def get_now(self, scope: Scope, _body: bytes) -> PlainAnswer | None:
        """Read a small file as JSON if it is in the kernel's memory and nothing else is asked."""
        if self._work.acts or scope["query_string"] or not _is_plain(scope):
            return None
        target = self._files.resolve(raw_rest(scope, PREFIX))
        found = self._files.memory.read(target.absolute, PLAIN_FILE)
        if found is None or not self._files.owners.knows(found[0]):
            return None
        body = encode_file(self._files.owners, target, *found)
        return PlainAnswer(body, fields=_etag_line(found[0]))

    def directory(self, target: Target) -> Response:
        """List one level; large directories are sent while they are being read."""
        listing = self._files.listing(target.absolute)
        encoder = DirectoryEncoder(self._files.owners, target)
        blocks = encoder.blocks(listing.batches(), listing.directories)
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if len(listing.files) > 2000:
            return GeneratedBody(self._work, blocks, headers, listing.fd.close)
        try:
            return Response(b"".join(blocks), 200, headers)
        finally:
            listing.fd.close()

    async def head(self, request: Request) -> Response:
        """Tell what is there; what is absent or cannot be looked at has no X-File-Type."""
        return await self._work.run(self.describe, self._target(request).absolute)

    def describe(self, path: str) -> Response:
        """Make the reply of a HEAD."""
        try:
            info = os.stat(path)
        except (OSError, ValueError):
            return Response(None, 200)
        headers = {
            "Content-Length": str(info.st_size),
            "Last-Modified": http_date(info),
            "X-File-Type": "directory" if stat.S_ISDIR(info.st_mode) else "file",
            "X-File-Mode": unix_mode(info.st_mode),
            "ETag": etag(info),
        }
        return Response(None, 200, headers)

    async def put(self, request: Request) -> Response:
        """Write a file or make a directory from JSON, or take a form upload."""
        target = self._target(request)
        if is_form(request):
            return await self.put_form(request, target)
        wanted = conditions(request)
        body = await read_json(request, FileRequest, self._files.settings.write_limit)
        if body.isDirectory:
            mode = octal(body.permissions, 0o755)
            await self._work.run(self._files.make_directory, target.absolute, mode, wanted)
            return json_response(
                Success(path=utf8(target.display), message="Directory created successfully")
            )
        mode = octal(body.permissions, 0o644)
        data = await in_turn(len(body.content), body.content.encode)
        info = await self._work.run(self._files.write, target.absolute, data, mode, wanted)
        return written(target, info, WRITTEN)

    def put_now(self, scope: Scope, body: bytes) -> Early | None:
        """Write a file from short JSON."""
        if scope["query_string"] or not _is_plain(scope):
            return None
        target = self._files.resolve(raw_rest(scope, PREFIX))
        wanted = parse_json(body, FileRequest)
        if wanted.isDirectory:
            return None
        mode, data = octal(wanted.permissions, 0o644), wanted.content.encode()
        return partial(self._put_plain, target, mode, data)

    def _put_plain(
        self, target: Target, mode: int, data: bytes, give: Callable[[PlainAnswer], None]
    ) -> "asyncio.Future[PlainAnswer]":
        def told(info: os.stat_result) -> PlainAnswer:
            body = encode_json(_written(target, WRITTEN))
            answer = PlainAnswer(body, fields=_etag_line(info))
            give(answer)
            return answer

        write, path = self._files.write, target.absolute
        return self._work.run_then(told, write, path, data, mode, NO_CONDITIONS)

    async def sent(self, target: Target, request: Request) -> Response:
        """Send a file as it is; a directory is listed."""
        return await self._work.run(self._get, target, True, conditions(request), request)

    async def put_form(self, request: Request, target: Target) -> Response:
        """Write the file of a form."""
        upload = self._files.upload(target.absolute, conditions(request))
        feed: Feed[os.stat_result] = Feed(self._work.run, upload)
        found = False
        try:
            async with aclosing(form_parts(request)) as parts:
                async for part in parts:
                    if part.name == "permissions" and not part.filename:
                        upload.mode = octal((await read_field(part)).strip(), 0o644)
                    elif part.name == "file" and part.filename and not found:
                        found = True
                        async for piece in part:
                            await feed.write(piece)
            if not found:
                raise BadInput("missing 'file' field in multipart form")
            info = await feed.finish()
        finally:
            await feed.abort()
        return written(target, info, "Binary file uploaded successfully")

    async def delete(self, request: Request) -> Response:
        """Delete a file, a link, or a directory (`recursive=true`: with all that is in it)."""
        target = self._target(request)
        recursive = query_of(request).get("recursive") == "true"
        arguments = target.absolute, recursive, conditions(request)
        if recursive:
            delete = self._work.walk(self._files.delete, *arguments)
            is_directory = await until_disconnect(request, delete, self._stopping)
        else:
            is_directory = await self._work.run(self._files.delete, *arguments, Cancel())
        kind = "Directory" if is_directory else "File"
        return json_response(
            Success(path=utf8(target.display), message=f"{kind} deleted successfully")
        )


def written(target: Target, info: os.stat_result, message: str) -> Response:
    """Answer a write, with the new state's ETag."""
    return json_response(_written(target, message), headers={"ETag": etag(info)})


def _written(target: Target, message: str) -> Success:
    return Success(path=utf8(target.display), message=message)


def _etag_line(info: os.stat_result) -> bytes:
    return b"etag: %b\r\n" % etag(info).encode()


def _is_plain(scope: Scope) -> bool:
    """Say whether no field asks for more than JSON from or to a whole file."""
    fields = first_fields(scope)
    if len(fields) < len(scope["headers"]) or not DECIDING.isdisjoint(fields):
        return False
    accept = fields.get(b"accept")
    if accept is not None and (b"application/octet-stream" in accept or not _takes_json(accept)):
        return False
    return b"form" not in fields.get(b"content-type", b"").lower()


def _takes_json(value: bytes) -> bool:
    return b"application/json" in value or b"*/*" in value


def routes(handlers: FileHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        path_route(PREFIX, handlers.get, need=USER, plain=handlers.get_now),
        path_route(PREFIX, handlers.head, "HEAD", need=USER),
        path_route(PREFIX, handlers.put, "PUT", need=USER, plain=handlers.put_now),
        path_route(PREFIX, handlers.delete, "DELETE", need=USER),
    ]
