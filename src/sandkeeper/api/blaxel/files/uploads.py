"""Uploads in parts: `/filesystem-multipart`."""

import asyncio
import json
from contextlib import aclosing

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.bodies.coding import inflated, is_gzip
from sandkeeper.api.edge.bodies.forms import Part, form_parts
from sandkeeper.api.edge.conditional import conditions
from sandkeeper.api.edge.connections.wire import blocks_of
from sandkeeper.api.edge.query import query_of
from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import encode_json, json_response, utf8
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import empty_head, path_route, route
from sandkeeper.api.edge.streaming import until_disconnect
from sandkeeper.api.edge.urls import raw_rest
from sandkeeper.api.schemas.files import (
    CompleteRequest,
    PartDone,
    Success,
    UploadRequest,
    UploadStarted,
)
from sandkeeper.errors import BadInput, TooLarge
from sandkeeper.files.entries import etag, parse_octal
from sandkeeper.files.service import Files
from sandkeeper.files.uploads.sessions import Uploads
from sandkeeper.files.uploads.store import Session, UploadedPart
from sandkeeper.numerals import atoi, natural

__all__ = ["UploadHandlers", "routes"]

INITIATE = "/filesystem-multipart/initiate"


class UploadHandlers:
    """Handlers of sessions."""

    def __init__(
        self, *, files: Files, uploads: Uploads, body_limit: int, stopping: asyncio.Event
    ) -> None:
        self._stopping = stopping
        self._files = files
        self._uploads = uploads
        self._limit = body_limit

    async def initiate(self, request: Request) -> Response:
        """Begin a session; a body that cannot be read means none was sent."""
        target = self._files.resolve(raw_rest(request.scope, INITIATE))
        try:
            asked = (await read_json(request, UploadRequest, self._limit)).permissions
        except (BadInput, TooLarge):
            asked = ""
        try:
            mode = parse_octal(asked) if asked else 0o644
        except ValueError as error:
            raise BadInput(f"invalid permissions format: {error}") from None
        session = await self._uploads.initiate(target.absolute, mode & 0o777)
        return json_response(UploadStarted(session.uploadId, utf8(session.path)))

    async def sessions(self, _request: Request) -> Response:
        """List all sessions, oldest first."""
        found = self._uploads.sessions()
        body = await self._files.work.own(_encode_sessions, found)
        return Response(body, 200, media_type="application/json; charset=utf-8")

    async def part(self, request: Request) -> Response:
        """Take one part; its first form part named `file` counts."""
        number = _part_number(query_of(request).get("partNumber", ""))
        upload_id = request.path_params["upload_id"]
        async with aclosing(form_parts(request)) as parts:
            async for part in parts:
                if part.name == "file":
                    done = await self._take(upload_id, number, part)
                    break
            else:
                raise BadInput("missing 'file' field in multipart form")
        return json_response(PartDone(done.partNumber, done.etag, done.size))

    async def _take(self, upload_id: str, number: int, part: Part) -> UploadedPart:
        upload = self._uploads.part(upload_id, number)
        try:
            async for piece in part:
                await upload.write(piece)
            return await upload.finish()
        finally:
            await upload.abort()

    async def content(self, request: Request) -> Response:
        """Take what follows the bytes that are here; a body that breaks off counts as it came."""
        offset = natural(query_of(request).get("offset", "0").encode())
        if offset is None:
            raise BadInput("offset must be a number of bytes")
        upload_id = request.path_params["upload_id"]
        upload = await self._uploads.content(upload_id, offset)
        try:
            async with aclosing(blocks_of(request)) as blocks:
                async for block in inflated(blocks) if is_gzip(request) else blocks:
                    await upload.write(block)
            size = await upload.finish()
        except ClientDisconnect:
            raise BadInput("the connection was closed before the body's end") from None
        finally:
            await upload.abort()
        return json_response({"uploadId": upload_id, "size": size})

    async def content_state(self, request: Request) -> Response:
        """Say how much is here, with `digest=sha256` also what it is."""
        wanted = query_of(request).get("digest", "")
        if wanted not in {"", "sha256"}:
            raise BadInput("digest must be sha256")
        upload_id = request.path_params["upload_id"]
        look = self._uploads.content_state(upload_id, digested=bool(wanted))
        size, arriving, sha256 = await until_disconnect(request, look, self._stopping)
        told = {"uploadId": upload_id, "size": size, "arriving": arriving}
        return json_response({**told, "sha256": sha256} if wanted else told)

    async def parts(self, request: Request) -> Response:
        """List a session's parts by number."""
        upload_id = request.path_params["upload_id"]
        parts = self._uploads.parts(upload_id)
        return json_response({"uploadId": upload_id, "parts": parts})

    async def complete(self, request: Request) -> Response:
        """Assemble the listed parts and put the file in place."""
        body = await read_json(request, CompleteRequest, self._limit)
        if body.size is not None and body.parts:
            raise BadInput("parts and size exclude each other")
        if body.size is None and not body.parts:
            raise BadInput("at least one part is required")
        listed = [(part.partNumber, part.etag) for part in body.parts]
        wanted = listed if body.size is None else body.size
        upload_id = request.path_params["upload_id"]
        path, info = await self._uploads.complete(upload_id, wanted, conditions(request))
        return json_response(
            Success(utf8(path), "Multipart upload completed successfully"),
            headers={"ETag": etag(info)},
        )

    async def abort(self, request: Request) -> Response:
        """Drop a session."""
        await self._uploads.abort(request.path_params["upload_id"])
        return json_response(Success("", "Multipart upload aborted successfully"))


def _encode_sessions(found: list[Session]) -> bytes:
    for session in found:
        session.path = utf8(session.path)
    return encode_json({"uploads": found})


def _part_number(text: str) -> int:
    """Read the number as Go's strconv.Atoi; raises BadInput."""
    if not text:
        raise BadInput("partNumber is required")
    try:
        return atoi(text)
    except ValueError as error:
        quoted = json.dumps(text[:64], ensure_ascii=False)
        raise BadInput(f"invalid partNumber: strconv.Atoi: parsing {quoted}: {error}") from None


def routes(handlers: UploadHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    one = "/filesystem-multipart/{upload_id}"
    return [
        path_route(INITIATE, handlers.initiate, "POST", need=USER),
        route("/filesystem-multipart", handlers.sessions, need=USER),
        route("/filesystem-multipart", empty_head, "HEAD", need=USER),
        route(f"{one}/part", handlers.part, "PUT", need=USER),
        route(f"{one}/parts", handlers.parts, need=USER),
        route(f"{one}/parts", empty_head, "HEAD", need=USER),
        route(f"{one}/content", handlers.content, "PUT", need=USER),
        route(f"{one}/content", handlers.content_state, need=USER),
        route(f"{one}/content", empty_head, "HEAD", need=USER),
        route(f"{one}/complete", handlers.complete, "POST", need=USER),
        route(f"{one}/abort", handlers.abort, "DELETE", need=USER),
    ]
