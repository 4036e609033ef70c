"""The terminal page: one HTML document with everything in it.

Scripts and styles stand inside it, so the page needs one request, works behind any path prefix
and with a token in its query, and loads nothing from anywhere else (its policy forbids it).
"""

import asyncio
import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from sandkeeper.api.edge.hosts import is_own_visit
from sandkeeper.api.edge.pages import page_headers
from sandkeeper.api.edge.query import query_of

__all__ = ["TerminalPage"]

WEB = Path(__file__).parents[2] / "web"
VENDOR = WEB / "vendor"
SCRIPTS = tuple(
    f"{name}.js"
    for name in ("xterm", "addon-fit", "addon-web-links", "addon-search", "addon-unicode11")
)
MISSING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Terminal</title></head><body>
<h1>The terminal page is not built</h1>
<p>xterm.js is not among this server's files. In a checkout, run <code>scripts/web</code> (it needs
npm, or a Python package index to get one from) and load this page again.</p>
<p>The terminal itself works: connect a WebSocket to <code>terminal/ws</code>.</p>
</body></html>
"""


class TerminalPage:
    """Builds the page at the first request and keeps it; pages of `origins` may frame it."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = origins
        self._built: _Built | None = None

    async def serve(self, request: Request) -> Response:
        """Answer with the page, or with what is missing.

        One that was asked for by a page that may not use the API connects by a click only: to
        follow a link must not start a shell. So does one that was typed, if the address names a
        session: a browser tells a redirect from a typed address as if this one had been typed.
        """
        if self._built is None:
            self._built = await asyncio.to_thread(_build)
        if self._built is None:
            headers = page_headers("", self._origins)
            return Response(MISSING, 200, headers, media_type="text/html")
        headers = page_headers(self._built.script, self._origins)
        headers["Vary"] = "Accept-Encoding, Sec-Fetch-Site"
        typed = request.headers.get("sec-fetch-site") == "none"
        led = not is_own_visit(request.scope) or (typed and "sessionId" in query_of(request))
        page, packed = self._built.asking if led else self._built.at_once
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            page = packed
        return Response(page, 200, headers, media_type="text/html")


@dataclass(frozen=True, slots=True)
class _Built:
    """The script, and the page, plain and packed, that connects at once or asks before."""

    script: str
    at_once: tuple[bytes, bytes]
    asking: tuple[bytes, bytes]


def _build() -> _Built | None:
    try:
        scripts = [(VENDOR / name).read_text("utf-8") for name in SCRIPTS]
        style = (VENDOR / "xterm.css").read_text("utf-8")
        own_style = (WEB / "terminal.css").read_text("utf-8")
        own = [(WEB / name).read_text("utf-8") for name in ("clusters.js", "terminal.js")]
        page = (WEB / "terminal.html").read_text("utf-8")
    except FileNotFoundError:
        return None
    # A source map is another request; `</script` would end the element.
    script = re.sub(r"//# sourceMappingURL=\S*", "", "\n;".join([*scripts, *own]))
    script = re.sub(r"</(script)", r"<\\/\1", script, flags=re.IGNORECASE)
    page = page.replace("/*style*/", style + own_style).replace("/*script*/", script)
    at_once = page.encode()
    asking = page.replace("<body>", "<body data-ask>", 1).encode()
    return _Built(script, (at_once, gzip.compress(at_once, 6)), (asking, gzip.compress(asking, 6)))
