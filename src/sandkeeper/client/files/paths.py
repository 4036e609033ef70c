"""Paths in the sandbox: how a person writes them, and how they stand in an address.

`:path` is in the sandbox and anything else is here, where a verb takes both; `./:name` is a file of
that name. Where a path can only be in the sandbox the colon may be left out.
"""

import posixpath
from typing import Any
from urllib.parse import quote

from sandkeeper.client.connection import Server
from sandkeeper.client.failures import Refused

__all__ = ["absolute", "file_route", "inside", "is_inside", "joined", "name_of", "stat_of"]


def is_inside(text: str) -> bool:
    """Say whether a person means a path in the sandbox."""
    return text.startswith(":")


def inside(text: str) -> str:
    """Return the path itself; the sandbox's working directory for an empty one."""
    return text.removeprefix(":") or "."


def file_route(route: str, path: str) -> str:
    """Return the address of a path below `/filesystem` or its kin.

    A relative path is one below the working directory; `%2F` anywhere makes one absolute.
    """
    coded = path.encode("utf-8", "surrogateescape")
    if path.startswith("/"):
        return f"{route}/{quote(coded, safe='')}"
    parts = [part for part in coded.split(b"/") if part not in {b"", b"."}]
    return f"{route}/" + "/".join(quote(part, safe="~") for part in parts)


def name_of(path: str) -> str:
    """Return the last name of a path, empty for one that has none (`.`, `/`, `x/..`)."""
    name = posixpath.basename(path.rstrip("/"))
    return "" if name in {".", ".."} else name


def joined(folder: str, name: str) -> str:
    """Return a path below a folder."""
    return name if folder == "." else posixpath.join(folder, name)


def absolute(server: Server, path: str) -> str:
    """Return a path as one from the root; the sandbox's working directory is the server's."""
    above = stat_of(server, ".") or {}
    return posixpath.normpath(posixpath.join(str(above.get("path", "/")), path))


def stat_of(server: Server, path: str) -> dict[str, Any] | None:
    """Return what is known of a path, None when nothing is there."""
    try:
        return dict(server.value("GET", file_route("/filesystem-stat", path)))
    except Refused as error:
        if error.code == 404:
            return None
        raise
