"""JSON as leniently as the contract reads it, a piece that is short enough to be read at once.

Bytes that are no UTF-8 and lone surrogates become U+FFFD, integers may have any size, keys match
case-insensitively, and `null` is the default.
"""

import codecs
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin

import msgspec

from sandkeeper.journal.output import PIECE_BYTES
from sandkeeper.patterns import pattern

__all__ = ["ANYTHING", "bare", "built", "counted", "fields_of", "fold", "read_first", "values_in"]

ANYTHING = msgspec.json.Decoder(float_hook=float)
"""Its own reading of numbers takes ten times as long as Python's where many digits decide."""

COUNT_BYTES = 1 << 20
MENDINGS = 2
"""What stands behind the first value is cut off, then what is no text is replaced."""

_SURROGATE = pattern(
    rb"\\(?:[^u]|u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(u[dD][89a-fA-F][\da-fA-F]{2}))"
)
"""Escapes, of which the group is one of half a pair alone."""

_TRAILING = pattern(r"trailing characters \(byte (\d+)\)")

_ZEROES: dict[Any, Any] = {str: "", int: 0, bool: False}
"""What `null` stands for inside a list or a map."""


def read_first(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """Decode the first value of `body`; raises msgspec.DecodeError, UnicodeDecodeError."""
    for _ in range(MENDINGS):
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            trailing = _TRAILING.search(str(error))
            body = body[: int(trailing[1]) - 1] if trailing else _repaired(body)
    return decoder.decode(body)


def built(body: bytes) -> Any:
    """Decode the first value of `body` as objects; raises as `read_first`."""
    try:
        return read_first(body, ANYTHING)
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


def counted(body: bytes, what: bytes) -> int:
    """Return how often `what`, of one or two bytes, is in `body`; no call takes long."""
    more = len(what) - 1
    return sum(
        body.count(what, at, at + COUNT_BYTES + more) for at in range(0, len(body), COUNT_BYTES)
    )


def values_in(body: bytes) -> int:
    """Return how many values a body has at most; text within strings counts as well."""
    return counted(body, b",") + counted(body, b"[") + counted(body, b"{")


@lru_cache(maxsize=256)
def fields_of(model: type) -> Mapping[str, tuple[str, Any]]:
    """Return the name on the wire and the type of each field, by its name in small letters."""
    return {
        item.encode_name.lower(): (item.encode_name, bare(item.type))
        for item in msgspec.structs.fields(model)
    }


def bare(kind: Any) -> Any:
    """Return a type without what is only said about it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def fold(value: Any, kind: Any) -> Any:
    """Give the keys of objects the spelling of `kind` and drop nulls, which mean the default."""
    if value is None and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {}
    if value is None:
        return _ZEROES.get(kind)
    if isinstance(value, list) and get_origin(kind) is list:
        (item,) = get_args(kind)
        return [fold(element, item) for element in value]
    if isinstance(value, dict) and get_origin(kind) is dict:
        _, item = get_args(kind)
        return {key: fold(element, item) for key, element in value.items()}
    if not isinstance(value, dict):
        return value
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return value
    known = fields_of(kind)
    folded: dict[str, Any] = {}
    for key, element in value.items():
        if element is None or key.lower() not in known:
            continue
        name, inner = known[key.lower()]
        folded[name] = fold(element, inner)
    return folded
