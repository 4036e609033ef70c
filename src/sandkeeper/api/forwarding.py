"""What a proxied request and its response may carry on: header rules and the target.

Hop-by-hop fields (RFC 9110, section 7.6.1) stay on their hop, in both directions. Credentials for
this API stay here too: a program in the sandbox must not learn the token that governs it.
"""

import re
from urllib.parse import unquote, unquote_plus

from starlette.types import Scope

from sandkeeper.api.urls import raw_path
from sandkeeper.errors import BadInput
from sandkeeper.services.upstream import Headers

__all__ = ["Target", "request_headers", "response_headers", "split_target"]

HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization"),
        *(b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
OURS = frozenset(
    {
        *(b"host", b"content-length", b"expect"),
        *(b"x-blaxel-authorization", b"x-blaxel-preview-token"),
        *(b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-prefix"),
    }
)
"""Fields of a request that are made anew, or are meant for this server."""
TOKEN_PARAMETERS = frozenset({"token", "bl_preview_token"})
TOKEN_COOKIE = b"sandkeeper_token="
_TARGET = re.compile(rb"/port/([^/]*)(/.*)?", re.DOTALL)
_PORT = re.compile(rb"[0-9]{1,5}")


class Target:
    """Where a request goes: the port and the request target, byte for byte as it came."""

    __slots__ = ("path", "port", "query")

    def __init__(self, port: int, path: bytes, query: bytes) -> None:
        self.port = port
        self.path = path
        self.query = query

    @property
    def full(self) -> bytes:
        """The path with the query."""
        return self.path + b"?" + self.query if self.query else self.path

    @property
    def host(self) -> bytes:
        """The value of the Host field."""
        return b"localhost" if self.port == 80 else b"localhost:%d" % self.port


def split_target(scope: Scope, token: str) -> Target:
    """Read `/port/{port}/{path}`; raises BadInput on a bad port or a path that leads back here."""
    match = _TARGET.fullmatch(raw_path(scope))
    port = int(match[1]) if match and _PORT.fullmatch(match[1]) else 0
    if match is None or not 0 < port < 65536:
        raise BadInput("invalid port: a number from 1 to 65535 is wanted")
    path = match[2] or b"/"
    server = scope.get("server") or ("", 0)
    if port == server[1] and path.startswith(b"/port/"):
        raise BadInput("this path leads back to this server")
    return Target(port, path, _without_token(scope["query_string"], token))


def _without_token(query: bytes, token: str) -> bytes:
    if not token or b"token=" not in query:
        return query
    kept = [part for part in query.split(b"&") if not _is_token(part, token)]
    return b"&".join(kept)


def _is_token(part: bytes, token: str) -> bool:
    name, _, value = part.decode("latin-1").partition("=")
    return unquote_plus(name) in TOKEN_PARAMETERS and unquote_plus(value) == token


def request_headers(scope: Scope, target: Target, token: str) -> Headers:
    """Return the fields to send, without those that frame the body."""
    received: Headers = scope["headers"]
    dropped = HOP_BY_HOP | OURS | _named_by_connection(received)
    headers: Headers = [(b"host", target.host)]
    for name, value in received:
        if name in dropped:
            continue
        if token and name == b"authorization" and _bearer(value) == token.encode():
            continue
        if token and name == b"cookie":
            value = _without_cookie(value)
            if not value:
                continue
        if token and name == b"referer" and _tells(value.decode("latin-1"), token):
            continue  # a page opened with the token in its address
        headers.append((name, value))
    return headers + _forwarded(scope, target)


def _forwarded(scope: Scope, target: Target) -> Headers:
    received = dict(reversed(scope["headers"]))
    client = (scope.get("client") or ("", 0))[0].encode()
    before = received.get(b"x-forwarded-for", b"")
    prefix = received.get(b"x-forwarded-prefix", b"").rstrip(b"/")
    scheme = {"ws": b"http", "wss": b"https"}.get(scope["scheme"], scope["scheme"].encode())
    return [
        (b"x-forwarded-for", before + b", " + client if before else client),
        (
            b"x-forwarded-host",
            received.get(b"x-forwarded-host", received.get(b"host", target.host)),
        ),
        (b"x-forwarded-proto", received.get(b"x-forwarded-proto", scheme)),
        (b"x-forwarded-prefix", prefix + b"/port/%d" % target.port),
    ]


def response_headers(status: int, received: Headers) -> Headers:
    """Return the fields to answer with; the server adds `date` and the framing itself."""
    dropped = HOP_BY_HOP | {b"date"} | _named_by_connection(received)
    if status in (204, 304):
        dropped |= {b"content-length"}
    return [(name, value) for name, value in received if name.lower() not in dropped]


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Return the fields that a Connection field makes hop-by-hop; framing is not one's to name."""
    named = {
        word.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for word in value.split(b",")
    }
    return frozenset(named - {b"content-length", b"host", b"cache-control"})


def _tells(address: str, token: str) -> bool:
    """Say whether an address holds the token, written plainly or with escapes."""
    return any(token in form for form in (address, unquote(address), unquote_plus(address)))


def _bearer(value: bytes) -> bytes:
    kind, _, rest = value.partition(b" ")
    return rest.strip() if kind.lower() == b"bearer" else value


def _without_cookie(value: bytes) -> bytes:
    parts = [part.strip() for part in value.split(b";")]
    ours = TOKEN_COOKIE.rstrip(b"=")
    return b"; ".join(part for part in parts if part.partition(b"=")[0].strip() != ours)
