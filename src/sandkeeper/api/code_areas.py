"""What the wires of code contexts are given."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from sandkeeper.api.edge.routing import Area
from sandkeeper.sandbox import Sandbox

if TYPE_CHECKING:
    from sandkeeper.api.e2b_areas import E2bWires
    from sandkeeper.api.mcp.tool import Tool

__all__ = ["code_areas", "code_tools"]


def code_areas(sandbox: Sandbox, wires: "Callable[[], E2bWires]") -> list[Area]:
    """Return those of code contexts; what an earlier server left, or is to be warm, is taken up.

    What E2B's clients have set for the sandbox holds for their code.
    """
    settings = sandbox.settings
    if settings.code.warm or (settings.state_dir / "code" / "contexts").exists():
        sandbox.when_started.append(sandbox.code_begins)
    return [
        Area(("code",), partial(_code_routes, sandbox)),
        Area(("execute", "contexts"), partial(_wire_routes, sandbox, wires)),
    ]


def _code_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.code import handlers

    code = handlers.CodeHandlers(
        contexts=sandbox.contexts,
        users=sandbox.users,
        access=sandbox.access,
        turns=sandbox.turns,
        stopping=sandbox.stopping,
        body_limit=sandbox.settings.body_limit,
    )
    return handlers.routes(code)


def _wire_routes(sandbox: Sandbox, wires: "Callable[[], E2bWires]") -> list[BaseRoute]:
    from sandkeeper.api.code_wires import calls, routes

    enabled = sandbox.settings.e2b.enabled
    made = calls.CodeCalls(
        contexts=sandbox.started_contexts,
        variables=lambda: wires().variables() if enabled else {},
        folder=lambda: wires().folder() if enabled else "",
        access=sandbox.access,
        turns=sandbox.turns,
        stopping=sandbox.stopping,
        body_limit=sandbox.settings.body_limit,
    )
    return routes.routes(made, at_root=enabled)


def code_tools(sandbox: Sandbox) -> "list[Tool]":
    """Return those of `/mcp`."""
    from sandkeeper.api.mcp import interpreter

    cells = interpreter.InterpreterTools(
        contexts=sandbox.started_contexts,
        access=sandbox.access,
        turns=sandbox.turns,
        mcp_wait=sandbox.settings.mcp_wait,
    )
    return interpreter.tools(cells)
