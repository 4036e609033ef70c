"""Who may call `/port/N/` from a browser, and how a page there is told from a page of the API.

A page behind `/port` comes from this server's own origin, but it is somebody else's: a program in
the sandbox wrote it. So it is served with `Content-Security-Policy: sandbox`, which gives it an
origin of its own, and every request it makes is one of a foreign page (`Origin: null`), which the
API refuses. What it asks of its own server is recognised by a ticket in its address: a browser
that opens `/port/3000/a` is sent to `/port/3000/~TICKET/a`, and all addresses relative to that hold
the ticket, whatever kind of request they are for. Names for ports, which give each an origin
without such help, can take the place of this part (`Doors.of` finds port and ticket).

A token in an address is exchanged for a cookie that opens the port alone, before a page is shown.
"""

import hmac
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import Scope

from sandkeeper.api.edge.hosts import Gate
from sandkeeper.api.edge.tokens import TICKET, TICKET_COOKIE, in_address, offers, sift
from sandkeeper.api.edge.urls import raw_path, with_prefix
from sandkeeper.api.port.tickets import COOKIE, PAGE, Tickets
from sandkeeper.errors import Forbidden
from sandkeeper.network.hops import Hops

__all__ = ["Door", "Doors", "is_browser", "is_here"]

_DOOR = re.compile(
    rb"/port/([0-9]{1,5})(?:/~([0-9]{1,5}-[0-9a-f]{1,12}-[\w-]{32}))?(/.*)?", re.DOTALL
)
_TICKET_IN_PATH = re.compile(r"(/port/[0-9]{1,5}/~)[0-9]{1,5}-[0-9a-f]{1,12}-[\w-]{32}")
_PAGE_PATH = re.compile(r"/port/[0-9]{1,5}(?:/|\Z)")
_HTML = re.compile(rb"\btext/html\b", re.IGNORECASE)
NOT_THE_API = "pages behind /port may not use this API"
TOLD_BY_BROWSERS = frozenset(
    {
        *(b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest"),
        b"sec-fetch-user",
    }
)
WANTED = TOLD_BY_BROWSERS | {
    *(b"host", b"x-forwarded-host", b"accept", b"upgrade-insecure-requests", b"service-worker"),
    *(b"access-control-request-method", b"access-control-request-headers"),
}
SEEN = "sandkeeper.seen"
READING = frozenset({"GET", "HEAD"})


class Door:
    """A path below `/port` in parts: the port, the ticket that stands in it, what follows."""

    __slots__ = ("port", "rest", "ticket")

    def __init__(self, port: int, ticket: bytes, rest: bytes) -> None:
        self.port = port
        self.ticket = ticket
        self.rest = rest

    @classmethod
    def of(cls, scope: Scope) -> "Door | None":
        """Read a request's path; None when it leads to no port."""
        if not scope["path"].startswith("/port/"):
            return None
        found = _DOOR.fullmatch(raw_path(scope))
        port = int(found[1]) if found else 0
        if found is None or not 0 < port < 65536:
            return None
        return cls(port, found[2] or b"", found[3] or b"")

    def address(self, ticket: str = "") -> str:
        """Return the path of this, with a ticket in it or without."""
        middle = f"/~{ticket}" if ticket else ""
        return f"/port/{self.port}{middle}" + (self.rest or b"/").decode("latin-1")


class Doors:
    """Decides about each request whether it may pass to a port, or, from a page, to the API.

    `texts` are the tokens of this server; `restricted` says that not every page may use it.
    """

    def __init__(self, tickets: Tickets, tokens: Iterable[str], *, restricted: bool) -> None:
        self._tickets = tickets
        self.texts = tuple(filter(None, tokens))
        self.restricted = restricted
        self._tokens = [token.encode() for token in self.texts]

    def opens(self, scope: Scope, gate: Gate) -> bool:
        """Say whether a ticket opens what a request is for; False leaves that to the token.

        Raises Forbidden for requests of pages that may not make them, and what the gate does.
        """
        door = Door.of(scope)
        if door is not None and self.is_page(door):
            _check_page(scope, gate)
            return True
        gate.check(scope)
        if door is None:
            _refuse_pages(scope)
            return False
        if _field(scope, b"service-worker"):
            raise Forbidden("pages behind /port may have no service worker")
        return any(self._tickets.opens(COOKIE, door.port, one) for one in offers(scope, TICKET))

    def shown(self, path: str) -> str:
        """Return a path for the log: a ticket in it is not for everybody who reads that."""
        return _TICKET_IN_PATH.sub(r"\1", path) if path.startswith("/port/") else path

    def is_page(self, door: Door) -> bool:
        """Say whether an address has the ticket of a page of that port."""
        return bool(door.ticket) and self._tickets.opens(PAGE, door.port, door.ticket)

    def is_ours(self, kind: str, value: bytes) -> bool:
        """Say whether what a request offers is a token or a ticket of this server."""
        if kind == TICKET:
            return self._tickets.made_here(COOKIE, value)
        return any(hmac.compare_digest(value, token) for token in self._tokens)

    def answer(self, scope: Scope, door: Door) -> Response | None:
        """Return what a browser is told before anything is asked of the port; None: nothing.

        That is where to go with a ticket, or, for a page's preflight, that it may ask.
        """
        if scope["method"] == "OPTIONS":
            return _preflight(scope) if self.is_page(door) else None
        if scope["method"] not in READING:
            return None
        if _is_for_reading(scope) and in_address(scope, self.is_ours):
            return self._exchange(scope, door)
        if _is_navigation(scope) and not self.is_page(door):
            return _see_other(scope, self._page_address(door), scope["query_string"])
        return None

    def _exchange(self, scope: Scope, door: Door) -> Response:
        """Send a browser on to where it was going, with a cookie instead of the token."""
        _, query = sift(scope, self.is_ours)
        in_tab = _field(scope, b"sec-fetch-dest") in (None, b"document")
        # Inside of another site's page the cookie would not be sent.
        answer = _see_other(scope, door.address() if in_tab else self._page_address(door), query)
        path = with_prefix(scope, f"/port/{door.port}/")
        value = self._tickets.issue(COOKIE, door.port)
        secure = "; Secure" if scope["scheme"] == "https" else ""
        answer.headers["Set-Cookie"] = (
            f"{TICKET_COOKIE.decode()}={value}; Path={path}; HttpOnly; SameSite=Lax{secure}"
        )
        return answer

    def _page_address(self, door: Door) -> str:
        return door.address(self._tickets.issue(PAGE, door.port))


def _refuse_pages(scope: Scope) -> None:
    """Refuse the API to whatever shows that it is a page behind some port.

    That is a second line: where not every page may use the API, such a page may not either.
    """
    if Hops.for_page(scope["headers"]):
        raise Forbidden(NOT_THE_API)
    address = (_field(scope, b"referer") or b"")[:8192].decode("latin-1")
    if not address or not is_here(scope, address):
        return
    # A page of ours has an origin; one that has none is sandboxed, and so is from a port.
    nobody = _field(scope, b"origin") == b"null"
    foreign = _field(scope, b"sec-fetch-site") == b"cross-site" and not _is_navigation(scope)
    if nobody or foreign or _PAGE_PATH.search(_path(address)):
        raise Forbidden(NOT_THE_API)


def _check_page(scope: Scope, gate: Gate) -> None:
    """Pass what a page asks of its own server: it has a ticket, and no origin to be known by."""
    if _field(scope, b"service-worker"):
        raise Forbidden("pages behind /port may have no service worker")
    if _field(scope, b"origin") in (None, b"null"):
        told = [field for field in scope["headers"] if field[0] not in TOLD_BY_BROWSERS]
        gate.check({**scope, "headers": told})
    else:
        gate.check(scope)


def is_here(scope: Scope, address: str) -> bool:
    """Say whether an address is one of this host, as the client or a gateway calls it."""
    ours = {_field(scope, name) for name in (b"host", b"x-forwarded-host")} - {None}
    try:
        host = urlsplit(address).netloc.lower().encode("latin-1", "replace")
    except ValueError:
        return False
    return bool(host) and any(host == (one or b"").lower() for one in ours)


def is_browser(scope: Scope) -> bool:
    """Say whether a request looks like one of a browser; in doubt it does."""
    shown = {b"sec-fetch-mode", b"sec-fetch-site", b"origin", b"upgrade-insecure-requests"}
    return any(
        name in shown or (name == b"user-agent" and b"Mozilla/" in value)
        for name, value in scope["headers"]
    )


def _preflight(scope: Scope) -> Response | None:
    """A page asks its own server, which expects no preflight: it sees one origin only."""
    method = _field(scope, b"access-control-request-method")
    if method is None or _field(scope, b"origin") != b"null":
        return None
    fields = _field(scope, b"access-control-request-headers") or b""
    headers = {
        "Access-Control-Allow-Origin": "null",
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Methods": method.decode("latin-1"),
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }
    if fields:
        headers["Access-Control-Allow-Headers"] = fields.decode("latin-1")
    return Response(b"", 204, headers)


def _see_other(scope: Scope, path: str, query: bytes) -> Response:
    target = with_prefix(scope, path) + ("?" + query.decode("latin-1") if query else "")
    headers = {"Location": target, "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
    return Response(b"", 303, headers)


def _is_navigation(scope: Scope) -> bool:
    """Say whether a browser opens this as a document; older ones show it by what they prefer."""
    mode = _field(scope, b"sec-fetch-mode")
    if mode is None:
        return _field(scope, b"upgrade-insecure-requests") == b"1"
    return mode == b"navigate"


def _is_for_reading(scope: Scope) -> bool:
    """Say whether a person wants to see this, whatever the browser."""
    if _field(scope, b"sec-fetch-mode") is not None:
        return _is_navigation(scope)
    return bool(_HTML.search(_field(scope, b"accept") or b"")) or _is_navigation(scope)


def _path(address: str) -> str:
    try:
        return urlsplit(address).path
    except ValueError:
        return ""


def _field(scope: Scope, wanted: bytes) -> bytes | None:
    """Return the first value of a field; all that are looked at here are found in one pass."""
    seen: dict[bytes, bytes] | None = scope.get(SEEN)
    if seen is None:
        told = {name: value for name, value in reversed(scope["headers"]) if name in WANTED}
        seen = scope[SEEN] = told
    return seen.get(wanted)
