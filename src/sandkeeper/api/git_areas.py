"""What git's routes and tools are given."""

from functools import partial
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from sandkeeper.api.edge.routing import Area
from sandkeeper.sandbox import Sandbox

if TYPE_CHECKING:
    from sandkeeper.api.mcp.tool import Tool

__all__ = ["git_areas", "git_tools"]


def git_areas(sandbox: Sandbox) -> list[Area]:
    """Return those of repositories."""
    return [Area(("git",), partial(_git_routes, sandbox))]


def _git_routes(sandbox: Sandbox) -> list[BaseRoute]:
    from sandkeeper.api.blaxel.git import routes

    handlers = routes.GitHandlers(
        git=sandbox.git,
        access=sandbox.access,
        turns=sandbox.turns,
        stopping=sandbox.stopping,
        body_limit=sandbox.settings.body_limit,
    )
    return routes.routes(handlers)


def git_tools(sandbox: Sandbox) -> "list[Tool]":
    """Return the tools of repositories."""
    from sandkeeper.api.mcp import git

    made = git.GitTools(git=sandbox.git, access=sandbox.access, mcp_wait=sandbox.settings.mcp_wait)
    return git.tools(made)
