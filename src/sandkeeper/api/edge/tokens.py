"""The credentials in a request: one reading gives what is offered and the request without it.

Whatever is taken for a token here is also what is taken out of a request that goes on to a server
of the sandbox, because both are the same walk: there is no spelling that opens this server and
travels on.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from sandkeeper.api.edge.connections.fields import first_fields
from sandkeeper.errors import BadInput
from sandkeeper.patterns import pattern

__all__ = [
    "LINK",
    "LINK_PARAMETER",
    "PARAMETERS",
    "SESSION",
    "SESSION_COOKIE",
    "SESSION_FIELD",
    "SESSION_PROTOCOL",
    "TICKET",
    "TICKET_COOKIE",
    "TOKEN",
    "in_address",
    "links",
    "named_offers",
    "offers",
    "sift",
]

Fields = list[tuple[bytes, bytes]]
Ours = Callable[[str, bytes], bool]

TOKEN, TICKET, LINK, SESSION = "token", "ticket", "link", "session"
TICKET_COOKIE = b"sandkeeper_port"
SESSION_COOKIE = b"sandkeeper_session_"
"""Eight hexadecimal digits follow, by which servers of one host are told apart."""
SESSION_FIELD = b"x-sandkeeper-session"
SESSION_PROTOCOL = "sandkeeper.session."
"""Where a page shows its half of a session: this field, or a WebSocket's subprotocol."""
COOKIES = {b"sandkeeper_token": TOKEN, TICKET_COOKIE: TICKET}
BEARERS = frozenset(
    {
        *(b"authorization", b"x-access-token", b"x-api-key", b"x-blaxel-authorization"),
        b"e2b-traffic-access-token",
    }
)
CARRIERS = BEARERS | {
    *(b"x-blaxel-preview-token", b"sec-websocket-protocol", b"cookie", SESSION_FIELD),
}
"""All fields in which a credential may stand."""
PARAMETERS = ("token", "bl_preview_token")
LINK_PARAMETER = b"sandkeeper_link_token"
"""What opens a port by a link; only we write it, so it has one spelling."""


def _spelled(name: str) -> str:
    """Return an expression for a name in a query, each character plain or as an escape."""
    return "".join(
        "(?:{}|%{})".format(one, "".join(_digit(digit) for digit in f"{ord(one):02x}"))
        for one in name
    )


def _digit(digit: str) -> str:
    return digit if digit.isdigit() else f"[{digit}{digit.upper()}]"


_NAMES = "|".join(map(_spelled, PARAMETERS))
_OFFER = pattern(rf"&(?:{_NAMES})=([^&]*)".encode())
_LINK = pattern(rb"&" + LINK_PARAMETER + rb"=([^&]*)")
_COOKIE = pattern(rb"sandkeeper_(?:token|port|session_[0-9a-f]{8})\s*=[^;]*")
_ESCAPED = pattern(rb"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)
_T = TypeVar("_T")
IN_QUERY = "sandkeeper.offers"
MOST = 32
"""So many tokens may stand in one query, and so many in one Cookie field."""
LONGEST = 4096
"""No token has more bytes: longer values need not be decoded."""


def offers(scope: Scope, kind: str = TOKEN) -> list[bytes]:
    """Return every value that a request offers as a token (or as a ticket of one port).

    A token may stand in `Authorization: Bearer`, in `X-Blaxel-Authorization`, `X-Access-Token`,
    `X-API-Key` or `E2B-Traffic-Access-Token` (what the SDKs send), in `X-Blaxel-Preview-Token`, in
    the cookie `sandkeeper_token`, or, for browsers' WebSocket and EventSource that cannot set
    headers, in the query (`token`, `bl_preview_token`). Raises BadInput for more of them than
    anybody needs: each costs time.
    """
    found: list[bytes] = []
    if not scope["query_string"] and CARRIERS.isdisjoint(first_fields(scope)):
        return found

    def take(seen: str, value: bytes) -> bool:
        if seen == kind:
            found.append(value)
        return False

    sift(scope, take)
    return found


def named_offers(scope: Scope, kind: str) -> list[tuple[bytes, bytes]]:
    """Return names and values of the cookies of a kind in a request; raises as `offers`."""
    if b"cookie" not in first_fields(scope):
        return []
    return [
        (name, value)
        for field, line in scope["headers"]
        if field == b"cookie"
        for name, value in _named_cookies(line)
        if _kind_of(name) == kind
    ]


def in_address(scope: Scope, ours: Ours) -> bool:
    """Say whether the address of a request holds a token that is `ours`; raises as `offers`."""
    return any(ours(TOKEN, value) for _, _, value in _in_query(scope))


def links(scope: Scope) -> list[bytes]:
    """Return the tickets of links in the query of a request; raises as `offers`."""
    query: bytes = scope["query_string"]
    if LINK_PARAMETER not in query:
        return []
    return [found[1] for found in _few(_LINK.finditer(b"&" + query))]


def sift(scope: Scope, ours: Ours) -> tuple[Fields, bytes]:
    """Return a request's fields and query without the credentials for which `ours` is true.

    `ours` is asked for each with its kind, TOKEN, TICKET or LINK. What it leaves stays byte for
    byte.
    Raises as `offers`.
    """
    fields: Fields = []
    for name, value in scope["headers"]:
        kept = _sift_field(name, value, ours)
        if kept is not None:
            fields.append((name, kept))
    return fields, _sift_query(scope, ours)


def _sift_field(name: bytes, value: bytes, ours: Ours) -> bytes | None:
    if name in BEARERS:
        return None if ours(TOKEN, _bearer(value)) else value
    if name == SESSION_FIELD:
        return None if ours(SESSION, value) else value
    if name == b"x-blaxel-preview-token":
        return None if ours(TOKEN, value) else value
    if name == b"sec-websocket-protocol":
        return _sift_protocols(value, ours)
    return _sift_cookies(value, ours) if name == b"cookie" else value


def _sift_protocols(value: bytes, ours: Ours) -> bytes | None:
    """Take sessions out of the subprotocols that a WebSocket offers."""
    prefix = SESSION_PROTOCOL.encode()
    if prefix not in value:
        return value
    offered = [one.strip() for one in value.split(b",")]
    kept = [
        one
        for one in offered
        if not (one.startswith(prefix) and ours(SESSION, one.removeprefix(prefix)))
    ]
    return value if len(kept) == len(offered) else b", ".join(kept) or None


def _bearer(value: bytes) -> bytes:
    kind, _, rest = value.partition(b" ")
    return rest.strip() if kind.lower() == b"bearer" else value


def _sift_cookies(value: bytes, ours: Ours) -> bytes | None:
    """Take cookies out of a Cookie field (RFC 6265, section 4.2.1: pairs with `;` in between)."""
    if b"sandkeeper_" not in value:
        return value
    line = b";" + value
    kept, end = [], 0
    for start, found in _few(_cookies(line)):
        name, _, held = found[0].partition(b"=")
        if ours(_kind_of(name.rstrip()), _cookie_value(held)):
            kept.append(line[end:start])
            end = found.end()
    if not kept:
        return value
    return b"".join([*kept, line[end:]]).strip(b"; \t") or None


def _named_cookies(value: bytes) -> list[tuple[bytes, bytes]]:
    if b"sandkeeper_" not in value:
        return []
    pairs = [found[0].partition(b"=") for _, found in _few(_cookies(b";" + value))]
    return [(name.rstrip(), _cookie_value(held)) for name, _, held in pairs]


def _kind_of(cookie: bytes) -> str:
    return COOKIES.get(cookie, SESSION)


def _cookies(line: bytes) -> Iterator[tuple[int, re.Match[bytes]]]:
    """Yield the cookies that may be ours and where the `;` before each is."""
    for found in _COOKIE.finditer(line):
        start = line.rfind(b";", 0, found.start())
        if not line[start + 1 : found.start()].strip():
            yield start, found


def _cookie_value(value: bytes) -> bytes:
    value = value.strip()
    if 1 < len(value) <= LONGEST and value.startswith(b'"') and value.endswith(b'"'):
        return _ESCAPED.sub(_unescaped, value[1:-1])
    return value


def _unescaped(found: re.Match[bytes]) -> bytes:
    """Read what a quoted cookie holds for a byte, as Python's `http.cookies` writes it."""
    octal, plain = found.groups()
    return bytes([int(octal, 8)]) if octal else plain


def _in_query(scope: Scope) -> list[tuple[int, int, bytes]]:
    """Return where in the query, with an `&` before it, tokens stand, and what they are; kept."""
    known: list[tuple[int, int, bytes]] | None = scope.get(IN_QUERY)
    if known is None:
        line = b"&" + scope["query_string"]
        found = _few(_OFFER.finditer(line))
        known = [(one.start(), one.end(), _meant(one[1])) for one in found]
        scope[IN_QUERY] = known
    return known


def _few(found: Iterator[_T]) -> list[_T]:
    few = list(islice(found, MOST + 1))
    if len(few) > MOST:
        raise BadInput("too many tokens")
    return few


def _sift_query(scope: Scope, ours: Ours) -> bytes:
    line = b"&" + scope["query_string"]
    kept, at = [], 0
    for start, end, value in _in_query(scope):
        if ours(TOKEN, value):
            kept.append(line[at:start])
            at = end
    rest = b"".join([*kept, line[at:]])
    if LINK_PARAMETER in rest:
        rest = _LINK.sub(lambda found: b"" if ours(LINK, found[1]) else found[0], rest)
    return rest[1:]


def _meant(value: bytes) -> bytes:
    if len(value) > 3 * LONGEST:
        return value
    return unquote_to_bytes(value.replace(b"+", b" "))
