"""The terminal page: one HTML document with everything in it.

Scripts and styles stand inside it, so the page needs one request, works behind any path prefix
and with a token in its query, and loads nothing from anywhere else (its policy forbids it).
"""

import asyncio
import gzip
import hashlib
import re
from base64 import b64encode
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["TerminalPage"]

WEB = Path(__file__).parent.parent / "web"
VENDOR = WEB / "vendor"
SCRIPTS = ("xterm.js", "addon-fit.js", "addon-web-links.js", "addon-search.js")
MISSING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Terminal</title></head><body>
<h1>The terminal page is not built</h1>
<p>xterm.js is not among this server's files. In a checkout, run <code>scripts/web</code> (it needs
npm, or a Python package index to get one from) and load this page again.</p>
<p>The terminal itself works: connect a WebSocket to <code>terminal/ws</code>.</p>
</body></html>
"""


class TerminalPage:
    """Builds the page at the first request and keeps it."""

    def __init__(self) -> None:
        self._built: tuple[bytes, bytes, str] | None = None

    async def serve(self, request: Request) -> Response:
        """Answer with the page, or with what is missing."""
        if self._built is None:
            self._built = await asyncio.to_thread(_build)
        if self._built is None:
            return Response(MISSING, media_type="text/html")
        page, packed, policy = self._built
        headers = {
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "Vary": "Accept-Encoding",
        }
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            page = packed
        return Response(page, 200, headers, media_type="text/html")


def _build() -> tuple[bytes, bytes, str] | None:
    try:
        scripts = [(VENDOR / name).read_text("utf-8") for name in SCRIPTS]
        style = (VENDOR / "xterm.css").read_text("utf-8")
        own_style = (WEB / "terminal.css").read_text("utf-8")
        own_script = (WEB / "terminal.js").read_text("utf-8")
        page = (WEB / "terminal.html").read_text("utf-8")
    except FileNotFoundError:
        return None
    # A source map is another request; `</script` would end the element.
    script = re.sub(r"//# sourceMappingURL=\S*", "", "\n;".join([*scripts, own_script]))
    script = re.sub(r"</(script)", r"<\\/\1", script, flags=re.IGNORECASE)
    page = page.replace("/*style*/", style + own_style).replace("/*script*/", script)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    data = page.encode()
    return data, gzip.compress(data, 6), policy
