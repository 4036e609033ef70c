"""What our pages tell the browser besides, and the page that asks a person for the token."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from urllib.parse import parse_qsl

from starlette.types import Scope

from sandkeeper.api.edge.tokens import PARAMETERS

__all__ = ["application_headers", "asks_for_page", "page_headers", "token_page"]

PAGES = frozenset({"/", "/terminal", "/swagger"})
_ASK = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Token</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light"><link rel="icon" href="data:,">
<style>body {{ font: 15px system-ui, sans-serif; margin: 4em auto; max-width: 26em }}
input, button {{ font: inherit; padding: 4px 8px }} input {{ width: 100%; margin: 8px 0 }}</style>
</head><body><h1>This server asks for a token</h1>
<form><label>{why}<input name="token" type="password" autocomplete="current-password"
autofocus required></label>{kept}<button>Go on</button></form></body></html>
"""


def page_headers(script: str, origins: Sequence[str]) -> dict[str, str]:
    """Return the fields of a page whose only script is `script`, inside of it ("": none).

    It loads nothing from elsewhere. Pages of `origins` (`*`: all) may show it in a frame beside our
    own; a page that could be framed by anybody has its clicks and keys baited out of people. The
    windows of other origins get no hold of its window (`Cross-Origin-Opener-Policy`).
    """
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"'sha256-{digest}'" if script else "'none'"
    return _headers(
        f"script-src {scripts}; style-src 'unsafe-inline'; connect-src 'self'; img-src data:",
        origins,
    )


def application_headers(nonce: str, origins: Sequence[str]) -> dict[str, str]:
    """Return the fields of a page whose scripts and styles are files beside it.

    Styles that its libraries make carry the nonce; nothing that stands in the page itself counts.
    """
    return _headers(
        f"script-src 'self'; style-src 'self' 'nonce-{nonce}'; connect-src 'self'; "
        "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self'; worker-src 'self'; "
        "frame-src 'self' blob:",
        origins,
    )


def _headers(sources: str, origins: Sequence[str]) -> dict[str, str]:
    ancestors = "*" if "*" in origins else " ".join(["'self'", *origins])
    return {
        "Content-Security-Policy": f"default-src 'none'; {sources}; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors {ancestors}",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }


def asks_for_page(scope: Scope) -> bool:
    """Say whether a browser wants to show a person one of our pages."""
    if scope["method"] != "GET" or scope["path"] not in PAGES:
        return False
    accepted = [value for name, value in scope["headers"] if name == b"accept"]
    return any(b"text/html" in value for value in accepted)


def token_page(scope: Scope) -> tuple[bytes, dict[str, str]]:
    """Return a page with a field for the token, which leads to the same address, and its fields."""
    import html  # with every entity that has a name; few see this page

    query = scope["query_string"].decode("latin-1")
    fields = parse_qsl(query, keep_blank_values=True)[:64]
    kept = "".join(
        f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
        for name, value in fields
        if name not in PARAMETERS
    )
    tried = any(name in PARAMETERS for name, _ in fields)
    why = "That token is not accepted. Another one:" if tried else "What SANDKEEPER_TOKEN holds:"
    headers = page_headers("", ())
    policy = headers["Content-Security-Policy"].replace("form-action 'none'", "form-action 'self'")
    return _ASK.format(why=why, kept=kept).encode(), {**headers, "Content-Security-Policy": policy}
