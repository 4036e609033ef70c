"""What the wires of code contexts are given."""

from collections.abc import Callable, Mapping
from functools import partial

from starlette.routing import BaseRoute

from sandkeeper.api.edge.routing import Area
from sandkeeper.sandbox import Sandbox

__all__ = ["code_areas"]


def code_areas(sandbox: Sandbox, variables: Callable[[], Mapping[str, str]]) -> list[Area]:
    """Return those of code contexts; what an earlier server left, or is to be warm, is taken up.

    `variables` are those that E2B's clients have set for the sandbox.
    """
    settings = sandbox.settings
    if settings.code.warm or (settings.state_dir / "code" / "contexts").exists():
        sandbox.when_started.append(sandbox.code_begins)
    return [
        Area(("code",), partial(_code_routes, sandbox)),
        Area(("execute", "contexts"), partial(_wire_routes, sandbox, variables)),
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


def _wire_routes(sandbox: Sandbox, variables: Callable[[], Mapping[str, str]]) -> list[BaseRoute]:
    from sandkeeper.api.code_wires import calls, routes

    enabled = sandbox.settings.e2b.enabled
    made = calls.CodeCalls(
        contexts=sandbox.started_contexts,
        variables=variables if enabled else dict,
        access=sandbox.access,
        turns=sandbox.turns,
        stopping=sandbox.stopping,
        body_limit=sandbox.settings.body_limit,
    )
    return routes.routes(made, at_root=enabled)
