"""Heads of HTTP/1 messages as the outgoing proxy sees them.

Beside every request that goes out stands a secret, so what reaches the next proxy must have one
meaning only: requests are read by h11, checked for what h11 lets pass, and written by h11 anew.
Bodies of a stated length pass as bytes, those in chunks are cut out and framed anew. One request a
connection is carried (`Connection: close` both ways), so a reply's body ends where its connection
does, and its framing passes unchanged.
"""

import re
from dataclasses import dataclass

import h11

from sandkeeper.network.hops import FRAMING, HOP_BY_HOP, named_by_connection

__all__ = ["BadHead", "ProxyRequest", "ReplyHead", "check_lines", "parse_request", "parse_response"]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STRAY = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FOLDED = re.compile(rb"\r\n[ \t]")
_HOST = rb"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#\\]+)"
_URI = re.compile(rb"http://(" + _HOST + rb"(?::[0-9]{0,5})?)(?:[/?][^#\\]*)?", re.IGNORECASE)
_AUTHORITY = re.compile(_HOST + rb":[0-9]{1,5}")
REFLECTING = frozenset({b"TRACE", b"TRACK"})
RAW_FRAMING = frozenset({b"transfer-encoding", b"trailer"})


class BadHead(Exception):
    """Not the head of an HTTP/1 message, or one that can be read in two ways; has a status."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


Fields = list[tuple[bytes, bytes]]


def check_lines(data: bytes, start: int = 0) -> None:
    """Look in a head, from `start` on, for what is no line end and no text; raises BadHead.

    A CR as the last byte may still become one.
    """
    if _STRAY.search(data, start):
        raise BadHead("a line feed, carriage return or control character in the head")


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """A request to a proxy: where to (`authority` is the host with its port), what with.

    `size` is that of the body in bytes, None when it comes in chunks; `reader` then cuts them out.
    `upgrades` says that both sides may change to WebSocket after it.
    """

    method: bytes
    target: bytes
    version: bytes
    authority: bytes
    fields: Fields
    size: int | None
    upgrades: bool
    reader: h11.Connection

    def encode(self, extra: Fields) -> bytes:
        """Write the head for the next proxy, with `extra`; a client's words to proxies are left."""
        dropped = HOP_BY_HOP | {b"host", b"via"} | named_by_connection(self.fields)
        kept: Fields = [(b"Host", self.authority)]
        kept += [
            (name, value)
            for name, value in self.fields
            if not {name.lower(), name.lower().replace(b"_", b"-")} & dropped
        ]
        if self.size is None:
            kept.append((b"Transfer-Encoding", b"chunked"))
        if self.upgrades:
            kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        elif self.method != b"CONNECT":
            kept.append((b"Connection", b"close"))
        return self._written([*kept, *extra])

    def encode_connect(self, extra: Fields) -> bytes:
        """Write the head that asks for a tunnel; what else a client says of it stays here."""
        agents = [field for field in self.fields if field[0].lower() == b"user-agent"][:1]
        return self._written([(b"Host", self.authority), *agents, *extra])

    def _written(self, fields: Fields) -> bytes:
        made = h11.Request(method=self.method, target=self.target, headers=fields)
        head = h11.Connection(h11.CLIENT).send(made) or b""
        if self.version == b"1.0":  # the reply must be one that this client can read
            head = head.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
        return head


def parse_request(data: bytes) -> ProxyRequest:
    """Parse a request's head, up to and including the empty line; raises BadHead."""
    check_lines(data)
    if _FOLDED.search(data):
        raise BadHead("a folded header field")
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    try:
        reader.receive_data(data)
        event = reader.next_event()
    except h11.RemoteProtocolError as error:
        raise BadHead(str(error)) from None
    if not isinstance(event, h11.Request) or event.http_version not in {b"1.0", b"1.1"}:
        raise BadHead("bad request line")
    if event.method.upper() in REFLECTING:
        raise BadHead("TRACE would show the proxy's token", 405)
    fields: Fields = [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
    if named_by_connection(fields) & FRAMING:
        raise BadHead("a Connection field names what the message needs")
    return ProxyRequest(
        event.method,
        event.target,
        event.http_version,
        _authority(event.method, event.target),
        fields,
        _body_size(event),
        event.method == b"GET" and _is_websocket(fields),
        reader,
    )


def _authority(method: bytes, target: bytes) -> bytes:
    """Return the host that a request is for: the target says it, whatever Host says (RFC 9112)."""
    if method.upper() == b"CONNECT":
        if method != b"CONNECT" or not _AUTHORITY.fullmatch(target):
            raise BadHead("CONNECT needs host:port")
        return target
    found = _URI.fullmatch(target)
    if found is None:
        raise BadHead("the request needs an absolute http:// URI")
    return found[1]


def _body_size(event: h11.Request) -> int | None:
    fields = dict(event.headers)
    length = fields.get(b"content-length")
    if b"transfer-encoding" in fields:
        if length is not None or event.http_version == b"1.0":
            raise BadHead("two meanings of the body's length")
        size = None
    else:
        size = int(length or 0)
    if event.method == b"CONNECT" and (length is not None or size is None):
        raise BadHead("CONNECT has no body")
    return size


def _is_websocket(fields: Fields) -> bool:
    """Say whether a client asks for WebSocket; other protocols (h2c) would hide requests."""
    wanted = [value.strip().lower() for name, value in fields if name.lower() == b"upgrade"]
    return wanted == [b"websocket"] and b"upgrade" in named_by_connection(fields)


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """The head of a reply: version, status and reason, and its fields in order."""

    version: bytes
    code: bytes
    reason: bytes
    fields: Fields

    @property
    def status(self) -> int:
        """The status."""
        return int(self.code)

    def encode(self, *, upgrade: bool = False) -> bytes:
        """Write the head without hop-by-hop fields and with its own Connection."""
        dropped = HOP_BY_HOP - RAW_FRAMING | (named_by_connection(self.fields) - FRAMING)
        kept = [(key, value) for key, value in self.fields if key.lower() not in dropped]
        if upgrade:
            kept += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        else:
            kept.append((b"Connection", b"close"))
        lines = [b" ".join((self.version, self.code, self.reason)).rstrip()]
        lines += [key + b": " + value for key, value in kept]
        return b"\r\n".join(lines) + b"\r\n\r\n"


def parse_response(data: bytes) -> ReplyHead:
    """Parse a reply's head, up to and including the empty line; raises BadHead."""
    check_lines(data)
    line, *rest = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    version, _, after = line.partition(b" ")
    status, _, reason = after.partition(b" ")
    if not re.fullmatch(rb"HTTP/1\.[01]", version) or not re.fullmatch(rb"[1-9][0-9]{2}", status):
        raise BadHead("bad status line")
    fields: Fields = []
    for one in rest:
        key, colon, value = one.partition(b":")
        if not colon or not _TOKEN.fullmatch(key):
            raise BadHead("bad header field")
        fields.append((key, value.strip(b" \t")))
    return ReplyHead(version, status, reason, fields)
