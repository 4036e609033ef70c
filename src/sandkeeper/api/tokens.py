"""The credentials in a request: one reading gives what is offered and the request without it.

Whatever is taken for a token here is also what is taken out of a request that goes on to a server
of the sandbox, because both are the same walk: there is no spelling that opens this server and
travels on.
"""

import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

__all__ = ["TICKET", "TICKET_COOKIE", "TOKEN", "in_address", "offers", "sift"]

Fields = list[tuple[bytes, bytes]]
Ours = Callable[[str, bytes], bool]

TOKEN, TICKET = "token", "ticket"
TICKET_COOKIE = b"sandkeeper_port"
COOKIES = {b"sandkeeper_token": TOKEN, TICKET_COOKIE: TICKET}
BEARERS = frozenset({b"authorization", b"x-blaxel-authorization"})
PARAMETERS = ("token", "bl_preview_token")


def _spelled(name: str) -> str:
    """Return an expression for a name in a query, each character plain or as an escape."""
    return "".join(
        "(?:{}|%{})".format(one, "".join(_digit(digit) for digit in f"{ord(one):02x}"))
        for one in name
    )


def _digit(digit: str) -> str:
    return digit if digit.isdigit() else f"[{digit}{digit.upper()}]"


_NAMES = "|".join(map(_spelled, PARAMETERS))
_OFFER = re.compile(rf"(?:(?<=&)|\A)(?:{_NAMES})=([^&]*)".encode())
_ESCAPED = re.compile(rb"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)
_PAIR = re.compile(rf"(?:{_NAMES})=(.*)".encode(), re.DOTALL)


def offers(scope: Scope, kind: str = TOKEN) -> list[bytes]:
    """Return every value that a request offers as a token (or as a ticket of one port).

    A token may stand in `Authorization: Bearer`, in `X-Blaxel-Authorization` (what the SDKs send),
    in `X-Blaxel-Preview-Token`, in the cookie `sandkeeper_token`, or, for browsers' WebSocket and
    EventSource that cannot set headers, in the query (`token`, `bl_preview_token`).
    """
    found: list[bytes] = []

    def take(seen: str, value: bytes) -> bool:
        if seen == kind:
            found.append(value)
        return False

    sift(scope, take)
    return found


def in_address(scope: Scope, ours: Ours) -> bool:
    """Say whether the address of a request holds a token that is `ours`."""
    return any(ours(TOKEN, _meant(found[1])) for found in _OFFER.finditer(scope["query_string"]))


def sift(scope: Scope, ours: Ours) -> tuple[Fields, bytes]:
    """Return a request's fields and query without the credentials for which `ours` is true.

    `ours` is asked for each with its kind, TOKEN or TICKET. What it leaves stays byte for byte.
    """
    fields: Fields = []
    for name, value in scope["headers"]:
        kept = _sift_field(name, value, ours)
        if kept is not None:
            fields.append((name, kept))
    return fields, _sift_query(scope["query_string"], ours)


def _sift_field(name: bytes, value: bytes, ours: Ours) -> bytes | None:
    if name in BEARERS:
        return None if ours(TOKEN, _bearer(value)) else value
    if name == b"x-blaxel-preview-token":
        return None if ours(TOKEN, value) else value
    return _sift_cookies(value, ours) if name == b"cookie" else value


def _bearer(value: bytes) -> bytes:
    kind, _, rest = value.partition(b" ")
    return rest.strip() if kind.lower() == b"bearer" else value


def _sift_cookies(value: bytes, ours: Ours) -> bytes | None:
    """Take cookies out of a Cookie field (RFC 6265, section 4.2.1: pairs with `;` in between)."""
    if not any(name in value for name in COOKIES):
        return value
    parts = value.split(b";")
    kept = [part for part in parts if not _is_our_cookie(part, ours)]
    if len(kept) == len(parts):
        return value
    return b"; ".join(part.strip() for part in kept) or None


def _is_our_cookie(part: bytes, ours: Ours) -> bool:
    name, _, value = part.partition(b"=")
    kind = COOKIES.get(name.strip())
    if kind is None:
        return False
    value = value.strip()
    if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"'):
        value = _ESCAPED.sub(_unescaped, value[1:-1])
    return ours(kind, value)


def _unescaped(found: re.Match[bytes]) -> bytes:
    """Read what a quoted cookie holds for a byte, as Python's `http.cookies` writes it."""
    octal, plain = found.groups()
    return bytes([int(octal, 8)]) if octal else plain


def _sift_query(query: bytes, ours: Ours) -> bytes:
    # Looked for first: cutting a query of a megabyte in pieces is dear, and most have none.
    if not any(ours(TOKEN, _meant(found[1])) for found in _OFFER.finditer(query)):
        return query
    return b"&".join(part for part in query.split(b"&") if not _is_our_pair(part, ours))


def _is_our_pair(part: bytes, ours: Ours) -> bool:
    found = _PAIR.fullmatch(part)
    return found is not None and ours(TOKEN, _meant(found[1]))


def _meant(value: bytes) -> bytes:
    return unquote_to_bytes(value.replace(b"+", b" "))
