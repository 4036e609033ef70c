"""Request bodies: bounded, and JSON read as leniently as the contract says.

Keys match case-insensitively, unknown keys and bytes after the first value are ignored, `null`
is the default, the Content-Type does not matter.

That leniency takes a tree of objects, twenty times as large as the text it is made of and as much
slower to make. So a body is first read straight into its model, which is nearly always enough.
Where it is not, a short one is built as a tree; of a long one only the known fields are built, and
what is not known is passed over. Long ones are read in a worker thread, one at a time, and those
of more than AT_ONCE_BYTES in many short calls (`bodies.long`): the decoder keeps the interpreter
for itself while it is in one.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import msgspec
from starlette.requests import Request

from sandkeeper.api.edge.bodies.coding import inflated, is_gzip
from sandkeeper.api.edge.bodies.lenient import (
    ANYTHING,
    bare,
    built,
    counted,
    fold,
    read_first,
    values_in,
)
from sandkeeper.api.edge.bodies.long import LongText
from sandkeeper.api.edge.bodies.room import HELD, Held
from sandkeeper.errors import BadInput, TooLarge
from sandkeeper.numerals import natural

__all__ = [
    "LONG_BYTES",
    "decoded",
    "parse_anything",
    "parse_json",
    "read_body",
    "read_json",
]

T = TypeVar("T")
SMALL_BYTES = 256 << 10
"""So much of a body always has room, or a few large ones that hang would keep all others out. And
a longer one is decoded in a thread."""

LONG_BYTES = 64 << 10
"""From here on only the known fields of a body are built."""

_reading = asyncio.Semaphore(1)
"""One at a time: several threads would take the interpreter from each other, not from the loop."""

AT_ONCE_BYTES = 1 << 20
"""So much is read by one call: 9 ms, where every character is an escape."""

MANY_VALUES = 100_000
FEW_VALUES = 20_000

MOST_VALUES = 1_000_000
MOST_STRINGS = 200_000


async def read_body(request: Request, limit: int) -> bytes:
    """Read the whole body; raises TooLarge past `limit` bytes, Unavailable without room."""
    chunks, size = await _read_chunks(request, limit)
    # Twenty that are complete in one round of the loop would make it a fifth of a second long.
    return await in_turn(size, lambda: _joined(chunks))


async def _read_chunks(request: Request, limit: int) -> tuple[list[bytes], int]:
    held: Held | None = request.scope.get(HELD)
    declared = request.headers.get("content-length", "")
    if (natural(declared) or 0) > limit:
        raise TooLarge(f"request body is larger than {limit} bytes")
    chunks: list[bytes] = []
    size = 0
    async for chunk in inflated(request.stream()) if is_gzip(request) else request.stream():
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"request body is larger than {limit} bytes")
        if held is not None and size > SMALL_BYTES:
            held.take(len(chunk))
        chunks.append(chunk)
    return chunks, size


async def read_json(request: Request, model: type[T], limit: int) -> T:
    """Read the body as `model`; raises BadInput with the contract's prefix, or TooLarge."""
    chunks, size = await _read_chunks(request, limit)
    # In one turn: of those that wait for theirs none is in memory twice.
    return await in_turn(size, lambda: parse_json(_joined(chunks), model))


async def decoded(body: bytes, model: type[T]) -> T:
    """Do what `parse_json` does, a long body in a worker thread."""
    return await in_turn(len(body), lambda: parse_json(body, model))


async def in_turn(size: int, read: Callable[[], T]) -> T:
    """Call `read`: for a body of little size at once, for a long one in a thread, one at a time."""
    if size <= SMALL_BYTES:
        return read()
    async with _reading:
        return await asyncio.to_thread(read)


def _joined(chunks: list[bytes]) -> bytes:
    body = b"".join(chunks)
    chunks.clear()
    return body


def parse_json(body: bytes, model: type[T]) -> T:
    """Parse `body` as `model`; raises BadInput `invalid request body: …`."""
    _check_strings(body)
    exact = _exact_decoder(cast("type", model)) if len(body) <= AT_ONCE_BYTES else None
    if exact is not None and not (
        _has_lists(cast("type", model)) and values_in(body) > MANY_VALUES
    ):
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return cast("T", read_first(body, exact))
    if not body.strip():
        raise BadInput("invalid request body: EOF")
    try:
        if len(body) <= LONG_BYTES:
            return msgspec.convert(fold(built(body), model), model)
        text = LongText(body, built, most=MOST_VALUES, known=MOST_STRINGS)
        return msgspec.convert(text.first(model)[0], model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"invalid request body: {error}") from None


@lru_cache(maxsize=64)
def _exact_decoder(model: type) -> msgspec.json.Decoder[Any] | None:
    """Return what reads a body that has only the fields of `model`, spelled like them.

    None where a field is more than texts and numbers: in what is nested, a key that is spelled
    otherwise would be passed over. Of a map of anything no key has a spelling.
    """
    if not all(_is_plain(item.type) for item in msgspec.structs.fields(model)):
        return None
    exact = msgspec.defstruct(model.__name__, [], bases=(model,), forbid_unknown_fields=True)
    return msgspec.json.Decoder(exact, float_hook=float)


def _is_plain(kind: Any) -> bool:
    kind = bare(kind)
    return kind in (str, bool, int, float, None, type(None), dict[str, Any]) or (
        get_origin(kind) in (list, dict, Union, UnionType) and all(map(_is_plain, get_args(kind)))
    )


@lru_cache(maxsize=64)
def _has_lists(model: type) -> bool:
    """Say whether a field may have more elements than a body has strings."""
    kinds = [str(item.type) for item in msgspec.structs.fields(model)]
    return any("list[" in kind or "Any" in kind for kind in kinds)


def _check_strings(body: bytes) -> None:
    """Raise BadInput for too many strings.

    A quote that opens one never follows a backslash, one within one always does.
    """
    if len(body) <= MOST_STRINGS or (quotes := counted(body, b'"')) <= MOST_STRINGS:
        return
    if quotes - counted(body, b'\\"') > MOST_STRINGS:
        raise BadInput("invalid request body: too many values")


def parse_anything(body: bytes) -> Any:
    """Parse `body` as strict JSON of FEW_VALUES at most, short or long.

    Raises BadInput, msgspec.DecodeError, UnicodeDecodeError, RecursionError.
    """
    _check_strings(body)
    text = LongText(body, ANYTHING.decode, most=FEW_VALUES, known=FEW_VALUES)
    value, end = text.first(Any)
    text.end(end)
    return value
