"""Request bodies: bounded, and JSON read as leniently as the contract says.

Keys match case-insensitively, unknown keys and bytes after the first value are ignored, `null`
is the default, the Content-Type does not matter.

That leniency takes a tree of objects, twenty times as large as the text it is made of and as much
slower to make. So a body is first read straight into its model, which is nearly always enough.
Where it is not, a short one is built as a tree; of a long one only the known fields are built, and
what is not known is passed over. Long ones are read in a worker thread, one call at a time: the
decoder keeps the interpreter for itself while it is in one.
"""

import asyncio
import codecs
import json
import re
from contextlib import suppress
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

import msgspec
from starlette.requests import Request

from sandkeeper.api.edge.content.coding import inflated, is_gzip
from sandkeeper.errors import BadInput, TooLarge, Unavailable
from sandkeeper.journal.output import PIECE_BYTES
from sandkeeper.numerals import natural

__all__ = [
    "HELD",
    "LONG_BYTES",
    "Held",
    "Room",
    "check_values",
    "decoded",
    "parse_json",
    "read_body",
    "read_json",
]

T = TypeVar("T")
HELD = "sandkeeper.held"
"""Where in a request's scope its `Held` is."""
SMALL_BYTES = 256 << 10
"""So much of a body always has room, or a few large ones that hang would keep all others out. And
a longer one is decoded in a thread."""

LONG_BYTES = 64 << 10
"""From here on only the known fields of a body are built."""

_reading = asyncio.Semaphore(1)
"""One at a time: several threads would take the interpreter from each other, not from the loop."""

MANY_VALUES = 100_000
FEW_VALUES = 20_000
"""So many are built as objects; more are read as what they are to be."""

MOST_VALUES = 1_000_000
MOST_STRINGS = 200_000
_SURROGATE = re.compile(
    rb"\\(?:[^u]|u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(u[dD][89a-fA-F][\da-fA-F]{2}))"
)
"""Escapes, of which the group is one of half a pair alone."""

MENDINGS = 2
"""What stands behind the first value is cut off, then what is no text is replaced."""

ANYTHING = msgspec.json.Decoder(float_hook=float)
"""Its own reading of numbers takes ten times as long as Python's where many digits decide."""

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")


class Room:
    """What the bodies of all requests together may take, in bytes."""

    def __init__(self, size: int) -> None:
        self.free = size


class Held:
    """What the body of one request takes; released with the request."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._size = 0

    def take(self, size: int) -> None:
        """Take more; raises Unavailable when there is none."""
        if size > self._room.free:
            raise Unavailable("too many large requests at once: try again")
        self._room.free -= size
        self._size += size

    def release(self) -> None:
        """Give everything back."""
        self._room.free += self._size
        self._size = 0


async def read_body(request: Request, limit: int) -> bytes:
    """Read the whole body; raises TooLarge past `limit` bytes, Unavailable without room."""
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
    return b"".join(chunks)


async def read_json(request: Request, model: type[T], limit: int) -> T:
    """Read the body as `model`; raises BadInput with the contract's prefix, or TooLarge."""
    return await decoded(await read_body(request, limit), model)


async def decoded(body: bytes, model: type[T]) -> T:
    """Do what `parse_json` does, a long body in a worker thread."""
    if len(body) <= SMALL_BYTES:
        return parse_json(body, model)
    async with _reading:
        return await asyncio.to_thread(parse_json, body, model)


def parse_json(body: bytes, model: type[T]) -> T:
    """Parse `body` as `model`; raises BadInput `invalid request body: …`."""
    _check_strings(body)
    exact = _exact_decoder(cast("type", model))
    if exact is not None and not (_has_lists(cast("type", model)) and _values(body) > MANY_VALUES):
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return cast("T", _read(body, exact))
    if not body.strip():
        raise BadInput("invalid request body: EOF")
    try:
        if len(body) <= LONG_BYTES:
            return msgspec.convert(_fold(_built(body), model), model)
        return msgspec.convert(_known(body, model), model)
    except msgspec.ValidationError as error:
        raise BadInput(f"invalid request body: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"invalid request body: {error}") from None


@lru_cache(maxsize=64)
def _exact_decoder(model: type) -> msgspec.json.Decoder[Any] | None:
    """Return what reads a body that has only the fields of `model`, spelled like them.

    None where a field is more than texts and numbers: in what is nested, a key that is spelled
    otherwise would be passed over.
    """
    if not all(_is_plain(item.type) for item in msgspec.structs.fields(model)):
        return None
    exact = msgspec.defstruct(model.__name__, [], bases=(model,), forbid_unknown_fields=True)
    return msgspec.json.Decoder(exact)


def _is_plain(kind: Any) -> bool:
    return kind in (str, bool, int, float, None, type(None)) or (
        get_origin(kind) in (list, dict, Union, UnionType) and all(map(_is_plain, get_args(kind)))
    )


@lru_cache(maxsize=64)
def _has_lists(model: type) -> bool:
    """Say whether a field may have more elements than a body has strings."""
    return any("list[" in str(item.type) for item in msgspec.structs.fields(model))


def _check_strings(body: bytes) -> None:
    """Raise BadInput for too many strings.

    A quote that opens one never follows a backslash, one within one always does.
    """
    if len(body) <= MOST_STRINGS or (quotes := body.count(b'"')) <= MOST_STRINGS:
        return
    if quotes - body.count(b'\\"') > MOST_STRINGS:
        raise BadInput("invalid request body: too many values")


def check_values(body: bytes) -> None:
    """Raise BadInput for so many values that to build them all would keep others waiting."""
    _check_strings(body)
    if _values(body) > FEW_VALUES and _outside_texts(body) > FEW_VALUES:
        raise BadInput("too many values")


def _outside_texts(body: bytes) -> int:
    """Return how many values there are at most, without what only looks like some in texts."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return _values(b"".join(plain.split(b'"')[::2]))


def _values(body: bytes) -> int:
    """Return how many values a body has at most; text within strings counts as well."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _read(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """Decode the first value of `body`; what Unicode does not allow becomes U+FFFD."""
    for _ in range(MENDINGS):
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            trailing = _TRAILING.search(str(error))
            body = body[: int(trailing[1]) - 1] if trailing else _repaired(body)
    return decoder.decode(body)


def _built(body: bytes) -> Any:
    """Decode `body` as objects, integers of any size too."""
    try:
        return _read(body, ANYTHING)
    except msgspec.ValidationError as error:
        try:
            return json.JSONDecoder().raw_decode(_repaired(body).decode().lstrip(" \t\r\n"))[0]
        except ValueError:
            raise error from None


def _repaired(body: bytes) -> bytes:
    """Replace bytes that are no UTF-8 and lone surrogates by U+FFFD, as Go's decoder does."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = (body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES))
    text = b"".join(decoder.decode(piece).encode() for piece in pieces)
    text += decoder.decode(b"", True).encode()
    if b"\\ud" not in text and b"\\uD" not in text:
        return text
    return _SURROGATE.sub(lambda found: b"\\ufffd" if found[1] else found[0], text)


def _known(body: bytes, model: type) -> dict[str, Any]:
    """Return the known fields of a long object."""
    if _values(body) > MOST_VALUES and _outside_texts(body) > MOST_VALUES:
        raise BadInput("invalid request body: too many values")
    known = _fields(model)
    values: dict[str, Any] = {}
    members = _read(body, _MEMBERS)
    for key, raw in members.items():
        name, kind = known.get(key.lower(), ("", None))
        if name and bytes(raw) != b"null":
            values[name] = _field(bytes(raw), kind)
    return values


def _field(raw: bytes, kind: Any) -> Any:
    if kind is str or _values(raw) > FEW_VALUES:
        return _read(raw, msgspec.json.Decoder(kind))
    return _fold(_built(raw), kind)


@lru_cache(maxsize=256)
def _fields(model: type) -> dict[str, tuple[str, Any]]:
    return {
        item.encode_name.lower(): (item.encode_name, _bare(item.type))
        for item in msgspec.structs.fields(model)
    }


def _bare(kind: Any) -> Any:
    """Return a type without what is only said about it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


_ZEROES: dict[Any, Any] = {str: "", int: 0, bool: False}
"""What `null` stands for inside a list or a map."""


def _fold(value: Any, kind: Any) -> Any:
    """Give the keys of objects the spelling of `kind` and drop nulls, which mean the default."""
    if value is None and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {}
    if value is None:
        return _ZEROES.get(kind)
    if isinstance(value, list) and get_origin(kind) is list:
        (item,) = get_args(kind)
        return [_fold(element, item) for element in value]
    if isinstance(value, dict) and get_origin(kind) is dict:
        _, item = get_args(kind)
        return {key: _fold(element, item) for key, element in value.items()}
    if not isinstance(value, dict):
        return value
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return value
    known = _fields(kind)
    folded: dict[str, Any] = {}
    for key, element in value.items():
        if element is None or key.lower() not in known:
            continue
        name, inner = known[key.lower()]
        folded[name] = _fold(element, inner)
    return folded
