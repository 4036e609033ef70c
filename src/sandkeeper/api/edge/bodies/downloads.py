"""A file as it is: whole, in ranges, or compressed; for every wire that has downloads."""

import os
import posixpath
import secrets
from collections.abc import Iterator
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from sandkeeper.api.edge.bodies.coding import deflated, wants_gzip
from sandkeeper.api.edge.conditional import http_date, ranges
from sandkeeper.api.edge.file_answers import FileBody, GeneratedBody
from sandkeeper.api.edge.respond import error_response
from sandkeeper.errors import RangeNotSatisfiable
from sandkeeper.files.entries import etag
from sandkeeper.files.opened import Opened
from sandkeeper.files.work import FileWork

__all__ = ["content_type", "disposition", "download"]

SMALL = 256 * 1024
"""Up to this size a download is read in the step that opens the file."""

BLOCK_BYTES = 512 * 1024
OCTETS = "application/octet-stream"
TYPES = {
    "txt": "text/plain",
    "log": "text/plain",
    "html": "text/html",
    "htm": "text/html",
    "css": "text/css",
    "js": "application/javascript",
    "json": "application/json",
    "xml": "application/xml",
    "pdf": "application/pdf",
    "zip": "application/zip",
    "tar": "application/x-tar",
    "gz": "application/gzip",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "svg": "image/svg+xml",
}


def download(work: FileWork, path: str, opened: Opened, request: Request) -> Response:
    """Answer with an open file, or the parts of it that are asked for; blocks."""
    name = posixpath.basename(path)
    headers = {
        "Content-Type": content_type(name),
        "Content-Disposition": disposition(name),
        "Last-Modified": http_date(opened.info),
        "ETag": etag(opened.info),
    }
    if "range" not in request.headers and wants_gzip(request.headers):
        return _packed(work, opened, headers)
    if opened.size is None:
        return FileBody(work, opened, [], 200, headers)
    headers["Accept-Ranges"] = "bytes"
    try:
        wanted = ranges(request.headers, opened.info, opened.size)
    except RangeNotSatisfiable as error:
        opened.fd.close()
        refused = error_response(error)
        refused.headers["Content-Range"] = f"bytes */{opened.size}"
        return refused
    if len(wanted) > 1:
        return _many(work, opened, wanted, headers)
    start, length = wanted[0] if wanted else (0, opened.size)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{opened.size}"
    headers["Content-Length"] = str(length)
    status = 206 if wanted else 200
    if length <= SMALL:
        data = os.pread(opened.fd.number, length, start)
        if len(data) == length:
            opened.fd.close()
            return Response(data, status, headers)
    return FileBody(work, opened, [(start, length)], status, headers)


def _packed(work: FileWork, opened: Opened, headers: dict[str, str]) -> Response:
    # Another representation has another validator, and compressed ones are equal in meaning only.
    headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    headers["ETag"] = f"W/{headers['ETag']}"

    def blocks() -> Iterator[bytes]:
        if opened.first:
            yield opened.first
        while block := os.read(opened.fd.number, BLOCK_BYTES):
            yield block

    return GeneratedBody(work, deflated(blocks()), headers, opened.fd.close)


def _many(
    work: FileWork, opened: Opened, wanted: list[tuple[int, int]], headers: dict[str, str]
) -> Response:
    boundary = secrets.token_hex(16)
    pieces: list[bytes | tuple[int, int]] = []
    for start, length in wanted:
        head = (
            f"\r\n--{boundary}\r\nContent-Type: {headers['Content-Type']}\r\n"
            f"Content-Range: bytes {start}-{start + length - 1}/{opened.size}\r\n\r\n"
        )
        pieces += [head.encode(), (start, length)]
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    pieces[0] = bytes(pieces[0]).removeprefix(b"\r\n")
    length = sum(len(p) if isinstance(p, bytes) else p[1] for p in pieces)
    headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    headers["Content-Length"] = str(length)
    return FileBody(work, opened, pieces, 206, headers)


def content_type(name: str) -> str:
    """Name the type of a download by its last extension, case-sensitively, without a charset."""
    _, dot, extension = name.rpartition(".")
    return TYPES.get(extension, OCTETS) if dot else OCTETS


def disposition(name: str) -> str:
    """Make the header that names a download; `filename*` (RFC 8187) where ASCII cannot."""
    plain = "".join(char if " " <= char <= "~" else "_" for char in name)
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    header = f'attachment; filename="{escaped}"'
    if plain != name:
        header += f"; filename*=UTF-8''{quote(os.fsencode(name), safe='')}"
    return header
