"""Cross-origin rules: which pages may read what this API answers (the Fetch standard's CORS).

The fields on plain responses are the contract's, whatever a page asks. A preflight tells more: the
methods and fields that the published clients and MCP clients send.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.types import Scope

from sandkeeper.errors import Forbidden

__all__ = ["Cors", "own_host"]

Headers = list[tuple[bytes, bytes]]

METHODS = (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, HEAD, OPTIONS")
FIELDS = (b"access-control-allow-headers", b"Content-Type, Authorization")
EXPOSED = (
    b"access-control-expose-headers",
    b"ETag, Content-Disposition, Content-Range, X-Request-Id, X-File-Type, X-File-Mode, "
    b"Idempotency-Replayed, Mcp-Session-Id, Mcp-Protocol-Version",
)
ALL_METHODS = (
    b"access-control-allow-methods",
    b"GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS",
)
ALL_FIELDS = (
    b"Content-Type, Authorization, Accept, If-Match, If-None-Match, If-Modified-Since, If-Range, "
    b"Idempotency-Key, Last-Event-ID, Range, Mcp-Protocol-Version, Mcp-Session-Id, "
    b"X-Blaxel-Authorization, X-Blaxel-Workspace, X-Blaxel-Preview-Token, X-Request-Id, "
    b"Blaxel-Version"
)
OPEN_PREFIXES = (b"x-blaxel-", b"mcp-")
"""Fields of newer clients, known by how they begin."""
MAX_AGE = (b"access-control-max-age", b"600")
VARY = (b"vary", b"Origin")


class Cors:
    """The fields for one set of origins."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._all = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)
        self._common: Headers = [METHODS, FIELDS, EXPOSED]

    @property
    def everybody(self) -> bool:
        """Whether pages of every origin may use this API."""
        return self._all

    def response(self, scope: Scope) -> Headers:
        """Return the fields of any response but a preflight's."""
        return [*self._origin(scope), *self._common]

    def preflight(self, scope: Scope) -> Headers:
        """Return the fields of the answer to OPTIONS."""
        fields = ALL_FIELDS
        for name, value in scope["headers"]:
            if name == b"access-control-request-headers":
                fields = b", ".join([fields, *_newer(value)])
        allowed = (b"access-control-allow-headers", fields)
        return [*self._origin(scope), ALL_METHODS, allowed, MAX_AGE]

    def check(self, scope: Scope) -> None:
        """Refuse a request of a page that may not read the answer; raises Forbidden.

        A browser sends simple requests before it knows that; here they would have effects.
        """
        origin = None if self._all else _field(scope, b"origin")
        if origin is None or origin in self._origins:
            return
        if not own_host(scope, origin.decode("latin-1")):
            raise Forbidden("pages of this origin may not use this API")

    def _origin(self, scope: Scope) -> Headers:
        if self._all:
            return [(b"access-control-allow-origin", b"*")]
        origin = _field(scope, b"origin")
        if origin in self._origins:
            return [(b"access-control-allow-origin", origin or b""), VARY]
        return [VARY]


def own_host(scope: Scope, origin: str) -> bool:
    """Say whether an origin is the host that the request went to.

    A browser always sends Origin across origins, and no page can change it (RFC 6455, 10.2).
    Behind a gateway our own host is the forwarded one, which a page cannot set either.
    """
    host = urlsplit(origin).netloc.lower()
    ours = {
        (_field(scope, name) or b"").decode("latin-1").lower()
        for name in (b"host", b"x-forwarded-host")
    }
    plain = {_without_default_port(one) for one in ours if one}
    return bool(host) and _without_default_port(host) in plain


def _field(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)


def _newer(value: bytes) -> list[bytes]:
    names = [name.strip() for name in value[:4096].split(b",")]
    return [name for name in names if name.lower().startswith(OPEN_PREFIXES)]


def _without_default_port(netloc: str) -> str:
    return netloc.removesuffix(":80").removesuffix(":443")
