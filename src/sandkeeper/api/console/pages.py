"""The console: one page and the files that it loads, built from `console/` by `scripts/web`.

All of it is public code without a secret, so it is served to whoever asks: what it shows, the
page asks of the API, and there the token, or what stands for it, is needed (`session`).
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sandkeeper.api.edge.pages import application_headers, page_headers
from sandkeeper.api.edge.respond import not_found
from sandkeeper.api.edge.rights import OPEN
from sandkeeper.api.edge.routing import route

__all__ = ["Pages", "routes"]

BUILT = Path(__file__).parents[2] / "web" / "vendor" / "console"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
FOREVER = "public, max-age=31536000, immutable"
"""Names of assets hold a digest of what is in them."""
NONCE = b"__NONCE__"
MISSING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Console</title></head><body>
<h1>The console is not built</h1>
<p>In a checkout, run <code>scripts/web</code> (it needs npm, or a Python package index to get one
from) and load this page again. The API works without it.</p>
</body></html>
"""


@dataclass(frozen=True, slots=True)
class _File:
    """One built file; its packed form stands beside it where that is shorter."""

    path: Path
    media_type: str
    packed: bool
    lasting: bool


class Pages:
    """Serves the built files; pages of `origins` may show the console in a frame."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = origins
        self._page: bytes | None = None
        self._built = 0
        self._files: dict[str, _File] = {}

    async def to_page(self, _request: Request) -> Response:
        """Lead to the page: relative to where one is, whatever stands before it."""
        return Response(b"", 301, {"Location": "console/"})

    async def page(self, _request: Request) -> Response:
        """Answer with the page, or with what is missing."""
        await asyncio.to_thread(self._look)
        if self._page is None:
            headers = page_headers("", self._origins)
            return Response(MISSING, 200, headers, media_type="text/html")
        nonce = secrets.token_urlsafe(18)
        page = self._page.replace(NONCE, nonce.encode())
        headers = application_headers(nonce, self._origins)
        return Response(page, 200, headers, media_type="text/html")

    async def file(self, request: Request) -> Response:
        """Answer with one of the files that were built, and with no other."""
        if self._page is None:
            await asyncio.to_thread(self._look)
        file = self._files.get(request.scope["path"].removeprefix("/console/"))
        if file is None:
            return not_found()
        headers = {"Vary": "Accept-Encoding", "Content-Type": file.media_type}
        if file.lasting:
            headers["Cache-Control"] = FOREVER
        path = file.path
        if file.packed and "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            path = path.with_name(path.name + ".gz")
        return Response(await asyncio.to_thread(path.read_bytes), 200, headers)

    def _look(self) -> None:
        """Learn what is built, again when it was built anew."""
        index = BUILT / "index.html"
        try:
            built = index.stat().st_mtime_ns
            if built == self._built:
                return
            page = index.read_bytes()
        except FileNotFoundError:
            return
        files: dict[str, _File] = {}
        for path in BUILT.rglob("*"):
            if path.suffix in TYPES:
                name = path.relative_to(BUILT).as_posix()
                packed = path.with_name(path.name + ".gz").exists()
                files[name] = _File(path, TYPES[path.suffix], packed, name.startswith("assets/"))
        self._page, self._files, self._built = page, files, built


def routes(pages: Pages) -> list[BaseRoute]:
    """Return the routes of the page."""
    return [
        route("/console", pages.to_page, need=OPEN),
        route("/console/", pages.page, need=OPEN),
        route("/console/{name}", pages.file, need=OPEN),
        route("/console/assets/{name}", pages.file, need=OPEN),
    ]
