"""Who may ask, by the names and origins that browsers tell: one rule for HTTP and WebSockets.

A browser sends requests for any page to any server that it reaches, whether the page may read the
answers or not. Three things that no page can forge tell such requests from others:

- `Host` (RFC 9110, 7.2) is the name in the page's address bar or in its script. A page whose own
  name was pointed at this machine (DNS rebinding) sends that name.
- `Origin` (RFC 6454; Fetch, 3.2) is sent with everything but plain GET and HEAD, and by WebSockets.
- `Sec-Fetch-Site`, `-Mode`, `-Dest`, `-User` (Fetch Metadata) are sent with everything to loopback
  and to https, and tell whether it was the page's own origin, and what it is for.

Whoever sends none of them is no page of another origin: clients of all other kinds pass as ever.
"""

import socket
from functools import lru_cache
from ipaddress import ip_address
from typing import NoReturn
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import Scope

from sandkeeper.api.edge.connections.fields import first_fields
from sandkeeper.api.edge.respond import error_response
from sandkeeper.api.edge.subject import Gateways
from sandkeeper.api.edge.urls import is_for_port
from sandkeeper.errors import BadInput, Forbidden, SandkeeperError
from sandkeeper.linux.addresses import is_loopback
from sandkeeper.patterns import pattern
from sandkeeper.settings import EdgeSettings, origin
from sandkeeper.settings.port_names import PortName

__all__ = ["OPEN_PATHS", "Gate", "UnknownHost", "is_own_page", "is_own_visit", "refusal"]

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Answered under any name: probes ask them by whatever address they have (an upgrade's guard calls
us `guard`), and what they tell is no secret."""

PAGES = frozenset(
    {
        *("/", "/terminal", "/terminal/", "/swagger", "/swagger/", "/swagger/index.html"),
        *("/swagger/doc.json", "/openapi.json", "/console", "/console/"),
    }
)
"""What a link on any page may lead to: it shows something and does nothing."""

OWN_VISIT = "sandkeeper.own_visit"
OWN_PAGE = "sandkeeper.own_page"
SITES = frozenset({b"", b"same-origin", b"none"})
"""Values of `Sec-Fetch-Site` that name no other page: absent, ours, and the person's own wish."""
READING = frozenset({"GET", "HEAD"})
FORWARDED = (b"x-forwarded-host", b"x-forwarded-proto")
WANTED = frozenset(
    {
        *(b"host", b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-mode"),
        *(b"sec-fetch-dest", b"sec-fetch-user", *FORWARDED),
    }
)
SEVERAL = b"?"
KNOWN_HOSTS = 64
"""So many names are remembered: the same few come with every request."""
_AUTHORITY = pattern(r"(\[[0-9a-f:.]+(?:%[^\]]+)?\]|[a-z0-9._~!$&'()*+;=-]*)(?::([0-9]{0,5}))?")

Seen = dict[bytes, bytes]


class UnknownHost(Forbidden):
    """The request calls this server by a name that is not its own."""


class Gate:
    """Admits requests by `edge`; `guarded` says that a token is asked for besides.

    Names are looked at without a token only: a page that had its name pointed at us knows none.
    `beyond` says that the server is reached from other machines than this: then names without a
    dot, which containers and services have in their own networks, are answered as well. Nobody can
    register one of those, and who rules the local resolver is on a network that reaches us anyway.
    """

    def __init__(
        self,
        edge: EdgeSettings,
        gateways: Gateways,
        *,
        guarded: bool,
        beyond: bool,
        terminal_origins: tuple[str, ...] = (),
    ) -> None:
        self._all = "*" in edge.origins
        self._origins = frozenset(edge.origins)
        self._terminal = frozenset(terminal_origins)
        self._gateways = gateways
        self._guarded = guarded
        self._beyond = beyond
        self._any_host = "*" in edge.hosts
        self._names = frozenset(name for name in edge.hosts if not name.startswith("*"))
        self._below = tuple(name[1:] for name in edge.hosts if name.startswith("*."))
        self._own_name = socket.gethostname().lower()
        self._port_names = edge.port_names
        self._knows = lru_cache(maxsize=KNOWN_HOSTS)(self._is_known)

    def check(self, scope: Scope) -> None:
        """Pass a request or WebSocket; raises Forbidden, or BadInput for a Host that is none."""
        seen = _seen(scope)
        if scope["path"] == "/mcp" or not self._knows(seen.get(b"host", b"")):
            self._check_name(scope, seen)
        if b"origin" not in seen and b"sec-fetch-site" not in seen:
            scope[OWN_VISIT] = self._all
            # Over http to other than loopback a browser says no more of its own pages' reads.
            scope[OWN_PAGE] = scope["type"] == "http" and scope["method"] in READING
            return  # no page of another origin, as most requests
        asker, site = _asker(seen), seen.get(b"sec-fetch-site", b"")
        listed = self._lists(scope, asker)
        scope[OWN_VISIT] = listed or site in {b"same-origin", b"none"}
        own = scope[OWN_PAGE] = self._is_own(scope, seen, "".join(_authority(scope, seen)))
        if not (own or listed or _is_visit(scope, seen)):
            _refuse(asker, "this API")

    def _check_name(self, scope: Scope, seen: Seen) -> None:
        host, _ = _authority(scope, seen)
        # Without the field, which HTTP/1.0 allows, it is no browser.
        if b"host" in seen and not self._answers_to(scope, host):
            raise UnknownHost(
                f'this server does not answer to the name "{host[:256]}": '
                "SANDKEEPER_HOSTS lists further names"
            )

    def check_port(self, scope: Scope, name: PortName) -> None:
        """Pass what is for a port by its own host name; raises as `check`.

        Beside the pages of that very port those of the same sandbox's other ports may ask: what
        they get to read is for the server there to say, as on any machine.
        """
        seen = _seen(scope)
        host, port = _authority(scope, seen)
        if name.is_open and not self._vouches(scope, name):
            raise UnknownHost(
                f'this server does not know the name "{host[:256]}": SANDKEEPER_PORT_HOSTS or '
                "SANDKEEPER_HOSTS name it"
            )
        if b"origin" not in seen and b"sec-fetch-site" not in seen:
            return
        asker = _asker(seen)
        if self._all or asker in self._origins or _is_visit(scope, seen, clicked=True):
            return
        own = self._own_origin(scope, seen, host + port)
        if not (self._is_beside(asker, own, name) or self._is_own(scope, seen, host + port)):
            _refuse(asker, f"port {name.port}")

    def _is_beside(self, asker: str, own: str, name: PortName) -> bool:
        """Say whether an origin is that of another port, by another name of the same kind."""
        beside = self._port_names.find(asker.partition("://")[2].encode("latin-1", "replace"))
        if beside is None or beside.base != name.base:
            return False
        return asker == own.replace(name.host, beside.host, 1)

    def is_of_port(self, place: str) -> bool:
        """Say whether an authority (`host:port`) is that of a port's pages."""
        return self._port_names.find(place.encode("latin-1", "replace")) is not None

    def _vouches(self, scope: Scope, name: PortName) -> bool:
        """Say whether nobody else can have this name lead here, or we need no name to be safe."""
        below = name.base.removeprefix("*.")
        known = any(self._is_listed(scope, one) for one in (name.host, below))
        return known or self._guarded or self._is_own_name(below)

    def _is_own(self, scope: Scope, seen: Seen, place: str) -> bool:
        """Say whether it is a page of the very origin it asks, or the person."""
        site = seen.get(b"sec-fetch-site", b"")
        if b"origin" in seen and site in {b"", b"none"}:
            return _asker(seen) == self._own_origin(scope, seen, place)
        return site in SITES

    def _lists(self, scope: Scope, asker: str) -> bool:
        """Say whether pages of an origin may ask beside our own; `*` are not those of ports."""
        terminal = scope["path"] == "/terminal/ws"
        if asker in self._origins or (terminal and asker in self._terminal):
            return True
        every = self._all or (terminal and "*" in self._terminal)
        return every and not self.is_of_port(asker.partition("://")[2])

    def _is_listed(self, scope: Scope, name: str) -> bool:
        """Say whether the operator, or a gateway, has named a name."""
        return self._is_named(name) or self._is_from_afar(scope)

    def _is_named(self, name: str) -> bool:
        return self._any_host or name in self._names or name.endswith(self._below)

    def _answers_to(self, scope: Scope, host: str) -> bool:
        name = host.removesuffix(".")
        if scope["path"] in OPEN_PATHS or self._is_listed(scope, name):
            return True
        if scope["path"] == "/mcp" and is_loopback((scope.get("server") or ("", 0))[0]):
            return _is_loopback_name(name)  # the contract's rule, with a token too
        return self._guarded or self._is_own_name(name)

    def _is_known(self, value: bytes) -> bool:
        """Say whether a Host field is valid and its name answered to, whoever asks for what.

        On `/mcp` it may not be, and what is not known may be answered to all the same.
        """
        found = _parsed(value) if value else None
        if found is None:
            return False
        name = found[0].removesuffix(".")
        return self._guarded or self._is_named(name) or self._is_own_name(name)

    def _is_from_afar(self, scope: Scope) -> bool:
        """Say whether a gateway vouches for the name: one on this machine may as well be a browser.

        A page that had its name lead here could send what a gateway sends.
        """
        return self._gateways.vouch(scope) and not is_loopback((scope.get("client") or ("",))[0])

    def _is_own_name(self, name: str) -> bool:
        """Say whether a name needs nobody's word: nobody else can have it lead anywhere."""
        if self._beyond and name and "." not in name:
            return True
        return name == self._own_name or _is_loopback_name(name) or _is_address(name)

    def _own_origin(self, scope: Scope, seen: Seen, place: str) -> str:
        """Return the origin of our own pages, as they see it: a trusted gateway may name it."""
        scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
        if self._gateways.vouch(scope):
            place = _first(seen, b"x-forwarded-host") or place
            scheme = _first(seen, b"x-forwarded-proto") or scheme
        return _as_origin(f"{scheme}://{place}")


def is_own_visit(scope: Scope) -> bool:
    """Say whether a page was asked for by the person, by our own pages or by a listed one.

    False where the browser does not tell (http to other than loopback, and no browser at all).
    """
    return bool(scope.get(OWN_VISIT))


def is_own_page(scope: Scope) -> bool:
    """Say whether a page of this very origin asks, or the person; no other origin, listed or not.

    What comes along with every request of a browser counts for these alone.
    """
    return bool(scope.get(OWN_PAGE))


def refusal(scope: Scope, error: SandkeeperError) -> Response:
    """Return the answer to a request that does not pass: on `/mcp` a name's is the contract's."""
    if isinstance(error, UnknownHost) and scope["path"] == "/mcp":
        sent = first_fields(scope).get(b"host", b"")
        text = f'Forbidden: invalid Host header "{sent.decode("latin-1")}"'
        return Response(text, 403, media_type="text/plain; charset=utf-8")
    return error_response(error)


def _seen(scope: Scope) -> Seen:
    """Return the fields that matter; one that came twice has no value that could be right."""
    first = first_fields(scope)
    if len(first) == len(scope["headers"]):
        return first
    seen: Seen = {}
    for name, value in scope["headers"]:
        if name in WANTED:
            again = name in seen and name not in FORWARDED
            seen[name] = SEVERAL if again else seen.get(name, value)
    return seen


def _authority(scope: Scope, seen: Seen) -> tuple[str, str]:
    """Return host and `:port` of the Host field, as they were written but for capitals.

    RFC 9112, 3.2: a request of HTTP/1.1 has exactly one, and it is valid. Raises BadInput.
    """
    if b"host" not in seen and scope.get("http_version") != "1.0":
        raise BadInput("a Host header is missing")
    found = _parsed(seen.get(b"host", b""))
    if found is None:
        raise BadInput("the Host header is not valid")
    return found


@lru_cache(maxsize=KNOWN_HOSTS)
def _parsed(value: bytes) -> tuple[str, str] | None:
    found = _AUTHORITY.fullmatch(value.decode("latin-1").lower())
    if found is None or int(found[2] or 0) > 65535:
        return None
    if found[1].startswith("[") and not _is_address(found[1]):
        return None
    return found[1], f":{found[2]}" if found[2] else ""


def _asker(seen: Seen) -> str:
    """Return the origin of the page that asks; "" where the browser does not tell.

    Without Origin a page that asks from elsewhere can withhold its address, and not forge one.
    """
    if b"origin" in seen:
        text = seen[b"origin"].decode("latin-1")
        return _as_origin(text) or text
    if seen.get(b"sec-fetch-site", b"") in SITES:
        return ""
    address = urlsplit(seen.get(b"referer", b"").decode("latin-1"))
    return _as_origin(f"{address.scheme}://{address.netloc}")


def _as_origin(text: str) -> str:
    try:
        return origin(text, "Origin")
    except ValueError:
        return ""


def _refuse(asker: str, what: str) -> NoReturn:
    who = asker[:256] or "another origin"
    raise Forbidden(
        f"pages of {who} may not use {what}: SANDKEEPER_CORS_ORIGINS lists those that may"
    )


def _is_visit(scope: Scope, seen: Seen, *, clicked: bool = False) -> bool:
    """Say whether a window is led to a page: without effects, or of a port and by a click."""
    if scope["type"] != "http" or scope["method"] not in READING or b"origin" in seen:
        return False
    if (seen.get(b"sec-fetch-mode"), seen.get(b"sec-fetch-dest")) != (b"navigate", b"document"):
        return False
    if seen.get(b"sec-fetch-user") == b"?1" and (clicked or is_for_port(scope)):
        return True
    return not clicked and scope["path"] in PAGES


@lru_cache(maxsize=KNOWN_HOSTS)
def _is_loopback_name(name: str) -> bool:
    """Say whether a name is this machine's for everybody (RFC 6761, 6.3; RFC 1122, 3.2.1.3)."""
    return name.endswith(".localhost") or is_loopback(name)


@lru_cache(maxsize=KNOWN_HOSTS)
def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def _first(seen: Seen, name: bytes) -> str:
    return seen.get(name, b"").partition(b",")[0].strip().decode("latin-1").lower()
