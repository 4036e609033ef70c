"""Long JSON texts, read in calls of bounded length.

A decoder keeps the interpreter for itself until it has come to its end, and everybody waits: a
tenth of a second for 16 MiB. Here none is given more than WINDOW bytes. What is longer is a text,
read piece by piece, or holds elements: those that are short are read many at once, long ones one
by one in the same way. Of what nobody knows nothing is built, but it must be JSON.
"""

import re
from collections.abc import Callable
from typing import Any, Final, get_args, get_origin

import msgspec

from sandkeeper.api.edge.bodies.lenient import fields_of, fold, values_in
from sandkeeper.patterns import for_good, pattern

__all__ = ["LongText"]

WINDOW = 64 << 10
DEEPEST = 64
"""So many long values may be in each other; each of them is looked at once more."""

DEEPEST_SHORT = 1000
"""No decoder goes as deep: it uses the interpreter's stack."""

FEW_VALUES = 1000
QUOTE: Final = ord('"')
COMMA: Final = ord(",")
CLOSING: Final = {ord("["): ord("]"), ord("{"): ord("}")}

_SPACE = pattern(rb"[ \t\r\n]*+")
_STRING = rb'"[^"\\]*+' + for_good(rb'\\.[^"\\]*+', b"*") + b'"'
_FLAT = for_good(rb'[^"\[\]{}]++|' + _STRING, b"*")
_PARTS = rb'[^"\[\]{},]++|' + _STRING + rb"|\[" + _FLAT + rb"\]|\{" + _FLAT + rb"\}"
_elements = pattern(for_good(for_good(_PARTS, b"+") + b",", b"*"), re.DOTALL)
"""Elements, each with its comma, that hold at most one array or object without others in it."""

_flat = pattern(_FLAT, re.DOTALL)
_scalar = pattern(rb'[^\s,:"\[\]{}]*+')
_key = pattern(_STRING + rb"[ \t\r\n]*+:", re.DOTALL)
_text = pattern(rb'[^"\\]*+' + for_good(rb'\\(?:[^u]|u.{4})[^"\\]*+', b"*"), re.DOTALL)
_second_half = pattern(rb"\\u[dD][c-fC-F].{2}", re.DOTALL)
_raw = msgspec.json.Decoder(msgspec.Raw)


class LongText:
    """One JSON text.

    `decode` makes objects of a piece; at most `most` values are passed over or read, at most
    `known` are read. Names of fields and numbers are shorter than `window`. All methods raise
    msgspec.DecodeError, and what `decode` raises.
    """

    def __init__(
        self,
        data: bytes,
        decode: Callable[[bytes], Any],
        *,
        most: int,
        known: int,
        window: int = WINDOW,
    ) -> None:
        self.data = data
        self.window = window
        self.decode = decode
        self._most = most
        self._known = known

    def first(self, kind: Any) -> tuple[Any, int]:
        """Return the first value, folded as `kind` wants it, and the offset behind it.

        What does not fit `kind` comes as something else that does not fit it either.
        """
        return self._value(self._space(0), kind, 0)

    def end(self, at: int) -> None:
        """Raise unless nothing but space is behind `at`."""
        if self._space(at) < len(self.data):
            raise msgspec.DecodeError(f"JSON is malformed: trailing characters (byte {at})")

    def _value(self, at: int, kind: Any, depth: int) -> tuple[Any, int]:
        first = self._char(at)
        if first == QUOTE:
            return self._string(at, kind)
        if first not in CLOSING:
            end = _scalar.match(self.data, at, at + self.window).end()  # type: ignore[union-attr]
            if not at < end < at + self.window:
                raise _malformed(at)
            return self._short(self.data[at:end], kind), end
        if end := self._end_of_short(at):
            return self._short(self.data[at:end], kind), end
        if depth == DEEPEST:
            raise _too_deep()
        return _Container(self, at, kind, depth + 1).read()

    def _short(self, raw: bytes, kind: Any) -> Any:
        self._count(raw, kind is not None)
        if kind is None:
            try:
                _raw.decode(raw)
            except msgspec.DecodeError:
                self.decode(b"[" + raw + b"]")  # which mends, or raises
            return None
        return fold(self.decode(b"[" + raw + b"]")[0], kind)

    def _count(self, raw: bytes, known: bool) -> None:
        count = values_in(raw)
        if count > FEW_VALUES:  # without what only looks like some, in texts
            plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
            count = values_in(b"".join(plain.split(b'"')[::2]))
        self._most -= count + 1
        self._known -= (count + 1) * known
        if min(self._most, self._known) < 0:
            raise msgspec.DecodeError("too many values")

    def _end_of_short(self, at: int) -> int:
        """Return where an array or object ends; 0 unless that is within one window."""
        last = min(at + self.window, len(self.data))
        depth = 0
        while True:
            at = _flat.match(self.data, at, last).end()  # type: ignore[union-attr]
            if at >= last or self.data[at] == QUOTE:
                return 0
            depth += 1 if self.data[at] in CLOSING else -1
            at += 1
            if depth == 0:
                return at
            if depth > DEEPEST_SHORT:
                raise _too_deep()

    def _string(self, at: int, kind: Any) -> tuple[Any, int]:
        pieces: list[str] = []
        at += 1
        while True:
            end = self._cut(at)
            piece = self.decode(b'"' + self.data[at:end] + b'"')
            if kind is not None:
                pieces.append(piece)
            if self.data[end : end + 1] == b'"':
                return None if kind is None else "".join(pieces), end + 1
            if end == at:
                raise msgspec.DecodeError("Input data was truncated")
            at = end

    def _cut(self, at: int) -> int:
        """Return where a piece of a text ends: behind a character, a pair of halves, an escape."""
        last = at + self.window
        end = self.data.find(b'"', at, last)
        if self.data.find(b"\\", at, last if end < 0 else end) < 0:  # as in most texts
            end = min(last, len(self.data)) if end < 0 else end
        else:
            end = _text.match(self.data, at, last).end()  # type: ignore[union-attr]
        if half := _second_half.match(self.data, end):
            return half.end()
        if end == last:
            for _ in range(3):
                end -= end < len(self.data) and self.data[end] & 0xC0 == 0x80
        return end

    def _space(self, at: int) -> int:
        end = -1
        while at != end:
            at, end = _SPACE.match(self.data, at, at + self.window).end(), at  # type: ignore[union-attr]
        return at

    def _char(self, at: int) -> int:
        if at >= len(self.data):
            raise msgspec.DecodeError("Input data was truncated")
        return self.data[at]


class _Container:
    """An array or object that is longer than one window."""

    def __init__(self, text: LongText, at: int, kind: Any, depth: int) -> None:
        self._text = text
        self._at = at
        self._depth = depth
        self._brackets = b"[]" if text.data[at] == ord("[") else b"{}"
        self._kind = _kind_within(kind, list if self._brackets == b"[]" else dict)
        self._made: Any = [] if self._brackets == b"[]" else {}
        self._nothing = kind is None

    def read(self) -> tuple[Any, int]:
        text, data = self._text, self._text.data
        at, comma = self._at + 1, False
        while True:
            end = _elements.match(data, at, at + text.window).end()  # type: ignore[union-attr]
            if end > at:
                self._add_short(data[at : end - 1])
                at, comma = end, True
                continue
            at = text._space(at)
            if text._char(at) != self._brackets[1] or comma:
                at = text._space(self._add_one(at))
            if text._char(at) == self._brackets[1]:
                return None if self._nothing else self._made, at + 1
            if data[at] != COMMA:
                raise _malformed(at)
            at, comma = at + 1, True

    def _add_short(self, raw: bytes) -> None:
        """Read elements, all but the last of which have their comma."""
        if not raw.strip():
            raise _malformed(self._at)
        found = self._text._short(self._brackets[:1] + raw + self._brackets[1:], self._kind)
        if found is not None:
            self._made.extend(found) if self._brackets == b"[]" else self._made.update(found)

    def _add_one(self, at: int) -> int:
        """Read one element; returns the offset behind it."""
        if self._brackets == b"[]":
            inner = get_args(self._kind)[0] if get_args(self._kind) else self._kind
            value, end = self._text._value(at, inner, self._depth)
            if self._kind is not None:
                self._made.append(value)
            return end
        data = self._text.data
        found = _key.match(data, at, at + self._text.window)
        if found is None:
            raise _malformed(at)
        key = self._text.decode(found[0][:-1].rstrip())
        at = self._text._space(found.end())
        name, inner = self._field(key, is_null=data[at : at + 4] == b"null")
        value, end = self._text._value(at, inner, self._depth)
        if inner is not None:
            self._made[name] = value
        return end

    def _field(self, key: str, *, is_null: bool) -> tuple[str, Any]:
        """Return how a key is spelled and the type of its value, None when it is not wanted."""
        if isinstance(self._kind, type) and issubclass(self._kind, msgspec.Struct):
            return ("", None) if is_null else fields_of(self._kind).get(key.lower(), ("", None))
        return key, get_args(self._kind)[1] if get_args(self._kind) else self._kind


def _kind_within(kind: Any, shape: type) -> Any:
    """Return what of `kind` a list or an object (`dict`) can be: itself, one of a union, or None.

    None as well where nothing is wanted.
    """
    for one in (kind, *get_args(kind)):
        is_struct = isinstance(one, type) and issubclass(one, msgspec.Struct)
        if one is Any or get_origin(one) is shape or (is_struct and shape is dict):
            return one
    return None


def _too_deep() -> msgspec.DecodeError:
    return msgspec.DecodeError("JSON is nested too deeply")


def _malformed(at: int) -> msgspec.DecodeError:
    return msgspec.DecodeError(f"JSON is malformed (byte {at})")
