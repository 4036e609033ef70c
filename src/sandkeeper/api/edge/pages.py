"""What our pages tell the browser besides: what they may load, and who may frame them."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence

__all__ = ["page_headers"]


def page_headers(script: str, origins: Sequence[str]) -> dict[str, str]:
    """Return the fields of a page whose only script is `script`, inside of it ("": none).

    It loads nothing from elsewhere. Pages of `origins` (`*`: all) may show it in a frame beside our
    own; a page that could be framed by anybody has its clicks and keys baited out of people. The
    windows of other origins get no hold of its window (`Cross-Origin-Opener-Policy`).
    """
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"'sha256-{digest}'" if script else "'none'"
    ancestors = "*" if "*" in origins else " ".join(["'self'", *origins])
    return {
        "Content-Security-Policy": f"default-src 'none'; script-src {scripts}; "
        "style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors {ancestors}",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }
