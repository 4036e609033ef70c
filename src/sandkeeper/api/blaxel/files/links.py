"""Links to one file: signed, for reading or writing, until they end or all are revoked."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.blaxel.files.content import FileHandlers, written
from sandkeeper.api.edge.bodies.coding import inflated, is_gzip
from sandkeeper.api.edge.bodies.forms import is_form
from sandkeeper.api.edge.conditional import conditions
from sandkeeper.api.edge.connections.wire import blocks_of
from sandkeeper.api.edge.request_body import read_json
from sandkeeper.api.edge.respond import error_response, json_response, utf8
from sandkeeper.api.edge.rights import USER, Need, Right, standing_of
from sandkeeper.api.edge.routing import route
from sandkeeper.api.edge.tickets.signing import Signer
from sandkeeper.api.schemas.files import LinkMade, LinkRequest
from sandkeeper.errors import BadInput, Forbidden, Unprocessable
from sandkeeper.files.feed import Feed
from sandkeeper.files.paths import Target
from sandkeeper.files.service import Files
from sandkeeper.linux.clocks import rfc3339
from sandkeeper.linux.paths import useros as os
from sandkeeper.linux.paths.statefiles import UntrustedFile, read_own, write_atomically
from sandkeeper.numerals import natural

__all__ = ["FileLinkHandlers", "Generation", "opened_routes", "routes"]

BODY_BYTES = 64 << 10
PURPOSE = "file"
LINKS, LINK = "/filesystem-links", "/filesystem-link"
TICKETED = Need(USER.right, own_words=True)
"""Who has the link needs no token: the handler asks for its ticket."""


class Generation:
    """A number that all links hold; the next one voids them. Kept in the state folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def now(self) -> int:
        """Return it; blocks for a small file."""
        with suppress(OSError, UntrustedFile):
            return natural(read_own(self._path) or b"0") or 0
        return 0

    def next(self) -> None:
        """Void all links; raises OSError when that cannot be kept."""
        write_atomically(self._path, str(self.now() + 1).encode())


class FileLinkHandlers:
    """Handlers of `/filesystem-links` and of the links themselves; `now` is the signer's clock."""

    def __init__(
        self,
        *,
        files: Files,
        plain: FileHandlers,
        signer: Signer,
        generation: Generation,
        now: Callable[[], float],
    ) -> None:
        self._files = files
        self._work = files.work
        self._plain = plain
        self._signer = signer
        self._generation = generation
        self._now = now

    async def make(self, request: Request) -> Response:
        """Sign an address that opens one path for reading or writing, until it ends."""
        wanted = await read_json(request, LinkRequest, BODY_BYTES)
        if wanted.operation not in {"read", "write"}:
            raise BadInput("operation must be read or write")
        if not wanted.path:
            raise BadInput("path is required")
        target = self._files.resolve_text(wanted.path)
        facts = (target.absolute, wanted.operation, str(self._generation.now()))
        ticket = self._signer.sign(PURPOSE, *facts, seconds=wanted.seconds)
        query = urlencode({"path": os.fsencode(target.absolute), "ticket": ticket})
        made = LinkMade(
            path=utf8(target.absolute),
            operation=wanted.operation,
            url=f"{LINK}?{query}",
            expiresAt=rfc3339(int(self._now() + wanted.seconds) * 1_000_000_000, local=False),
        )
        return json_response(made, 201)

    async def revoke(self, _request: Request) -> Response:
        """Void every link that was made until now."""
        try:
            await asyncio.to_thread(self._generation.next)
        except OSError as error:
            raise Unprocessable(f"the links cannot be revoked: {error.strerror}") from None
        return json_response({"message": "all links are revoked"})

    def _opened(self, request: Request, operation: str) -> Target:
        query = dict(parse_qsl(request.url.query, errors="surrogateescape"))
        path, ticket = query.get("path", ""), query.get("ticket", "")
        facts = (path, operation, str(self._generation.now()))
        offered = ticket.encode("utf-8", "replace")
        if not path or not self._signer.opens(PURPOSE, *facts, ticket=offered):
            raise Forbidden("the link has ended, was revoked, or is for something else")
        return Target(path, path)

    def _refusal(self, request: Request, error: Forbidden) -> Response:
        """Refuse as a token is refused, unless the caller has shown one."""
        if standing_of(request).right >= Right.USER:
            return error_response(error)
        return json_response({"error": str(error)}, 401)

    async def read(self, request: Request) -> Response:
        """Send the file of a link."""
        try:
            target = self._opened(request, "read")
        except Forbidden as error:
            return self._refusal(request, error)
        return await self._plain.sent(target, request)

    async def write(self, request: Request) -> Response:
        """Write the file of a link: the body as it is, or the file of a form."""
        try:
            target = self._opened(request, "write")
        except Forbidden as error:
            return self._refusal(request, error)
        if is_form(request):
            return await self._plain.put_form(request, target)
        packed = is_gzip(request)
        upload = self._files.upload(target.absolute, conditions(request))
        feed: Feed[os.stat_result] = Feed(self._work.run, upload)
        blocks = blocks_of(request)
        try:
            info = await feed.take_all(inflated(blocks) if packed else blocks)
        except ClientDisconnect:
            raise BadInput("the connection was closed") from None
        finally:
            await blocks.aclose()
        return written(target, info, "File uploaded successfully")


def routes(handlers: FileLinkHandlers) -> list[BaseRoute]:
    """Return the routes that make links and revoke them."""
    return [
        route(LINKS, handlers.make, "POST", need=USER),
        route(LINKS, handlers.revoke, "DELETE", need=USER),
    ]


def opened_routes(handlers: FileLinkHandlers) -> list[BaseRoute]:
    """Return the routes of the links themselves."""
    return [
        route(LINK, handlers.read, need=TICKETED),
        route(LINK, handlers.write, "PUT", "POST", need=TICKETED),
    ]
