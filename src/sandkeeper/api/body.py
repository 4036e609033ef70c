"""Request bodies: bounded, and JSON read as leniently as the contract says.

Keys match case-insensitively, unknown keys and bytes after the first value are ignored, `null`
is the default, the Content-Type does not matter.

That leniency takes a tree of objects, twenty times as large as the text it is made of. A body of
very many values is therefore read strictly: keys exactly as they are described, nothing behind the
first value, and what is not known is passed over without being built. And where nothing needs the
leniency, which is nearly always, texts and flags are read straight into their model.
"""

import json
import re
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar, cast, get_args, get_origin

import msgspec
from starlette.requests import Request

from sandkeeper.errors import BadInput, TooLarge, Unavailable

__all__ = ["HELD", "Held", "Room", "parse_json", "read_body", "read_json"]

T = TypeVar("T")
HELD = "sandkeeper.held"
"""Where in a request's scope its `Held` is."""
SMALL_BYTES = 256 << 10
"""So much of a body always has room, or a few large ones that hang would keep all others out."""

MANY_VALUES = 100_000
MOST_STRINGS = 200_000
_LONE = re.compile("[\ud800-\udfff]")


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
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"request body is larger than {limit} bytes")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"request body is larger than {limit} bytes")
        if held is not None and size > SMALL_BYTES:
            held.take(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


async def read_json(request: Request, model: type[T], limit: int) -> T:
    """Read the body as `model`; raises BadInput with the contract's prefix, or TooLarge."""
    return parse_json(await read_body(request, limit), model)


def parse_json(body: bytes, model: type[T]) -> T:
    """Parse `body` as `model`; raises BadInput `invalid request body: …`."""
    if (exact := _exact_decoder(cast("type", model))) is not None:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return cast("T", exact.decode(body))
    if not body.strip():
        raise BadInput("invalid request body: EOF")
    try:
        if _has_many_values(body):
            return msgspec.convert(_strictly(body, model), model)
        return msgspec.convert(_fold(_first_value(body), model), model)
    except msgspec.ValidationError as error:
        raise BadInput(f"invalid request body: {error}") from None


@lru_cache(maxsize=64)
def _exact_decoder(model: type) -> msgspec.json.Decoder[Any] | None:
    """Return what reads a body that has only the fields of `model`, spelled like them.

    None where a field could be more than a text or a flag: how many values it has counts first.
    """
    if any(item.type not in (str, bool) for item in msgspec.structs.fields(model)):
        return None
    exact = msgspec.defstruct(model.__name__, [], bases=(model,), forbid_unknown_fields=True)
    return msgspec.json.Decoder(exact)


def _has_many_values(body: bytes) -> bool:
    """Say whether a body may have so many values that building them would be felt.

    The counts are bounds: text within strings counts as well. Raises BadInput when it has too many
    strings; a quote that opens one never follows a backslash, one within one always does.
    """
    if len(body) <= MANY_VALUES:
        return False
    if body.count(b'"') - body.count(b'\\"') > MOST_STRINGS:
        raise BadInput("invalid request body: too many values")
    return body.count(b",") + body.count(b"[") + body.count(b"{") > MANY_VALUES


def _strictly(body: bytes, model: type) -> dict[str, Any]:
    """Return the known fields of an object; raises BadInput."""
    try:
        found: Any = msgspec.json.decode(body, type=_raw_fields(model))
        values: dict[str, Any] = {}
        for item in msgspec.structs.fields(model):
            raw = bytes(getattr(found, item.name))
            if raw not in (b"", b"null"):
                values[item.encode_name] = _field(raw, item.type)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"invalid request body: {error}") from None
    return values


def _field(raw: bytes, kind: Any) -> Any:
    if kind is str or _has_many_values(raw):
        return msgspec.json.decode(raw, type=kind)
    return _fold(_first_value(raw), kind)


@lru_cache(maxsize=64)
def _raw_fields(model: type) -> type:
    """Make a struct with the names of `model` whose values are left as they are written."""
    items = msgspec.structs.fields(model)
    names = {item.name: item.encode_name for item in items}
    fields = [(item.name, msgspec.Raw, msgspec.Raw(b"")) for item in items]
    return msgspec.defstruct(f"Raw{model.__name__}", fields, rename=names)


def _first_value(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"invalid request body: {error}") from None
    return _without_surrogates(value)


def _without_surrogates(value: Any) -> Any:
    """Replace lone surrogates by U+FFFD, as Go's decoder does."""
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)  # the decoder has joined all pairs
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value


@lru_cache(maxsize=256)
def _fields(model: type) -> dict[str, tuple[str, Any]]:
    return {
        item.encode_name.lower(): (item.encode_name, item.type)
        for item in msgspec.structs.fields(model)
    }


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
