"""The address of a request to a port, in parts: by a host name of its own, or below a path prefix.

| Address | |
|---|---|
| `http://3000.localhost:8080/a` | by name: the port's root is the host's |
| `/port/3000/a`, `/port/3000/~TICKET/a` | below a prefix, which the server does not see |
| `/port-keep/3000/a` | below a prefix that the server sees, and so must know |
"""

import re

import msgspec
from starlette.types import Scope

from sandkeeper.api.edge.urls import PORT_NAME, raw_path, with_prefix
from sandkeeper.numerals import PORTS
from sandkeeper.patterns import pattern
from sandkeeper.settings.port_names import PortName

__all__ = ["TICKET_IN_PATH", "Door"]

_TICKET = r"[0-9]{1,5}-[0-9a-f]{1,12}-[\w-]{32}(?:\.[\w-]{1,32})?"
_DOOR = pattern(rf"(/port(?:-keep)?)/([0-9]{{1,5}})(?:/~({_TICKET}))?(/.*)?".encode(), re.DOTALL)
TICKET_IN_PATH = pattern(rf"(/port(?:-keep)?/[0-9]{{1,5}}/~){_TICKET}", re.ASCII)
KEPT = "/port-keep"


class Door(msgspec.Struct, frozen=True):
    """`name` is the host name that leads to the port; without one `root` is the prefix.

    `ticket` is that of a page, `rest` what follows: empty, or with its slash.
    """

    port: int
    rest: bytes
    name: PortName | None = None
    root: str = ""
    ticket: bytes = b""

    @classmethod
    def of(cls, scope: Scope) -> "Door | None":
        """Read where a request leads; None when it is to no port."""
        name: PortName | None = scope.get(PORT_NAME)
        if name is not None:
            return cls(name.port, raw_path(scope), name)
        if not scope["path"].startswith("/port"):
            return None
        found = _DOOR.fullmatch(raw_path(scope))
        port = int(found[2]) if found else 0
        if found is None or port not in PORTS:
            return None
        return cls(port, found[4] or b"", None, found[1].decode(), found[3] or b"")

    @property
    def host(self) -> str:
        """The host name of the port, empty below a prefix."""
        return self.name.host if self.name else ""

    @property
    def is_kept(self) -> bool:
        """Whether the server sees the prefix, and so is to know it."""
        return self.root == KEPT

    @property
    def lacks_slash(self) -> bool:
        """Whether this is the root of a port, written so that relative addresses lead elsewhere.

        A server that knows the ticket as a part of its base knows how its root is written, too.
        """
        return not self.rest and not self.name and not self._is_told

    @property
    def base(self) -> str:
        """The path of the port's root, as we see it and without a slash at the end."""
        return f"{self.root}/{self.port}" if self.root else ""

    @property
    def page(self) -> str:
        """The same for the page that asks: with its ticket."""
        return f"{self.base}/~{self.ticket.decode()}" if self.ticket else self.base

    def address(self, ticket: str = "") -> str:
        """Return the path of this, with a ticket in it or without; it leads to no other host."""
        middle = f"/~{ticket}" if ticket else ""
        made = self.base + middle + (self.rest or b"/").decode("latin-1")
        return "/." + made if made.startswith("//") else made

    def target(self, scope: Scope) -> bytes:
        """Return the path that the server at the port is asked for."""
        if not self.is_kept:
            return self.rest or b"/"
        rest = self.rest if self._is_told else self.rest or b"/"
        return with_prefix(scope, self.page).encode("latin-1") + rest

    @property
    def _is_told(self) -> bool:
        return self.is_kept and bool(self.ticket)
