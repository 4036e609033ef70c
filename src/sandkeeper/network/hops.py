"""What a proxy of HTTP/1 keeps on its own hop, and how it notices that it talks to itself.

Both proxies of this server use it: `/port` on the way in, the token-adding one on the way out.
"""

import secrets
from collections.abc import Iterable

from sandkeeper.patterns import pattern

__all__ = ["FRAMING", "HOP_BY_HOP", "MAX_HOPS", "Hops", "named_by_connection"]

Fields = Iterable[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization"),
        *(b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        b"http2-settings",
    }
)
"""Fields that never travel on (RFC 9110, section 7.6.1); those of h2c are among them."""

FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})
"""Fields without which a message means something else: a Connection field cannot name them away."""

MAX_HOPS = 4
"""So many servers of this kind may stand behind each other."""

NAMED = 1000
"""So many names of one Connection field count."""

_OURS = pattern(rb"\bsandkeeper-(page-)?[0-9a-f]{8}\b")


def named_by_connection(fields: Fields) -> frozenset[bytes]:
    """Return the fields, in lower case, that Connection fields make hop-by-hop."""
    return frozenset(
        word.strip().lower()
        for name, value in fields
        if name.lower() == b"connection"
        for word in value.split(b",", NAMED)[:NAMED]
    )


class Hops:
    """This server's entry in Via fields (RFC 9110, section 7.6.3), and what those of others say.

    A request that is made for a page of a proxied server is marked as such, so that the next
    server of this kind does not take it for one of its own pages.
    """

    def __init__(self) -> None:
        name = secrets.token_hex(4)
        self._plain = f"sandkeeper-{name}".encode()
        self._page = f"sandkeeper-page-{name}".encode()

    def count(self, fields: Fields) -> int:
        """Return how many servers of this kind a request has passed."""
        return sum(len(_OURS.findall(value)) for name, value in fields if name.lower() == b"via")

    def repeated(self, fields: Fields) -> bool:
        """Say whether a request has been here already."""
        return any(
            self._plain in value or self._page in value
            for name, value in fields
            if name.lower() == b"via"
        )

    @staticmethod
    def for_page(fields: Fields) -> bool:
        """Say whether a request was made by a page behind some server's `/port`."""
        return any(b"sandkeeper-page-" in value for name, value in fields if name.lower() == b"via")

    def via(self, fields: Fields, *, page: bool = False) -> bytes:
        """Return the Via value to send on: what came, and this server."""
        before = [value for name, value in fields if name.lower() == b"via" and value]
        return b", ".join([*before, b"1.1 " + (self._page if page else self._plain)])
