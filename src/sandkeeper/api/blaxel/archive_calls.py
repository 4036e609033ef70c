"""The calls of `/archive`, loaded at the first of them."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from itertools import islice

from starlette.requests import Request
from starlette.responses import Response

from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import encode_json, json_response, utf8
from sandkeeper.api.edge.streaming import StreamResponse
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.schemas.archive import (
    ArchiveChange,
    ExportOptions,
    progress_of,
    result_of,
    status_of,
)
from sandkeeper.archive.job import Job, Multipart
from sandkeeper.archive.service import Archive, Exported
from sandkeeper.archive.transfer import is_url
from sandkeeper.errors import BadInput
from sandkeeper.log.access import Access

__all__ = ["ArchiveCalls"]

PART_BYTES = 5 << 20
STOP_SECONDS, STOP_MOST_SECONDS = 30, 600
BATCH = 2000
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
OUR_HEADERS = frozenset(["content-length", "transfer-encoding", "connection", "expect"])


class ArchiveCalls:
    """Handlers of `/archive`."""

    def __init__(self, *, archive: Archive, access: Access, body_limit: int) -> None:
        self._archive = archive
        self._access = access
        self._body_limit = body_limit

    async def export(self, request: Request) -> Response:
        """Export the changes; with `async` answer at once."""
        wanted = await read_json(request, ExportOptions, self._body_limit)
        job = _job(wanted)
        self._access.audit(
            "archive_export",
            caller(request),
            dry_run=str(job.dry_run).lower(),
            multipart=str(job.multipart is not None).lower(),
        )
        if wanted.async_:
            task = await self._archive.begin(job)
            task.add_done_callback(_let_go)
            assert self._archive.exporting is not None
            return json_response(progress_of(self._archive.exporting), 202)
        return _answer(await self._archive.export(job))

    async def status(self, _request: Request) -> Response:
        """Show the state."""
        return json_response(status_of(self._archive))

    async def resume(self, request: Request) -> Response:
        """Lift the freeze."""
        self._access.audit("archive_resume", caller(request))
        await self._archive.resume()
        return json_response(status_of(self._archive))


def _let_go(task: "asyncio.Task[Exported]") -> None:
    """Close what a dry run holds for a reply that nobody asked for."""
    if not task.cancelled() and task.exception() is None:
        packed = task.result().packed
        if packed is not None:
            packed.close()


def _answer(done: Exported) -> Response:
    """Reply; the changes of a dry run are read from the disk while they are sent."""
    body = encode_json(result_of(done))
    if done.packed is None:
        return Response(body, 200, media_type="application/json; charset=utf-8")
    packed = done.packed
    batches = _changes(packed.plan.changes())

    async def blocks() -> AsyncIterator[bytes]:
        try:
            yield body[:-1] + b',"changes":['
            while batch := await asyncio.to_thread(next, batches, b""):
                yield batch
            yield b"]}"
        finally:
            packed.close()

    return StreamResponse(blocks(), "application/json; charset=utf-8")


def _changes(changes: Iterator[tuple[str, str, int]]) -> Iterator[bytes]:
    comma = b""
    while batch := list(islice(changes, BATCH)):
        made = [ArchiveChange(kind, utf8(path), size) for kind, path, size in batch]
        yield comma + encode_json(made)[1:-1]
        comma = b","


def _job(wanted: ExportOptions) -> Job:
    """Check what is wanted; raises BadInput before anything is stopped."""
    multipart = None
    if not wanted.dry_run:
        if wanted.multipart is None and not wanted.url:
            raise BadInput("url is required unless multipart or dryRun is given")
        multipart = _multipart(wanted)
        if multipart is None and not is_url(wanted.url):
            raise BadInput("url is no http or https URL")
    if not 0 <= wanted.stop_timeout_seconds <= STOP_MOST_SECONDS:
        raise BadInput(f"stopTimeoutSeconds must be between 0 and {STOP_MOST_SECONDS}")
    if wanted.compression not in {"", "none", "zstd"}:
        raise BadInput("compression must be none or zstd")
    for text in (*wanted.excludes, wanted.image_device, wanted.image_mount_point):
        if "\0" in text:
            raise BadInput("a path holds a NUL")
    _check_headers(wanted.headers)
    return Job(
        url=wanted.url,
        headers=wanted.headers,
        multipart=multipart,
        dry_run=wanted.dry_run,
        save_processes=wanted.save_processes,
        excludes=wanted.excludes,
        stop_seconds=float(wanted.stop_timeout_seconds or STOP_SECONDS),
        image_device=wanted.image_device,
        image_mount_point=wanted.image_mount_point,
        zstd=wanted.compression == "zstd",
    )


def _multipart(wanted: ExportOptions) -> Multipart | None:
    parts = wanted.multipart
    if parts is None:
        return None
    if not parts.part_urls:
        raise BadInput("multipart.partUrls is required")
    if not parts.complete_url:
        raise BadInput("multipart.completeUrl is required")
    if parts.part_size < PART_BYTES:
        raise BadInput(f"multipart.partSize must be at least {PART_BYTES}")
    for name, urls in (
        ("partUrls", parts.part_urls),
        ("completeUrl", [parts.complete_url]),
        ("abortUrl", [parts.abort_url] if parts.abort_url else []),
    ):
        if not all(map(is_url, urls)):
            raise BadInput(f"multipart.{name} holds what is no http or https URL")
    return Multipart(parts.part_urls, parts.part_size, parts.complete_url, parts.abort_url)


def _check_headers(headers: dict[str, str]) -> None:
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadInput("headers holds what is no HTTP header")
        if name.lower() in OUR_HEADERS:
            raise BadInput(f"headers may not set {name}")
