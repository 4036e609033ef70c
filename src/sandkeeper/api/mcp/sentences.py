"""What the tools say of a task that failed: mostly each in words of its own."""

from sandkeeper.api.edge.respond import utf8
from sandkeeper.api.mcp.tool import BadArguments, Tool
from sandkeeper.errors import SandkeeperError, Task, Words

__all__ = ["sentence"]

BEGINNINGS: Words = {
    Task.FIND_PROCESS: "process with Identifier {} ",
    Task.STOP_PROCESS: "process with Identifier {} ",
    Task.KILL_PROCESS: "failed to kill process with Identifier {}: ",
    Task.GREP: "grep search failed: ",
}
"""What a tool says of these besides its own beginning."""


def sentence(tool: Tool, error: SandkeeperError) -> str:
    """Return what a tool says of an error; of most tasks its own beginning tells enough."""
    if isinstance(error, BadArguments):
        return utf8(str(error))
    if tool.prefix and error.task not in BEGINNINGS:
        told = str(error.reason)
    else:
        told = error.said(BEGINNINGS)
    return tool.prefix + (utf8(told) or type(error).__name__)
