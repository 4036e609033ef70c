"""What opens one port in place of the token, for some time and nothing else.

| Kind | Where it stands | What it shows |
|---|---|---|
| COOKIE | the cookie `sandkeeper_port` | a browser got it for the token, or by a link |
| PAGE | the address of a page, `/port/3000/~TICKET/` | a page of that port asks |
| LINK | the address of a link, `?sandkeeper_link_token=` | it was made for whoever has it |

Each is a signed ticket (`api.edge.tickets`) behind its port: `3000-expiry-mac`. One that comes of
a link ends with that link's grant, which it names: `3000-expiry-mac.grant`. What is for a host name
opens the port by no other.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from sandkeeper.api.edge.tickets.grants import Grant, Grants
from sandkeeper.api.edge.tickets.signing import SHAPE, Signer
from sandkeeper.patterns import pattern

__all__ = ["COOKIE", "LINK", "PAGE", "Tickets"]

COOKIE, PAGE, LINK = "cookie", "page", "link"
SECONDS = {COOKIE: 12 * 3600, PAGE: 24 * 3600}
ROUNDED = {COOKIE: 0, PAGE: 6 * 3600}
"""Addresses of pages change this often, not with every look."""
_TICKET = pattern(rf"([0-9]{{1,5}})-({SHAPE})(?:\.([A-Za-z0-9_-]{{1,32}}))?".encode())


class Tickets:
    """Writes and reads the tickets of one server.

    The key is kept in `path`, links beside it, so that both outlive a restart; other `tokens` void
    all tickets.
    """

    def __init__(self, path: Path, tokens: Sequence[str]) -> None:
        self._path = path
        self._tokens = tokens

    @cached_property
    def grants(self) -> Grants:
        """The links that are alive, and the clock of all tickets."""
        return Grants(self._path.with_name("links.json"))

    @cached_property
    def _signer(self) -> Signer:
        return Signer(self._path, self._tokens, self.grants.now)

    def issue(self, kind: str, port: int, host: str = "") -> str:
        """Return a ticket for a port."""
        facts = _facts(port, host, "")
        ticket = self._signer.sign(kind, *facts, seconds=SECONDS[kind], rounded=ROUNDED[kind])
        return f"{port}-{ticket}"

    def issue_for(self, kind: str, grant: Grant) -> str:
        """Return a ticket that ends with a grant, at the latest when that is due."""
        left = grant.expires - self.grants.now()
        facts = _facts(grant.port, grant.host, grant.id)
        return f"{grant.port}-{self._signer.sign(kind, *facts, seconds=left)}.{grant.id}"

    def opens(self, kind: str, port: int, ticket: bytes, host: str = "") -> bool:
        """Say whether a ticket opens a port now."""
        found = _TICKET.fullmatch(ticket)
        if found is None or int(found[1]) != port:
            return False
        key = (found[3] or b"").decode()
        if key and self.grants.find(key) is None:
            return False
        return self._signer.opens(kind, *_facts(port, host, key), ticket=found[2])

    def made_here(self, kind: str, ticket: bytes, host: str = "") -> bool:
        """Say whether a ticket is one of ours, for whatever port and however old."""
        found = _TICKET.fullmatch(ticket)
        if found is None:
            return False
        facts = _facts(int(found[1]), host, (found[3] or b"").decode())
        return self._signer.made(kind, *facts, ticket=found[2])

    def grant_of(self, port: int, host: str, ticket: bytes) -> Grant | None:
        """Return what a link stands for, unless somebody has spent it."""
        if not self.opens(LINK, port, ticket, host):
            return None
        grant = self.grants.find(ticket.rpartition(b".")[2].decode())
        return grant if grant is not None and not grant.spent else None

    async def cookie_for(self, grant: Grant) -> str | None:
        """Return the cookie that the visitor of a link gets; None if another came first."""
        visited: Grant | None = grant
        if grant.once:
            visited = await self.grants.spend(grant.id, SECONDS[COOKIE])
        return self.issue_for(COOKIE, visited) if visited is not None else None


def _facts(port: int, host: str, grant: str) -> list[str]:
    """Return what is signed; that of a prefix alone is what it was before there were names."""
    return [str(port), host, grant] if host or grant else [str(port)]
