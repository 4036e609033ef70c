"""What the contract does not have: stat, attributes, edits, archives, disk usage."""

import asyncio
import posixpath
import stat
from contextlib import suppress
from functools import partial

from msgspec import UNSET
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.blaxel.files.content import octal
from sandkeeper.api.blaxel.files.details import attributes_of
from sandkeeper.api.edge.bodies.downloads import disposition
from sandkeeper.api.edge.conditional import conditions
from sandkeeper.api.edge.file_answers import GeneratedBody
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import json_response, utf8
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import empty_head, path_route
from sandkeeper.api.edge.streaming import until_disconnect
from sandkeeper.api.edge.urls import raw_rest
from sandkeeper.api.schemas.files import (
    AttributesRequest,
    EditDone,
    EditRequest,
    Stat,
    Success,
    Usage,
)
from sandkeeper.errors import (
    BadInput,
    NoDirectory,
    PreconditionFailed,
    SandkeeperError,
    Unprocessable,
)
from sandkeeper.files.attributes import Attributes
from sandkeeper.files.details import detail
from sandkeeper.files.edits import Edit, EditRefused, edit_file
from sandkeeper.files.entries import etag, file_type, unix_mode
from sandkeeper.files.paths import Target
from sandkeeper.files.service import Files
from sandkeeper.files.tar.streams import Archives, Inlet
from sandkeeper.files.work import Cancel
from sandkeeper.linux.clocks import rfc3339
from sandkeeper.linux.paths import useros as os

__all__ = ["MoreHandlers", "routes"]

STAT = "/filesystem-stat"
ATTRIBUTES = "/filesystem-attributes"
EDIT = "/filesystem-edit"
USAGE = "/filesystem-usage"
ARCHIVE = "/filesystem-archive"


class MoreHandlers:
    """Handlers of the additive routes."""

    def __init__(
        self, *, files: Files, attributes: Attributes, archives: Archives, stopping: asyncio.Event
    ) -> None:
        self._files = files
        self._attributes = attributes
        self._archives = archives
        self._work = files.work
        self._stopping = stopping

    def _target(self, request: Request, prefix: str) -> Target:
        return self._files.resolve(raw_rest(request.scope, prefix))

    async def stat(self, request: Request) -> Response:
        """Tell everything about an entry; a link is not followed."""
        return await self._work.run(self._stat, self._target(request, STAT))

    def _stat(self, target: Target) -> Response:
        info, leads_to = self._attributes.look(target.absolute)
        owners = self._files.owners
        tag = etag(info)
        if stat.S_ISLNK(info.st_mode):
            with suppress(OSError):  # a write goes to the target, so its tag is the one to match
                tag = etag(os.stat(target.absolute))
        body = Stat(
            path=utf8(target.shown),
            name=utf8(posixpath.basename(target.absolute) or "/"),
            type=file_type(info.st_mode),
            size=info.st_size,
            permissions=unix_mode(info.st_mode),
            owner=owners.user(info.st_uid),
            group=owners.group(info.st_gid),
            uid=info.st_uid,
            gid=info.st_gid,
            inode=info.st_ino,
            links=info.st_nlink,
            lastModified=rfc3339(info.st_mtime_ns),
            lastChanged=rfc3339(info.st_ctime_ns),
            lastAccessed=rfc3339(info.st_atime_ns),
            etag=tag,
            target=utf8(leads_to) if leads_to else UNSET,
            attributes=attributes_of(detail(target.absolute)) or UNSET,
        )
        return json_response(body, headers={"ETag": tag})

    async def change(self, request: Request) -> Response:
        """Set mode, owner, group."""
        target = self._target(request, ATTRIBUTES)
        body = await read_json(request, AttributesRequest, self._files.settings.write_limit)
        if not (body.permissions or body.owner or body.group or body.attributes):
            raise BadInput("permissions, owner, group or attributes is required")
        mode = octal(body.permissions, 0) & 0o7777 if body.permissions else None
        change = partial(
            self._attributes.change,
            target.absolute,
            mode,
            body.owner,
            body.group,
            body.recursive,
            conditions(request),
            body.attributes,
        )
        count = await until_disconnect(request, self._work.walk(change), self._stopping)
        entries = "1 entry" if count == 1 else f"{count} entries"
        message = f"Attributes of {entries} changed successfully"
        return json_response(Success(path=utf8(target.display), message=message))

    async def edit(self, request: Request) -> Response:
        """Replace exact text."""
        target = self._target(request, EDIT)
        body = await read_json(request, EditRequest, self._files.settings.write_limit)
        old, new = body.oldString.encode(), body.newString.encode()
        wanted = Edit(old, new, body.replaceAll, body.expectedOccurrences)
        check = conditions(request).check
        try:
            count, info = await self._work.run(
                edit_file, self._files, target.absolute, [wanted], check
            )
        except EditRefused as refused:
            raise _refusal(refused, wanted, target) from None
        done = EditDone(utf8(target.display), "File edited successfully", count)
        return json_response(done, headers={"ETag": etag(info)})

    async def usage(self, request: Request) -> Response:
        """Add up a tree."""
        target = self._target(request, USAGE)
        return await until_disconnect(request, self._work.walk(self._usage, target), self._stopping)

    def _usage(self, target: Target, cancel: Cancel) -> Response:
        total = self._attributes.usage(target.absolute, cancel)
        return json_response(
            Usage(
                path=utf8(target.shown),
                disk=total.disk,
                apparent=total.apparent,
                files=total.files,
                directories=total.directories,
                unreadable=total.unreadable,
                filesystemSize=total.filesystem_size,
                filesystemFree=total.filesystem_free,
            )
        )

    async def pack(self, request: Request) -> Response:
        """Send a directory as a tar stream, compressed with zstd if asked."""
        target = self._target(request, ARCHIVE)
        accept = ",".join(request.headers.getlist("accept"))
        wanted = query_of(request).get("compression", "")
        if wanted not in {"", "none", "zstd"}:
            raise BadInput(f"invalid compression: {wanted}")
        compressed = wanted == "zstd" or (not wanted and "zstd" in accept)
        await self._work.run(self._require_directory, target)
        name = (posixpath.basename(target.absolute) or "root") + ".tar"
        headers = {
            "Content-Type": "application/zstd" if compressed else "application/x-tar",
            "Content-Disposition": disposition(name + ".zst" if compressed else name),
        }
        blocks = self._archives.pack(target.absolute, compressed)
        return GeneratedBody(self._work, blocks, headers)

    def _require_directory(self, target: Target) -> None:
        if not stat.S_ISDIR(self._files.look(target.absolute, Unprocessable).st_mode):
            raise NoDirectory()

    async def unpack(self, request: Request) -> Response:
        """Unpack a tar stream, plain or zstd, below a directory."""
        target = self._target(request, ARCHIVE)
        owners = query_of(request).flag("owners")
        channel = Inlet()
        unpack = self._work.walk(self._archives.unpack, target.absolute, channel, owners)
        work = asyncio.ensure_future(unpack)
        try:
            async for chunk in request.stream():
                await channel.send(chunk)
                if work.done():
                    break
            channel.finish()
            count = await until_disconnect(request, work, self._stopping)
        except ClientDisconnect:
            raise BadInput("the connection was closed") from None
        finally:
            channel.abandon()
            with suppress(Exception, asyncio.CancelledError):
                await work  # raised above, if anybody is there to hear
        message = f"{count} archive members unpacked successfully"
        return json_response(Success(path=utf8(target.display), message=message))


def _refusal(refused: EditRefused, wanted: Edit, target: Target) -> SandkeeperError:
    """Say why nothing was edited."""
    found = refused.found
    if refused.reason == "contended":
        return PreconditionFailed(f"{target.display} is being written by others; nothing changed")
    if refused.reason == "empty":
        return BadInput("oldString must not be empty")
    if refused.reason == "identical":
        return BadInput("oldString and newString are identical")
    return Unprocessable(
        {
            "missing": "oldString not found in the file",
            "count": f"oldString occurs {found} times, not {wanted.count}",
            "ambiguous": f"oldString occurs {found} times; make it longer, or set replaceAll",
            "size": f"the result is larger than {found} bytes",
        }[refused.reason]
    )


def routes(handlers: MoreHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        path_route(STAT, handlers.stat, "GET", need=USER),
        path_route(ATTRIBUTES, handlers.change, "PUT", need=USER),
        path_route(EDIT, handlers.edit, "POST", need=USER),
        path_route(USAGE, handlers.usage, "GET", need=USER),
        path_route(ARCHIVE, handlers.pack, "GET", need=USER),
        path_route(ARCHIVE, handlers.unpack, "PUT", need=USER),
        *(path_route(prefix, empty_head, "HEAD", need=USER) for prefix in (STAT, USAGE, ARCHIVE)),
    ]
