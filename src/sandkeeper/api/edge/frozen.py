"""Refusing what would change something while the sandbox is frozen for its archive.

Here, and nowhere else, it is decided which calls those are: every matched route whose method is
not one of reading, but for the few named below, and every MCP tool but the reading ones.
"""

from asyncio import Future
from collections.abc import Callable
from contextlib import closing
from functools import partial

from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from sandkeeper.api.edge.connections.plain import Early, Later, Plain, PlainAnswer, plain_of
from sandkeeper.archive.freeze import Freeze

__all__ = ["READING_TOOLS", "guard"]

WRITING = frozenset(["POST", "PUT", "PATCH", "DELETE"])
ALLOWED = (
    "/archive/",
    "/mcp",  # asks for each tool
    "/port/",  # what a server of the workload does with a request is its own affair
    "/network/ports/{port}/tcp",
    "/network/process/",  # monitors live in memory
    "/debug/",
)
_LOOKS = ("Stat", "ListDir", "WatchDir", "CreateWatcher", "GetWatcherEvents", "RemoveWatcher")
UNCHANGING = frozenset(
    {
        *("/", "/console-session", "/process/{identifier}/wait-for"),
        "/code/contexts/{id}/interrupt",
        # Those of E2B's calls that look, or end something.
        *(f"/filesystem.Filesystem/{name}" for name in _LOOKS),
        *(f"/process.Process/{name}" for name in ("List", "Connect", "SendSignal")),
    }
)
STOPPING = (
    *("/process/{", "/terminals/{", "/git/operations/{"),
    *("/code/contexts/{", "/contexts/{"),
)
"""Below these a DELETE ends something, which writes nothing; but it may not close a file's end."""

STAY = "sandkeeper.stay"
"""In the scope: what counts a request that was let in on the short way, and goes the long one."""

READING_TOOLS = frozenset(
    [
        *("processesList", "processGet", "processGetLogs", "processWait", "processWaitFor"),
        *(
            "processQueryLogs",
            "processStop",
            "processKill",
            "terminalsList",
            "terminalScreen",
            "terminalClose",
        ),
        *("codeContexts", "codeExecution", "codeVariables", "codeInterrupt", "codeContextDelete"),
        *("fsGetWorkingDirectory", "fsListDirectory", "fsReadFile", "fsStat"),
        *("codegenFileSearch", "codegenCodebaseSearch", "codegenGrepSearch", "codegenListDir"),
        *("codegenReadFileRange", "codegenRerank"),
        *("gitStatus", "gitDiff", "gitLog", "gitBranches"),
    ]
)
"""MCP tools that change nothing; ending something is not writing."""


def guard(routes: list[BaseRoute], freeze: Freeze) -> None:
    """Put the check in front of every route that changes something."""
    for made in routes:
        if isinstance(made, WebSocketRoute):
            if not made.path.startswith(ALLOWED):
                made.app = _Guarded(made.app, freeze)
        elif isinstance(made, Route) and _changes(made):
            made.app = _Guarded(made.app, freeze)
            if (plain := plain_of(made)) is not None:
                made.plain = partial(_plain, plain, freeze)  # type: ignore[attr-defined]


def _changes(made: Route) -> bool:
    methods = (made.methods or set()) & WRITING
    if not methods or made.path in UNCHANGING or made.path.startswith(ALLOWED):
        return False
    stops = methods == {"DELETE"} and not made.path.endswith("/stdin")
    return not (stops and made.path.startswith(STOPPING))


def _plain(
    plain: Plain, freeze: Freeze, scope: Scope, body: bytes
) -> PlainAnswer | Later | Early | None:
    """Leave the refusal to the long way; what is done at once need not be waited for."""
    if not freeze.active:
        return None
    answer = plain(scope, body)
    if answer is None or isinstance(answer, PlainAnswer):
        return answer
    if callable(answer):
        return partial(_counted_early, answer, freeze)
    return _counted(answer, freeze, scope)


async def _counted(coming: Later, freeze: Freeze, scope: Scope) -> PlainAnswer | None:
    """Count who is waited for; who goes on the long way was let in for it as well.

    Where a freeze came in between, nothing of it has begun, and it is let go.
    """
    with closing(coming), freeze.writing():
        answer = await coming
        if answer is None:
            scope[STAY] = freeze.stay()
    return answer


def _counted_early(
    begin: Early, freeze: Freeze, give: Callable[[PlainAnswer], None]
) -> "Future[PlainAnswer]":
    return freeze.counted(begin(give))


class _Guarded:
    """Counts whoever is let in, so that a freeze can wait for them; raises Unavailable."""

    def __init__(self, app: ASGIApp, freeze: Freeze) -> None:
        self._app = app
        self._freeze = freeze

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        with self._freeze.writing(scope.pop(STAY, None)):
            await self._app(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A connection is no write that could be waited for: its terminal is stopped instead."""
        if self._freeze.active:
            await self._app(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.close", "code": 1013, "reason": "the sandbox is frozen"})
