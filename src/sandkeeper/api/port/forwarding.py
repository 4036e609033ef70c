"""What a proxied request carries on: the target, its fields, how its body is framed.

Hop-by-hop fields (RFC 9110, section 7.6.1) stay on their hop. Credentials for this API stay here
too: a program in the sandbox must not learn the token that governs it.
"""

import re
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote, unquote_plus, urlsplit

from starlette.types import Scope

from sandkeeper.api.edge.connections.intake import check_codings
from sandkeeper.api.edge.subject import Gateways
from sandkeeper.api.edge.urls import with_prefix
from sandkeeper.api.port.answers import Addressee
from sandkeeper.api.port.door import Door
from sandkeeper.api.port.meant import MEANT
from sandkeeper.api.port.pages import is_browser, is_here
from sandkeeper.errors import BadInput, LoopDetected
from sandkeeper.network.hops import FRAMING, HOP_BY_HOP, MAX_HOPS, Hops, named_by_connection
from sandkeeper.network.upstream import Headers

__all__ = ["Forwarding", "PortTarget", "framing"]

OURS = frozenset(
    {
        *(b"host", b"content-length", b"expect", b"via"),
        *(b"x-blaxel-authorization", b"x-blaxel-preview-token", MEANT),
    }
)
"""Fields of a request that are made anew, or are meant for this server."""
TOLD_BY_GATEWAYS = frozenset(
    {
        *(b"forwarded", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip"),
        *(b"x-original-url", b"x-original-host", b"x-rewrite-url", b"x-host"),
    }
)
"""What servers believe about a request besides X-Forwarded-*, which nobody else may say."""
REFERER_BYTES = 8192
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_CODING = re.compile(
    rb"(?:trailers|(?:x-)?(?:compress|gzip)|deflate)(?:[ \t]*;[ \t]*q=[01](?:\.[0-9]{0,3})?)?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class PortTarget:
    """Where a request goes: the port and the request target, byte for byte as it came.

    `called` is the name by which the client calls the server, where it has one. Otherwise `prefix`
    is the path below which the client sees it; `is_page` says that a page of that server asks,
    `is_kept` that the path holds the prefix.
    """

    port: int
    path: bytes
    query: bytes
    called: bytes = b""
    prefix: bytes = b""
    is_page: bool = False
    is_kept: bool = False

    @property
    def full(self) -> bytes:
        """The path with the query."""
        return self.path + b"?" + self.query if self.query else self.path

    @property
    def host(self) -> bytes:
        """The value of the Host field."""
        if self.called:
            return self.called
        return b"localhost" if self.port == 80 else b"localhost:%d" % self.port


def framing(scope: Scope) -> tuple[bytes, bytes]:
    """Return the field that frames a request's body; an empty name when there is none.

    Raises BadInput for a transfer coding besides `chunked`: it would have to be kept whole, and a
    server that does not know it would take the body for something else. The same for a TE field
    that no client may send (RFC 9110, section 10.1.4), which some take for the other.
    """
    codings = [value for name, value in scope["headers"] if name == b"transfer-encoding"]
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    for name, value in scope["headers"]:
        if name == b"te" and not _is_te(value):
            raise BadInput("bad TE")
    if codings:
        try:
            check_codings(scope["headers"])
        except ValueError as error:
            raise BadInput(str(error)) from None
        if lengths:
            raise BadInput("two meanings of the body's length")
        return b"transfer-encoding", b"chunked"
    if lengths:
        if len(set(lengths)) > 1 or not lengths[0].isdigit():
            raise BadInput("bad Content-Length")
        return b"content-length", lengths[0]
    return b"", b""


def _is_te(value: bytes) -> bool:
    if len(value) > 1024:
        return False
    codings = filter(None, (one.strip() for one in value.split(b",")))
    return all(_CODING.fullmatch(one) for one in codings)


class Credentials(Protocol):
    """What is known of the credentials in a request (`pages.Doors`).

    `texts` are tokens; `restricted` says that not every page may use this server.
    """

    texts: tuple[str, ...]
    restricted: bool

    def is_page(self, door: Door) -> bool:
        """Say whether an address has the ticket of a page of that port."""

    def without_credentials(self, scope: Scope, door: Door) -> tuple[Headers, bytes]:
        """Return fields and query of a request as its port may see them."""


class Forwarding:
    """Makes of a request to `/port/N/` what the server there is told."""

    def __init__(self, doors: Credentials, gateways: Gateways, hops: Hops) -> None:
        self.doors = doors
        self._gateways = gateways
        self._hops = hops

    def target(self, scope: Scope) -> PortTarget:
        """Read where a request goes.

        Raises BadInput on a bad port or a path that leads back here, LoopDetected when the request
        has passed too many servers of this kind.
        """
        door = Door.of(scope)
        if door is None:
            raise BadInput("invalid port: a number from 1 to 65535 is wanted")
        if self._hops.count(scope["headers"]) >= MAX_HOPS:
            raise LoopDetected(f"this request has passed {MAX_HOPS} servers of this kind already")
        _, query = self.doors.without_credentials(scope, door)
        path = door.target(scope)
        own = door.port == (scope.get("server") or ("", 0))[1]
        if door.name is not None:
            if own:
                raise BadInput("this name is for the port of this server itself")
            called = next((v for k, v in scope["headers"] if k == b"host"), b"")
            return PortTarget(door.port, path, query, called)
        if own and path.startswith((b"/port/", b"/port-keep/")):
            raise BadInput("this path leads back to this server")
        is_page = self.doors.is_page(door)
        prefix = (door.page if is_page else door.base).encode()
        return PortTarget(door.port, path, query, b"", prefix, is_page, door.is_kept)

    def headers(self, scope: Scope, target: PortTarget) -> Headers:
        """Return the fields to send, without those that frame the body."""
        door = Door.of(scope)
        assert door is not None
        received, _ = self.doors.without_credentials(scope, door)
        dropped = HOP_BY_HOP | OURS | (named_by_connection(received) - FRAMING)
        trusted = self._gateways.vouch(scope)
        headers: Headers = [(b"host", target.host)]
        for name, value in received:
            meant = name.replace(b"_", b"-")  # to many servers the two are one (RFC 3875, 4.1.18)
            if meant in dropped or meant.startswith(b"x-forwarded-"):
                continue
            made_anew = meant == b"forwarded" and bool(target.called)
            if meant in TOLD_BY_GATEWAYS and (made_anew or not trusted):
                continue
            kept = self._as_seen_there(scope, target, name, value)
            if kept is not None:
                headers.append((name, kept))
        headers.append((b"via", self._hops.via(received, page=target.is_page)))
        return headers + _forwarded(scope, target, trusted=trusted)

    def audience(self, scope: Scope, target: PortTarget) -> Addressee:
        """Return whom the answer is for."""
        door = Door.of(scope)
        assert door is not None
        fields = dict(reversed(scope["headers"]))
        host = fields.get(b"host", b"").lower()
        if door.name is not None:
            return Addressee(host=door.host.encode())
        names = {f"{name}:{target.port}".encode() for name in LOCAL_NAMES}
        if target.port == 80:
            names |= {name.encode() for name in LOCAL_NAMES}
        base = with_prefix(scope, door.base).encode("latin-1")
        return Addressee(
            base,
            page=with_prefix(scope, door.page).encode("latin-1") if target.is_page else b"",
            knows_base=door.is_kept,
            hosts=frozenset({host, fields.get(b"x-forwarded-host", host).lower(), *names}),
            keeps_cookies=target.is_page or is_browser(scope),
            reads=target.is_page and fields.get(b"origin") == b"null",
            sends_cookies=target.is_page and self.doors.restricted and _is_secure(scope, host),
        )

    def _as_seen_there(
        self, scope: Scope, target: PortTarget, name: bytes, value: bytes
    ) -> bytes | None:
        """Return a field's value as it is on the other side; None leaves the field out.

        A page has no origin here, and one there: its server's.
        """
        if name == b"origin":
            return b"http://" + target.host if target.is_page and value == b"null" else value
        if name == b"sec-fetch-site":
            return b"same-origin" if target.is_page and value == b"cross-site" else value
        if name != b"referer":
            return value
        text = value.decode("latin-1")
        if len(text) > REFERER_BYTES or self._tells(text):
            return None  # a page opened with the token in its address, or it is too long to tell
        return _moved(scope, target, text) if target.is_page else value

    def _tells(self, address: str) -> bool:
        """Say whether an address holds a token, written plainly or with escapes."""
        forms = (address, unquote(address), unquote_plus(address))
        return any(token in form for form in forms for token in self.doors.texts)


def _moved(scope: Scope, target: PortTarget, address: str) -> bytes:
    """Return the address of a page as its own server knows it, which has no ticket."""
    if not is_here(scope, address):
        return address.encode("latin-1")
    parts = urlsplit(address)
    if target.is_kept:
        return b"http://" + target.host + address.partition(parts.netloc)[2].encode("latin-1")
    prefix = with_prefix(scope, target.prefix.decode("latin-1"))
    rest = parts.path.removeprefix(prefix) if parts.path.startswith(prefix + "/") else "/"
    query = f"?{parts.query}" if parts.query and rest != "/" else ""
    return b"http://" + target.host + (rest + query).encode("latin-1")


def _is_secure(scope: Scope, host: bytes) -> bool:
    """Say whether browsers keep cookies marked Secure: over TLS, and for names of this machine."""
    name = host.rpartition(b":")[0] if not host.endswith(b"]") else host
    name = name or host
    local = name.decode("latin-1") in LOCAL_NAMES or name.endswith(b".localhost")
    return scope["scheme"] in {"https", "wss"} or local


def _hop(client: bytes, host: bytes, scheme: bytes) -> bytes:
    """Return what is seen here as an element of Forwarded (RFC 7239, section 4)."""
    node = b'"[%s]"' % client if b":" in client else client or b"unknown"
    return b'for=%s;host="%s";proto=%s' % (node, host.replace(b'"', b""), scheme)


def _forwarded(scope: Scope, target: PortTarget, *, trusted: bool) -> Headers:
    """Return the fields about the way: what a trusted gateway told, and what is seen here."""
    received = dict(reversed(scope["headers"])) if trusted else {}
    seen = dict(reversed(scope["headers"]))
    client = (scope.get("client") or ("", 0))[0].encode()
    before = b", ".join(
        value for name, value in scope["headers"] if trusted and name == b"x-forwarded-for"
    )
    prefix = received.get(b"x-forwarded-prefix", b"").rstrip(b"/") + target.prefix
    scheme = scope["scheme"].encode()
    host = seen.get(b"host", target.host)
    told = [v for name, v in scope["headers"] if trusted and name == b"forwarded"]
    fields = [
        (b"x-forwarded-for", before + b", " + client if before else client),
        (b"x-forwarded-host", received.get(b"x-forwarded-host", host)),
        (b"x-forwarded-proto", received.get(b"x-forwarded-proto", scheme)),
    ]
    if prefix and not target.is_kept:
        fields.append((b"x-forwarded-prefix", prefix))
    if target.called:
        fields.append((b"forwarded", b", ".join([*told, _hop(client, host, scheme)])))
    others = {name for name, _ in fields} | {b"x-forwarded-prefix"}
    kept = [
        (n, v) for n, v in received.items() if n.startswith(b"x-forwarded-") and n not in others
    ]
    return fields + kept
