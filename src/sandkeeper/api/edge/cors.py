"""Cross-origin rules: which pages may read what this API answers (the Fetch standard's CORS).

The fields on plain responses are the contract's, whatever a page asks. A preflight tells more: the
methods and fields that the published clients and MCP clients send. These fields bind browsers only,
and only reading: `api.edge.hosts` decides who may ask.
"""

from collections.abc import Sequence

from starlette.types import Scope

from sandkeeper.api.edge.connections.fields import first_fields

__all__ = ["Cors"]

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

    def _origin(self, scope: Scope) -> Headers:
        if self._all:
            return [(b"access-control-allow-origin", b"*")]
        origin = first_fields(scope).get(b"origin")
        if origin in self._origins:
            return [(b"access-control-allow-origin", origin or b""), VARY]
        return [VARY]


def _newer(value: bytes) -> list[bytes]:
    names = [name.strip() for name in value[:4096].split(b",")]
    return [name for name in names if name.lower().startswith(OPEN_PREFIXES)]
