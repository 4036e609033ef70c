"""Paths of the contract, on which a wrong method is an unknown route (404), never 405."""

import re

__all__ = ["is_pinned"]

_TEMPLATES = """
/ /health /upgrade /mcp /swagger /swagger/… /environment/reload /environment
/process /process/{} /process/{}/kill /process/{}/logs /process/{}/logs/stream /process/{}/stdin
/filesystem/… /filesystem-search/… /filesystem-find/… /filesystem-content-search/…
/filesystem-multipart /filesystem-multipart/… /watch/…
/network/process/… /network/tunnel /network/tunnel/config
/drives/mount /drives/mount/… /codegen/… /archive/… /terminal /terminal/ws
"""


def _pattern(template: str) -> str:
    return re.escape(template).replace(r"\{\}", "[^/]*").replace("…", ".*")


_PINNED = re.compile("|".join(map(_pattern, _TEMPLATES.split())), re.DOTALL)


def is_pinned(path: str) -> bool:
    """Say whether the contract has a path, whatever its method."""
    return _PINNED.fullmatch(path) is not None
