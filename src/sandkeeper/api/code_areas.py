"""What the wires of code contexts are given."""

from functools import partial

from starlette.routing import BaseRoute

from sandkeeper.api.edge.routing import Area
from sandkeeper.sandbox import Sandbox

__all__ = ["code_areas"]


def code_areas(sandbox: Sandbox) -> list[Area]:
    """Return those of code contexts; what an earlier server left, or is to be warm, is taken up."""
    settings = sandbox.settings
    if settings.code.warm or (settings.state_dir / "code" / "contexts").exists():
        sandbox.when_started.append(sandbox.code_begins)
    return [Area(("code",), partial(_code_routes, sandbox))]


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
