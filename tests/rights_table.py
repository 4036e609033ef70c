"""The table of routes and rights in docs/security.md, made from the routes and tools themselves.

`scripts/rights` (or `python -m tests.rights_table`) writes it anew; a test says when it is old.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from starlette.routing import BaseRoute, WebSocketRoute

from sandkeeper.api.areas import all_routes, all_tools
from sandkeeper.api.edge.rights import Need, Right, need_of
from sandkeeper.sandbox import Sandbox
from sandkeeper.settings import Environment, Settings

__all__ = ["PAGE", "Row", "page_with_table", "rows"]

PAGE = Path(__file__).parent.parent / "docs" / "security.md"
BEGIN, END = "<!-- made by scripts/rights -->", "<!-- end of what scripts/rights makes -->"
SOCKET, ANY = "WebSocket", "any method, WebSocket"


@dataclass(frozen=True)
class Row:
    """A route: its method, its path with `{…}` for what varies and `/…` for all below, its need."""

    method: str
    path: str
    need: Need


def _sandbox(folder: str) -> Sandbox:
    settings = Settings.read({"SANDKEEPER_STATE_DIR": folder, "SANDKEEPER_LOG": "none"})
    return Sandbox(settings, Environment())


def rows() -> list[Row]:
    """Return every route that a server with all switches on has, one row for each method."""
    before = os.environ.get("BL_ENV")
    os.environ["BL_ENV"] = "dev"  # its routes count, too
    try:
        with tempfile.TemporaryDirectory() as folder:
            return [row for made in all_routes(_sandbox(folder)) for row in _rows_of(made)]
    finally:
        if before is None:
            del os.environ["BL_ENV"]
        else:
            os.environ["BL_ENV"] = before


def _rows_of(made: BaseRoute) -> list[Row]:
    need = need_of(made)
    path = getattr(made, "path", "/port/{port}") + ("/…" if _reaches_below(made) else "")
    if isinstance(made, WebSocketRoute):
        return [Row(SOCKET, path, need)]
    methods = getattr(made, "methods", None)
    return [Row(method, path, need) for method in sorted(methods or [ANY])]


def _reaches_below(made: BaseRoute) -> bool:
    return bool(getattr(made, "below", False)) or not hasattr(made, "path")


def _right(need: Need) -> str:
    if need.right is Right.NONE:
        return "anyone"
    if need.right is Right.OPERATOR:
        return f"operator: `{need.area}`"
    return f"user; operator for those of others: `{need.area}`" if need.area else "user"


def _table() -> str:
    merged: dict[tuple[str, Need], list[str]] = {}
    for row in rows():
        merged.setdefault((row.path, row.need), []).append(row.method)
    lines = ["| Route | Methods | Right |", "|---|---|---|"]
    lines += [
        f"| `{path}` | {', '.join(methods)} | {_right(need)} |"
        for (path, need), methods in merged.items()
    ]
    tools: dict[Need, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for tool in all_tools(_sandbox(folder)):
            tools.setdefault(tool.need, []).append(f"`{tool.name}`")
    lines += [
        f"| tools of `/mcp`: {', '.join(sorted(names))} | | {_right(need)} |"
        for need, names in tools.items()
    ]
    return "\n".join(lines)


def page_with_table(text: str) -> str:
    """Return the page with the table as the routes have it now."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin, "the page has lost its mark"
    assert end, "the page has lost its mark"
    return f"{head}{BEGIN}\n\n{_table()}\n\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text()))
