"""`/network/links`: addresses that open a port for somebody without the token, for some time.

A link that is good once brings a person's own browser in; one that is not is a preview for others.
Both are exchanged for a cookie of that port and host name at the first visit, end when they are
due, and can be revoked before, with all that was got by them.
"""

import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import json_response
from sandkeeper.api.edge.rights import USER
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.subject import Gateways, caller
from sandkeeper.api.edge.tickets.grants import Grant
from sandkeeper.api.edge.tokens import LINK_PARAMETER
from sandkeeper.api.edge.urls import with_prefix
from sandkeeper.api.port.tickets import LINK, PAGE, Tickets
from sandkeeper.api.schemas.port_links import NewPortLink, PortLink, PortLinkRequest
from sandkeeper.errors import BadInput, NotFound
from sandkeeper.log.access import Access
from sandkeeper.numerals import PORTS, natural
from sandkeeper.settings.port_names import PortNames

__all__ = ["LinkHandlers", "routes"]

MOST_SECONDS = 30 * 86400
USUAL_SECONDS = {True: 600, False: 86400}
"""Of a link that is good once, and of others."""
HOST, PREFIX, BASE = "host", "prefix", "base"
_PATH = re.compile(r"/[!-\"$-~]{0,4096}")


class LinkHandlers:
    """Handlers over the grants of this server."""

    def __init__(
        self,
        *,
        tickets: Tickets,
        names: PortNames,
        gateways: Gateways,
        access: Access,
        body_limit: int,
    ) -> None:
        self._tickets = tickets
        self._names = names
        self._gateways = gateways
        self._access = access
        self._body_limit = body_limit

    async def make(self, request: Request) -> Response:
        """Make a link to a port."""
        port = natural(request.path_params["port"]) or 0
        if port not in PORTS:
            raise BadInput("invalid port: a number from 1 to 65535 is wanted")
        wanted = await read_json(request, PortLinkRequest, self._body_limit)
        seconds = _checked(wanted)
        scheme, place = self._seen_as(request.scope)
        host = self._host(wanted, port, place)
        grant = await self._tickets.grants.add(
            port=port, host=host, once=wanted.once, seconds=seconds
        )
        made = _unwritten(PortLink.of(grant, self._tickets.grants.now()))
        self._fill(made, grant, wanted, request.scope, f"{scheme}://", place)
        self._access.audit("port_link", caller(request), port=port, link=grant.id)
        return json_response(made, 201)

    async def all(self, _request: Request) -> Response:
        """Tell which links are alive."""
        grants = self._tickets.grants
        now = grants.now()
        return json_response({"links": [PortLink.of(one, now) for one in grants.alive()]})

    async def revoke(self, request: Request) -> Response:
        """End a link and what was got by it."""
        key = request.path_params["identifier"]
        if not await self._tickets.grants.revoke(key):
            raise NotFound(f"there is no link {key[:64]}")
        self._access.audit("port_link_revoked", caller(request), link=key)
        return json_response({"message": "Link revoked"})

    def _seen_as(self, scope: Scope) -> tuple[str, str]:
        """Return scheme and authority by which the client, or its gateway, calls this server."""
        fields = dict(reversed(scope["headers"]))
        told = fields if self._gateways.vouch(scope) else {}
        place = told.get(b"x-forwarded-host") or fields.get(b"host", b"localhost")
        scheme = told.get(b"x-forwarded-proto", scope["scheme"].encode())
        return scheme.decode("latin-1"), place.decode("latin-1")

    def _host(self, wanted: PortLinkRequest, port: int, place: str) -> str:
        """Return the host name of a link; empty below a prefix."""
        if wanted.via in {PREFIX, BASE}:
            return ""
        if wanted.host:
            found = self._names.find(wanted.host.encode("latin-1", "replace"))
            if found is None or found.port != port:
                raise BadInput(f"host: {wanted.host[:256]!r} is no name of port {port} here")
            return found.host
        name = self._names.name(port, place.partition(":")[0].lower())
        if not name and wanted.via == HOST:
            raise BadInput("host: which name this port has cannot be told from your address")
        return name

    def _fill(
        self,
        made: NewPortLink,
        grant: Grant,
        wanted: PortLinkRequest,
        scope: Scope,
        scheme: str,
        place: str,
    ) -> None:
        """Write the address that opens the port."""
        path, mark, query = wanted.path.partition("?")
        if wanted.via == BASE:
            ticket = self._tickets.issue_for(PAGE, grant)
            made.base = with_prefix(scope, f"/port-keep/{grant.port}/~{ticket}/")
            made.url = scheme + place + made.base + path[1:] + mark + query
            return
        ticket = self._tickets.issue_for(LINK, grant)
        query = f"{query}&" if query else ""
        query = f"?{query}{LINK_PARAMETER.decode()}={ticket}"
        if grant.host:
            at = place.rpartition(":")[2]
            made.url = scheme + grant.host + (f":{at}" if at.isdigit() else "") + path + query
        else:
            made.url = scheme + place + with_prefix(scope, f"/port/{grant.port}{path}") + query


def _unwritten(info: PortLink) -> NewPortLink:
    """Return a new link, of which the address is still to be written."""
    return NewPortLink(**{name: getattr(info, name) for name in PortLink.__struct_fields__})


def _checked(wanted: PortLinkRequest) -> int:
    """Return for how many seconds a link is good; raises BadInput, naming the field."""
    if not _PATH.fullmatch(wanted.path):
        raise BadInput("path: a path with its slash, percent-encoded, is wanted")
    if wanted.via not in {"", HOST, PREFIX, BASE}:
        raise BadInput("via: host, prefix or base is wanted")
    if wanted.via == BASE and wanted.once:
        raise BadInput("once: a base is not spent by a visit")
    if not 0 <= wanted.seconds <= MOST_SECONDS:
        raise BadInput(f"seconds: a number from 1 to {MOST_SECONDS} is wanted")
    return wanted.seconds or USUAL_SECONDS[wanted.once]


def routes(handlers: LinkHandlers) -> list[BaseRoute]:
    """Return the routes of this area."""
    return [
        route("/network/ports/{port}/links", handlers.make, "POST", need=USER),
        route("/network/links", handlers.all, need=USER),
        route("/network/links/{identifier}", handlers.revoke, "DELETE", need=USER),
    ]
