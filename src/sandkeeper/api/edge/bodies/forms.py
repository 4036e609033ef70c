"""multipart/form-data (RFC 7578) as a stream: nothing of a file is kept, no spool.

A file may have any size; there may be 1000 parts, with eight header fields of 4 KiB each.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.requests import ClientDisconnect, Request

from sandkeeper.api.edge.bodies.coding import inflated, is_gzip
from sandkeeper.api.edge.connections.wire import blocks_of
from sandkeeper.errors import BadInput

__all__ = ["FIELD_LIMIT", "Part", "form_parts", "is_form", "read_field"]

FIELD_LIMIT = 64
PREAMBLE_LIMIT = 64 << 10
PARTS_MOST = 1000
READING_FORM = "error reading multipart data: "
READING_PART = "error reading multipart part: "


@dataclass(slots=True)
class Part:
    """One part: its head, then its data by iteration, which must be finished before the next."""

    name: str
    filename: str
    _events: AsyncIterator["_Event"] = field(repr=False)
    _over: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the data as it arrives."""
        while not self._over:
            event = await anext(self._events)
            if isinstance(event, bytes):
                yield event
            else:
                self._over = True


_Head = tuple[str, str]
_Event = bytes | _Head | None
"""Data, the head of a part (name, filename), or None for the end of a part."""


def is_form(request: Request) -> bool:
    """Say whether the body is a form."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def form_parts(request: Request) -> AsyncGenerator[Part, None]:
    """Yield the parts in the order of arrival; raises BadInput for what is no whole form."""
    events = _events(request)
    try:
        async for event in events:
            if isinstance(event, tuple):
                part = Part(*event, events)
                yield part
                async for _ in part:
                    continue
    finally:
        await events.aclose()


async def read_field(part: Part) -> str:
    """Read a short text field; raises BadInput past 64 bytes."""
    data = b""
    async for piece in part:
        data += piece
        if len(data) > FIELD_LIMIT:
            raise BadInput(f"{READING_PART}field {part.name!r} is longer than {FIELD_LIMIT} bytes")
    return data.decode("utf-8", "replace")


_EXTENDED = re.compile(rb";\s*filename\*=[^';]*'[^';]*'([^;\s]+)", re.IGNORECASE)


class _Collector:
    """Gathers what the parser calls back with while it eats one chunk."""

    def __init__(self) -> None:
        self.events: list[_Event] = []
        self._field = b""
        self._value = b""
        self._disposition = b""

    def on_part_begin(self) -> None:
        self._disposition = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._field.strip().lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        named = options if kind == b"form-data" else {}
        # RFC 7578 forbids this form and the parser leaves it out, but some clients (urllib3 1.x)
        # name files that are not ASCII in no other way.
        if b"filename" not in named and (extended := _EXTENDED.search(self._disposition)):
            named[b"filename"] = unquote_to_bytes(extended[1])
        self.events.append(
            (
                named.get(b"name", b"").decode("utf-8", "replace"),
                named.get(b"filename", b"").decode("utf-8", "replace"),
            )
        )

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.events.append(data if end - start == len(data) else data[start:end])

    def on_part_end(self) -> None:
        self.events.append(None)


def _boundary(request: Request) -> bytes:
    _, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise BadInput(READING_FORM + "no multipart boundary param in Content-Type")
    return boundary


def _parser(boundary: bytes, collector: _Collector) -> MultipartParser:
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": collector.on_part_begin,
                "on_header_field": collector.on_header_field,
                "on_header_value": collector.on_header_value,
                "on_header_end": collector.on_header_end,
                "on_headers_finished": collector.on_headers_finished,
                "on_part_data": collector.on_part_data,
                "on_part_end": collector.on_part_end,
            },
        )
    except FormParserError as error:
        raise BadInput(READING_FORM + str(error)) from None


async def _from_first_boundary(
    blocks: AsyncIterator[bytes], boundary: bytes
) -> AsyncIterator[bytes]:
    """Yield the body without what stands before the first boundary (RFC 2046, 5.1.1)."""
    delimiter = b"--" + boundary
    waiting: bytes | None = b""
    async for chunk in blocks:
        if waiting is not None:
            waiting += chunk
            start = 0 if waiting.startswith(delimiter) else waiting.find(b"\n" + delimiter) + 1
            found = start > 0 or waiting.startswith(delimiter)
            if not found and len(waiting) <= PREAMBLE_LIMIT:
                continue
            chunk, waiting = waiting[start:], None
        if chunk:
            yield chunk
    if waiting:
        yield waiting


async def _events(request: Request) -> AsyncGenerator[_Event, None]:
    collector = _Collector()
    boundary = _boundary(request)
    delimiter, parts = b"\r\n--" + boundary, 0
    parser = _parser(boundary, collector)
    try:
        async with aclosing(blocks_of(request)) as blocks:
            plain = inflated(blocks) if is_gzip(request) else blocks
            async for block in _from_first_boundary(plain, boundary):
                # Counted before the parser does: a line in a part that only begins like the
                # boundary is as much work for it (and forbidden by RFC 2046).
                parts += block.count(delimiter)
                if parts > PARTS_MOST:
                    raise BadInput(f"{READING_FORM}more than {PARTS_MOST} parts")
                parser.write(block)
                events, collector.events = collector.events, []
                for event in events:
                    yield event
    except FormParserError as error:
        raise BadInput(READING_PART + str(error)) from None
    except ClientDisconnect:
        raise BadInput(READING_PART + "the connection was closed") from None
    if parser.state not in {MultipartState.END, MultipartState.START}:
        raise BadInput(READING_PART + "unexpected EOF")
