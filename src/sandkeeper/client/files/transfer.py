"""Whole files both ways: streamed, with progress, going on where a lost connection stopped them."""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sandkeeper.client.connection import Server
from sandkeeper.client.failures import Absence, ClientError, Refused
from sandkeeper.client.files.paths import file_route
from sandkeeper.client.output import write_all

__all__ = [
    "Moved",
    "blocks_of",
    "download",
    "fetch",
    "put_bytes",
    "put_stream",
    "send_whole",
]

BLOCK_BYTES = 1 << 20
TYPE = "multipart/form-data; boundary="
BEHIND_END = 416
"""The status of an answer to who has everything already."""

Moved = Callable[[int], None]
"""Is told of each number of bytes that went over the line."""


def put_bytes(server: Server, path: str, data: bytes, condition: Mapping[str, str]) -> None:
    """Write a file whole; `condition` holds `If-Match` or its like (Refused, 412)."""
    _put(server, file_route("/filesystem", path), iter([data]), len(data), {}, condition)


def put_stream(server: Server, path: str, source: BinaryIO, moved: Moved, mode: str = "") -> None:
    """Write a file from something whose length nobody knows; with octal digits of a mode."""
    fields = {"permissions": mode} if mode else {}
    _put(server, file_route("/filesystem", path), blocks_of(source, moved), None, fields, {})


def _put(
    server: Server,
    route: str,
    blocks: Iterator[bytes],
    length: int | None,
    fields: Mapping[str, str],
    headers: Mapping[str, str],
    query: Mapping[str, str | int | None] | None = None,
) -> bytes:
    """Send a form with a part `file` (RFC 7578), as long as it says or chunked."""
    boundary = secrets.token_hex(16)
    line = f"--{boundary}\r\nContent-Disposition: form-data; name="
    head = "".join(f'{line}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items())
    head += f'{line}"file"; filename="file"\r\nContent-Type: application/octet-stream\r\n\r\n'
    tail = f"\r\n--{boundary}--\r\n"
    given = {"Content-Type": TYPE + boundary, **headers}
    if length is not None:
        given["Content-Length"] = str(len(head) + length + len(tail))

    def body() -> Iterator[bytes]:
        yield head.encode()
        yield from blocks
        yield tail.encode()

    return server.ask("PUT", route, body=body(), headers=given, query=query)


def blocks_of(source: BinaryIO, moved: Moved, most: int | None = None) -> Iterator[bytes]:
    """Read up to `most` bytes; what cannot be read here is no failure of the server."""
    left = most
    while left is None or left > 0:
        try:
            block = source.read(BLOCK_BYTES if left is None else min(BLOCK_BYTES, left))
        except OSError as error:
            raise ClientError(f"{source.name}: {str(error.strerror).lower()}") from None
        if not block:
            if left:
                raise ClientError(f"{source.name}: it was cut while it was read")
            return
        if left is not None:
            left -= len(block)
        yield block
        moved(len(block))


def send_whole(
    server: Server,
    file: BinaryIO,
    size: int,
    route: str,
    fields: Mapping[str, str],
    moved: Moved,
    query: Mapping[str, str | int | None] | None = None,
) -> bytes:
    """Send what is in a file from where it stands on, again when the line was lost."""
    start, absence = file.tell(), Absence()
    while True:
        gone = [0]

        def count(more: int, gone: list[int] = gone) -> None:
            gone[0] += more
            moved(more)

        try:
            return _put(server, route, blocks_of(file, count, size), size, fields, {}, query)
        except ClientError as error:
            absence.wait(error)
        moved(-gone[0])  # raises where nobody wants it any more
        file.seek(start)


def download(server: Server, path: str, target: Path, mode: int, moved: Moved) -> None:
    """Write `path` to a local file, whole or not at all; goes on after a lost connection.

    A file that changes meanwhile is begun again.
    """
    route = file_route("/filesystem", path)
    try:
        target = target.resolve()  # what a link leads to is written, as cp does
        if target.exists() and not target.is_file():
            _pour(server, route, target, moved)
            return
        part = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as file:
                _receive(server, route, file, moved)
                os.fchmod(file.fileno(), mode)
            part.replace(target)
        finally:
            with suppress(OSError):
                part.unlink()
    except (OSError, RuntimeError) as error:  # the latter: links in a circle
        why = error.strerror if isinstance(error, OSError) else "too many levels of links"
        raise ClientError(f"{target}: {str(why).lower()}") from None


def _pour(server: Server, route: str, target: Path, moved: Moved) -> None:
    """Write into a device or FIFO: nothing may take its place."""
    fd = os.open(target, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        with server.open("GET", route, query={"download": "true"}) as answer:
            for block in answer.blocks():
                write_all(fd, block)
                moved(len(block))
    finally:
        os.close(fd)


def _receive(server: Server, route: str, file: BinaryIO, moved: Moved) -> None:
    def anew() -> None:
        file.seek(0)
        file.truncate()

    query = {"download": "true"}
    fetch(server, route, file.write, moved, condition="If-Range", anew=anew, query=query)


def _cannot_begin_again() -> None:
    raise ClientError("the answer begins again, and what has come of it is written")


def fetch(
    server: Server,
    route: str,
    write: Callable[[bytes], object],
    moved: Moved,
    *,
    condition: str,
    anew: Callable[[], None] = _cannot_begin_again,
    query: Mapping[str, str | int | None] | None = None,
) -> None:
    """Get all of something; over a lost line it goes on where it stopped.

    `condition` is the field by which the rest is asked for only of what has not changed: If-Match
    or If-Range. `anew` takes back what was written, when all of it comes once more.
    """
    count, tag, absence = 0, "", Absence()
    while True:
        headers = {"Range": f"bytes={count}-", condition: tag} if count and tag else {}
        try:
            with server.open("GET", route, query=query, headers=headers) as answer:
                if count and answer.code != 206:
                    anew()
                    moved(-count)
                    count = 0
                tag = answer.header("ETag")
                for block in answer.blocks():
                    write(block)
                    count += len(block)
                    moved(len(block))
                    absence.heard()
                return
        except ClientError as error:
            if isinstance(error, Refused) and error.code == BEHIND_END:
                return
            absence.wait(error)
