"""Who may call a port from a browser, and how a page there is told from a page of the API.

A page that is reached by a host name of its port has an origin of its own, and a browser keeps it
from this server and from other ports as any stranger's. A cookie of that host opens it.

A page behind `/port` comes from this server's own origin, but it is somebody else's: a program in
the sandbox wrote it. So it is served with `Content-Security-Policy: sandbox`, which gives it an
origin of its own, and every request it makes is one of a foreign page (`Origin: null`), which the
API refuses. What it asks of its own server is recognised by a ticket in its address: a browser
that opens `/port/3000/a` is sent to `/port/3000/~TICKET/a`, and all addresses relative to that hold
the ticket, whatever kind of request they are for.

A token in an address, or a link's ticket, is exchanged for a cookie that opens the port alone,
before a page is shown.
"""

import hmac
import re
from collections.abc import Iterable
from functools import partial
from urllib.parse import unquote, urlsplit

from starlette.responses import Response
from starlette.types import Scope

from sandkeeper.api.edge.connections.fields import first_fields
from sandkeeper.api.edge.hosts import Gate, UnknownHost
from sandkeeper.api.edge.tickets.grants import Grant
from sandkeeper.api.edge.tickets.sessions import Sessions
from sandkeeper.api.edge.tokens import (
    SESSION,
    TICKET,
    TICKET_COOKIE,
    TOKEN,
    in_address,
    links,
    offers,
    sift,
)
from sandkeeper.api.edge.urls import PORT_NAME, with_prefix
from sandkeeper.api.port.door import TICKET_IN_PATH, Door
from sandkeeper.api.port.tickets import COOKIE, LINK, PAGE, SECONDS, Tickets
from sandkeeper.errors import Forbidden
from sandkeeper.network.hops import Hops
from sandkeeper.patterns import pattern
from sandkeeper.settings.port_names import PortName

__all__ = ["Doors", "is_browser", "is_here"]

Fields = list[tuple[bytes, bytes]]

_PAGE_PATH = pattern(r"/port(?:-keep)?/[0-9]{1,5}(?:/|\Z)")
_HTML = pattern(rb"\btext/html\b", re.IGNORECASE)
NOT_THE_API = "pages behind /port may not use this API"
TOLD_BY_BROWSERS = frozenset(
    {
        *(b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest"),
        b"sec-fetch-user",
    }
)
UNASKED = "sandkeeper.unasked"
"""Set where a link alone lets a window in, without a click that the browser would tell of."""
UNTOLD = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
PREFIX = "/port"
READING = frozenset({"GET", "HEAD"})


class Doors:
    """Decides about each request whether it may pass to a port, or, from a page, to the API.

    `texts` are the tokens of this server; `restricted` says that not every page may use it.
    """

    def __init__(
        self, tickets: Tickets, sessions: Sessions, tokens: Iterable[str], *, restricted: bool
    ) -> None:
        self.tickets = tickets
        self.sessions = sessions
        self.texts = tuple(filter(None, tokens))
        self.restricted = restricted
        self._tokens = [token.encode() for token in self.texts]

    def opens(self, scope: Scope, gate: Gate) -> bool:
        """Say whether a ticket opens what a request is for; False leaves that to the token.

        Raises Forbidden for requests of pages that may not make them, and what the gate does.
        """
        door = Door.of(scope)
        if door is None:
            gate.check(scope)
            _refuse_pages(scope, gate)
            return False
        if door.name is not None:
            self._check_name(scope, gate, door, door.name)
        elif self.is_page(door):
            _check_page(scope, gate)
            return True
        else:
            gate.check(scope)
            if _field(scope, b"service-worker"):
                raise Forbidden("pages behind /port may have no service worker")
        if any(self._opens(door, one) for one in offers(scope, TICKET)):
            return True
        grant = self._linked(scope, door)
        return grant is not None and (not grant.once or scope["method"] in READING)

    def _check_name(self, scope: Scope, gate: Gate, door: Door, name: PortName) -> None:
        """Pass what is for a port's own host name; raises as the gate does.

        A link is word enough where a window is led to it: a browser counts a click for a few
        seconds only, and whoever asked for the link may have waited longer.
        """
        try:
            gate.check_port(scope, name)
        except UnknownHost:
            raise
        except Forbidden:
            if not (_leads_window(scope) and self._linked(scope, door)):
                raise
            scope[UNASKED] = True

    def shown(self, scope: Scope) -> str:
        """Return a path for the log: a ticket in it is not for everybody who reads that."""
        path: str = scope["path"]
        if "%" in path:
            path = unquote(path)
        if PORT_NAME in scope:
            return f"//{scope[PORT_NAME].host}{path}"
        return TICKET_IN_PATH.sub(r"\1", path) if path.startswith("/port") else path

    def is_page(self, door: Door) -> bool:
        """Say whether an address has the ticket of a page of that port."""
        return bool(door.ticket) and self.tickets.opens(PAGE, door.port, door.ticket)

    def is_ours(self, kind: str, value: bytes, host: str = "") -> bool:
        """Say whether what a request offers is a token or a ticket of this server."""
        if kind == TOKEN:
            return any(hmac.compare_digest(value, token) for token in self._tokens)
        if kind == SESSION:
            return self.sessions.made_here(value)
        ticket = COOKIE if kind == TICKET else LINK
        return any(self.tickets.made_here(ticket, value, one) for one in {host, ""})

    def without_credentials(self, scope: Scope, door: Door) -> tuple[Fields, bytes]:
        """Return fields and query of a request as its port may see them."""
        return sift(scope, partial(self.is_ours, host=door.host))

    async def answer(self, scope: Scope, door: Door) -> Response | None:
        """Return what a browser is told before anything is asked of the port; None: nothing.

        That is where to go with a ticket, or, for a page's preflight, that it may ask. Raises
        Forbidden when somebody else was quicker to open a link that is good once.
        """
        if scope["method"] == "OPTIONS":
            return _preflight(scope) if self.is_page(door) else None
        if scope["method"] not in READING:
            return None
        if links(scope) and (answer := await self._visit(scope, door)) is not None:
            return answer
        if _is_for_reading(scope) and in_address(scope, self.is_ours):
            cookie = self.tickets.issue(COOKIE, door.port, door.host)
            return self._exchange(scope, door, cookie, SECONDS[COOKIE])
        if door.root == PREFIX and _is_navigation(scope) and not self.is_page(door):
            return _see_other(scope, self._page_address(door), scope["query_string"])
        if door.lacks_slash:
            return _with_slash(scope, door)
        return None

    def _opens(self, door: Door, ticket: bytes) -> bool:
        return self.tickets.opens(COOKIE, door.port, ticket, door.host)

    def _linked(self, scope: Scope, door: Door) -> Grant | None:
        found = (self.tickets.grant_of(door.port, door.host, one) for one in links(scope))
        return next(filter(None, found), None)

    async def _visit(self, scope: Scope, door: Door) -> Response | None:
        """Exchange a link for a cookie; a look ahead or at the head alone spends none.

        An old link in the hand of somebody who may is only tidied away, a server's own like it not.
        """
        grant = self._linked(scope, door)
        if grant is None:
            _, query = self.without_credentials(scope, door)
            if query == scope["query_string"]:
                return None
            return _see_other(scope, door.address(), query)
        if grant.once and (scope["method"] == "HEAD" or b"prefetch" in _purpose(scope)):
            return Response(b"", 204, {"Cache-Control": "no-store"})
        seconds = int(grant.expires - self.tickets.grants.now())
        cookie = await self.tickets.cookie_for(grant)
        if cookie is None:
            raise Forbidden("this link was opened by somebody already")
        return self._exchange(scope, door, cookie, SECONDS[COOKIE] if grant.once else seconds)

    def _exchange(self, scope: Scope, door: Door, cookie: str, seconds: int) -> Response:
        """Send a browser on to where it was going, with a cookie instead of the token."""
        _, query = self.without_credentials(scope, door)
        in_tab = _field(scope, b"sec-fetch-dest") in (None, b"document")
        secure = "; Secure" if scope["scheme"] == "https" else ""
        way = f"SameSite=Lax{secure}"
        if door.name is not None:
            where, path = door.address(), "/"
            if not in_tab:  # in a frame of a page that may, apart from those of other such pages
                way = "SameSite=None; Secure; Partitioned"
        else:
            # Inside of another site's page the cookie would not be sent.
            where = door.address() if in_tab else self._page_address(door)
            path = with_prefix(scope, door.base + "/")
        answer = (_go_on if scope.get(UNASKED) else _see_other)(scope, where, query)
        answer.headers["Set-Cookie"] = (
            f"{TICKET_COOKIE.decode()}={cookie}; Path={path}; Max-Age={seconds}; HttpOnly; {way}"
        )
        return answer

    def _page_address(self, door: Door) -> str:
        return door.address(self.tickets.issue(PAGE, door.port))


def _refuse_pages(scope: Scope, gate: Gate) -> None:
    """Refuse the API to whatever shows that it is a page behind some port.

    That is a second line: where not every page may use the API, such a page may not either.
    """
    sent = first_fields(scope)
    if b"via" in sent and Hops.for_page(scope["headers"]):
        raise Forbidden(NOT_THE_API)
    if not sent.get(b"referer"):
        return
    address = sent[b"referer"][:8192].decode("latin-1")
    if gate.is_of_port(_place(address)) and not _is_navigation(scope):
        raise Forbidden(NOT_THE_API)
    if not is_here(scope, address):
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
    host = _place(address).encode("latin-1", "replace")
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


def _with_slash(scope: Scope, door: Door) -> Response:
    """Lead to the root of a port, to which addresses on its first page are relative."""
    answer = _see_other(scope, door.address(door.ticket.decode()), scope["query_string"])
    answer.status_code = 301 if scope["method"] == "GET" else 307
    return answer


def _purpose(scope: Scope) -> bytes:
    return _field(scope, b"sec-purpose") or _field(scope, b"purpose") or b""


def _place(address: str) -> str:
    """Return the host and port of an address."""
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return ""


def _target(scope: Scope, path: str, query: bytes) -> str:
    return with_prefix(scope, path) + ("?" + query.decode("latin-1") if query else "")


def _see_other(scope: Scope, path: str, query: bytes) -> Response:
    return Response(b"", 303, {"Location": _target(scope, path, query), **UNTOLD})


def _go_on(scope: Scope, path: str, query: bytes) -> Response:
    """Lead on by a page of the port's own origin: a redirect would still come from another's."""
    from html import escape  # with every entity that has a name

    target = escape(_target(scope, path, query))
    text = (
        '<!doctype html><meta charset="utf-8"><title>Opening</title>'
        f'<meta http-equiv="refresh" content="0;url={target}"><a href="{target}">Open</a>\n'
    )
    headers = {"Content-Security-Policy": "default-src 'none'", **UNTOLD}
    return Response(text, 200, headers, media_type="text/html; charset=utf-8")


def _is_navigation(scope: Scope) -> bool:
    """Say whether a browser opens this as a document; older ones show it by what they prefer."""
    mode = _field(scope, b"sec-fetch-mode")
    if mode is None:
        return _field(scope, b"upgrade-insecure-requests") == b"1"
    return mode == b"navigate"


def _leads_window(scope: Scope) -> bool:
    """Say whether a browser leads a window to this, not a frame, and sends nothing along."""
    kind = _field(scope, b"sec-fetch-mode"), _field(scope, b"sec-fetch-dest")
    plain = scope["type"] == "http" and scope["method"] == "GET" and not _field(scope, b"origin")
    return plain and kind == (b"navigate", b"document")


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
    return first_fields(scope).get(wanted)
