"""Request bodies: bounded, and JSON read as leniently as the contract says.

Keys match case-insensitively, unknown keys and bytes after the first value are ignored, `null`
is the default, the Content-Type does not matter.
"""

import json
from functools import lru_cache
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from starlette.requests import Request

from sandkeeper.errors import BadInput, TooLarge

__all__ = ["parse_json", "read_body", "read_json"]

T = TypeVar("T")


async def read_body(request: Request, limit: int) -> bytes:
    """Read the whole body; raises TooLarge past `limit` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"request body is larger than {limit} bytes")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"request body is larger than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def read_json(request: Request, model: type[T], limit: int) -> T:
    """Read the body as `model`; raises BadInput with the contract's prefix, or TooLarge."""
    return parse_json(await read_body(request, limit), model)


def parse_json(body: bytes, model: type[T]) -> T:
    """Parse `body` as `model`; raises BadInput `invalid request body: …`."""
    if not body.strip():
        raise BadInput("invalid request body: EOF")
    try:
        return msgspec.convert(_fold(_first_value(body), model), model)
    except msgspec.ValidationError as error:
        raise BadInput(f"invalid request body: {error}") from None


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
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
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
