"""Wire structs of watches and of changes since a cursor."""

from msgspec import Struct

__all__ = ["ChangesResponse", "WatchEvent"]


class WatchEvent(Struct):
    """One line of a watch: `path` is the absolute directory, `name` the base name in it."""

    op: str
    name: str
    path: str
    error: str | None = None


class ChangesResponse(Struct):
    """Answer of /filesystem-changes: paths below `path`; with `reset` the lists are empty."""

    path: str
    cursor: str
    reset: bool
    created: list[str]
    changed: list[str]
    deleted: list[str]
