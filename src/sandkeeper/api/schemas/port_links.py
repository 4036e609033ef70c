"""Wire structs of links to ports."""

import time

import msgspec

from sandkeeper.api.edge.tickets.grants import Grant
from sandkeeper.linux.clocks import rfc3339_utc

__all__ = ["NewPortLink", "PortLink", "PortLinkRequest"]


class PortLinkRequest(msgspec.Struct, rename="camel"):
    """What a link is to be; `seconds` 0 is the usual time, `via` "" the best way there is."""

    path: str = "/"
    seconds: int = 0
    once: bool = True
    via: str = ""
    host: str = ""


class PortLink(msgspec.Struct, rename="camel"):
    """A link without what opens it; `host` is empty below the path prefix."""

    id: str
    port: int
    host: str
    once: bool
    spent: bool
    expires_at: str

    @classmethod
    def of(cls, grant: Grant, now: float) -> "PortLink":
        """Tell of a grant by the wall clock; `now` is the time of the grants' own."""
        due = time.time() + grant.expires - now
        written = rfc3339_utc(int(due * 1_000_000))
        return cls(grant.id, grant.port, grant.host, grant.once, grant.spent, written)


class NewPortLink(PortLink):
    """A new link: `url` opens the port. `base` is the path that its server has to know."""

    url: str = ""
    base: str = ""
