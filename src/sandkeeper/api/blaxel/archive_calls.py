"""The calls of `/archive`, loaded at the first of them."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from itertools import islice

from starlette.requests import Request
from starlette.responses import Response

from sandkeeper.api.edge.file_answers import GeneratedBody
from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import encode_json, json_response, utf8
from sandkeeper.api.edge.streaming import StreamResponse
from sandkeeper.api.edge.subject import caller
from sandkeeper.api.schemas.archive import (
    ArchiveChange,
    ExportOptions,
    ImportOptions,
    progress_of,
    restore_of,
    result_of,
    status_of,
)
from sandkeeper.archive.job import Job, Multipart
from sandkeeper.archive.service import Archive, Exported
from sandkeeper.archive.transfer import is_url
from sandkeeper.errors import BadInput, PreconditionFailed, RangeNotSatisfiable
from sandkeeper.files.work import FileWork
from sandkeeper.log.access import Access
from sandkeeper.numerals import natural

__all__ = ["ArchiveCalls"]

PART_BYTES = 5 << 20
STOP_SECONDS, STOP_MOST_SECONDS = 30, 600
BATCH = 2000
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
OUR_HEADERS = frozenset(["content-length", "transfer-encoding", "connection", "expect"])


class ArchiveCalls:
    """Handlers of `/archive`."""

    def __init__(
        self, *, archive: Archive, access: Access, work: FileWork, body_limit: int
    ) -> None:
        self._work = work
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

    async def content(self, request: Request) -> Response:
        """Send the archive that is kept, from where `Range: bytes=N-` says (with `If-Match`)."""
        kept = self._archive.kept
        source, tag = kept.source, f'"{kept.tag}"'
        if request.headers.get("if-match", tag) != tag:
            raise PreconditionFailed("another archive is kept here now")
        start = _start(request.headers.get("range", ""), source.size)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(source.size - start),
            "ETag": tag,
            "Accept-Ranges": "bytes",
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{source.size - 1}/{source.size}"
        blocks = source.blocks(start, source.size - start, lambda: None)
        return GeneratedBody(self._work, blocks, headers, status=206 if start else 200)

    async def fetched(self, request: Request) -> Response:
        """Take notice that somebody has it."""
        self._access.audit("archive_fetched", caller(request))
        await self._archive.fetched()
        return json_response(status_of(self._archive))

    async def bring(self, request: Request) -> Response:
        """Begin to apply an archive; `/archive/status` tells how far it is."""
        wanted = await read_json(request, ImportOptions, self._body_limit)
        if not wanted.path.startswith("/") or "\0" in wanted.path:
            raise BadInput("path must be the full path of a file")
        seconds = _stop_seconds(wanted.stop_timeout_seconds)
        self._access.audit("archive_import", caller(request), path=wanted.path)
        return json_response(restore_of(await self._archive.bring(wanted.path, seconds)), 202)

    async def resume(self, request: Request) -> Response:
        """Lift the freeze."""
        self._access.audit("archive_resume", caller(request))
        await self._archive.resume()
        return json_response(status_of(self._archive))


def _start(header: str, size: int) -> int:
    """Read where to begin; anything but one open range is as if it were not there."""
    first = natural(header.removeprefix("bytes=").removesuffix("-"), size)
    if not first or not header.startswith("bytes=") or not header.endswith("-"):
        return 0
    if first >= size:
        raise RangeNotSatisfiable(f"the archive has {size} bytes")
    return first


def _stop_seconds(given: int) -> float:
    if not 0 <= given <= STOP_MOST_SECONDS:
        raise BadInput(f"stopTimeoutSeconds must be between 0 and {STOP_MOST_SECONDS}")
    return float(given or STOP_SECONDS)


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
    if wanted.download and (wanted.url or wanted.multipart or wanted.dry_run):
        raise BadInput("download does not go with url, multipart or dryRun")
    if not (wanted.dry_run or wanted.download):
        if wanted.multipart is None and not wanted.url:
            raise BadInput("url is required unless multipart or dryRun is given")
        multipart = _multipart(wanted)
        if multipart is None and not is_url(wanted.url):
            raise BadInput("url is no http or https URL")
    seconds = _stop_seconds(wanted.stop_timeout_seconds)
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
        stop_seconds=seconds,
        image_device=wanted.image_device,
        image_mount_point=wanted.image_mount_point,
        zstd=wanted.compression == "zstd",
        keep=wanted.download,
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
