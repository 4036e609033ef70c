"""Heads of HTTP/1 messages as a proxy sees them: parsed, checked, stripped of hop-by-hop fields.

Bodies are not parsed: one request per connection is carried (`Connection: close` both ways), so a
reply's body ends where its connection does, and its framing passes through unchanged.
"""

import re
from dataclasses import dataclass

__all__ = ["BadHead", "Head", "parse_request", "parse_response"]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NAMES = b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te upgrade"
HOP_BY_HOP = frozenset(_NAMES.split())


class BadHead(Exception):
    """Not the head of an HTTP/1 message."""


Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Head:
    """A start line in three parts and its fields in order, as they were written."""

    first: bytes
    second: bytes
    third: bytes
    fields: Fields

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of a field, given in lower case."""
        return [value for key, value in self.fields if key.lower() == name]

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.second)

    @property
    def upgrades(self) -> bool:
        """Whether both sides may leave HTTP after this message."""
        named = b",".join(self.values(b"connection")).lower()
        return b"upgrade" in named and bool(self.values(b"upgrade"))

    def body_size(self) -> int | None:
        """Return the size of a request's body, None when it is chunked; raises BadHead."""
        lengths = {value.strip() for value in self.values(b"content-length")}
        codings = self.values(b"transfer-encoding")
        if codings:
            if lengths or codings[-1].strip().lower() != b"chunked":
                raise BadHead("two meanings of the body's length")
            return None
        if not lengths:
            return 0
        (length, *more) = lengths
        if more or not length.isdigit() or len(length) > 18:
            raise BadHead("bad Content-Length")
        return int(length)

    def encode(self, extra: Fields, *, upgrade: bool = False) -> bytes:
        """Write the head without hop-by-hop fields, with `extra` and its own Connection."""
        named = {
            word.strip().lower()
            for value in self.values(b"connection")
            for word in value.split(b",")
        }
        dropped = HOP_BY_HOP | named
        kept = [(key, value) for key, value in self.fields if key.lower() not in dropped]
        kept += extra
        if upgrade:
            kept += [(b"Connection", b"Upgrade"), (b"Upgrade", self.values(b"upgrade")[0])]
        else:
            kept.append((b"Connection", b"close"))
        lines = [b" ".join((self.first, self.second, self.third)).rstrip()]
        lines += [key + b": " + value for key, value in kept]
        return b"\r\n".join(lines) + b"\r\n\r\n"


def _fields(lines: list[bytes]) -> Fields:
    fields: Fields = []
    for line in lines:
        key, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(key) or b"\0" in value or b"\r" in value:
            raise BadHead("bad header field")
        fields.append((key, value.strip(b" \t")))
    return fields


def _lines(data: bytes) -> list[bytes]:
    return data.removesuffix(b"\r\n\r\n").split(b"\r\n")


def parse_request(data: bytes) -> Head:
    """Parse a request's head, up to and including the empty line; raises BadHead."""
    line, *rest = _lines(data)
    parts = line.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not parts[1]:
        raise BadHead("bad request line")
    if not re.fullmatch(rb"HTTP/1\.[01]", parts[2]) or re.search(rb"[\x00-\x20\x7f]", parts[1]):
        raise BadHead("bad request line")
    return Head(parts[0], parts[1], parts[2], _fields(rest))


def parse_response(data: bytes) -> Head:
    """Parse a response's head, up to and including the empty line; raises BadHead."""
    line, *rest = _lines(data)
    version, _, after = line.partition(b" ")
    status, _, reason = after.partition(b" ")
    if not re.fullmatch(rb"HTTP/1\.[01]", version) or not re.fullmatch(rb"[1-9][0-9]{2}", status):
        raise BadHead("bad status line")
    return Head(version, status, reason, _fields(rest))
