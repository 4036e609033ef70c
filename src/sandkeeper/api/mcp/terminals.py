"""Terminal tools, all beyond the contract: an agent at a screen, for programs that need one."""

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta

from sandkeeper.api.edge.rights import USER
from sandkeeper.api.mcp.tool import Arguments, NoArguments, Tool
from sandkeeper.api.schemas.terminals import ScreenRecord, TerminalRecord, screen_of, terminal_of
from sandkeeper.errors import BadInput
from sandkeeper.log.access import Access, Caller
from sandkeeper.processes.runs import new_id
from sandkeeper.terminals.looking import until_shown
from sandkeeper.terminals.registry import TerminalOrder, Terminals
from sandkeeper.terminals.terminal import Terminal

__all__ = ["TerminalTools", "tools"]

NAME_CHARACTERS = 256
LINES_MOST = 2000
SESSION = Annotated[str, Meta(description="SessionArgument id or internal id of the terminal")]


class OpenArguments(Arguments):
    """Which terminal."""

    session_id: Annotated[str, Meta(description="Its name; made up when absent")] = ""
    shell: Annotated[str, Meta(description="Program to run, the user's shell by default")] = ""
    working_dir: Annotated[str, Meta(description="Folder the shell starts in")] = ""
    cols: Annotated[int, Meta(ge=1, le=1000, description="Width in characters")] = 80
    rows: Annotated[int, Meta(ge=1, le=1000, description="Height in lines")] = 24


class ScreenArguments(Arguments):
    """Which screen, and when."""

    session_id: SESSION
    wait_for: Annotated[str, Meta(description="Wait until the screen holds this text")] = ""
    timeout: Annotated[float, Meta(description="Seconds to wait, 58 at most", ge=0, le=3600)] = 30.0
    history: Annotated[
        int, Meta(description="So many lines that scrolled off, too", ge=0, le=LINES_MOST)
    ] = 0


class TypeArguments(Arguments):
    """What to type."""

    session_id: SESSION
    data: Annotated[
        str, Meta(description="Text and control characters: \\u0003 is Ctrl-C, \\u001b Escape")
    ] = ""
    enter: Annotated[bool, Meta(description="Press Enter afterwards")] = False


class SessionArgument(Arguments):
    """Which terminal."""

    session_id: SESSION


class TerminalList(msgspec.Struct):
    """All sessions, ended ones too."""

    terminals: list[TerminalRecord]


class TypedCount(msgspec.Struct, rename="camel"):
    """How much was typed."""

    bytes_typed: int


class Closed(msgspec.Struct):
    """What became of it."""

    status: str


class TerminalTools:
    """The tools over `terminals.registry`."""

    def __init__(self, *, terminals: Terminals, access: Access, mcp_wait: float) -> None:
        self._terminals = terminals
        self._access = access
        self._mcp_wait = mcp_wait

    async def list(self, _arguments: NoArguments, _who: Caller) -> TerminalList:
        """List all sessions."""
        return TerminalList([terminal_of(one) for one in self._terminals.all()])

    async def open(self, wanted: OpenArguments, who: Caller) -> TerminalRecord:
        """Open a session."""
        name = wanted.session_id or f"terminal-{new_id()[-8:]}"
        if len(name) > NAME_CHARACTERS:
            raise BadInput(f"a session id has at most {NAME_CHARACTERS} characters")
        if any("\0" in text for text in (name, wanted.shell, wanted.working_dir)):
            raise BadInput("a name or path with a NUL")
        order = TerminalOrder(name, wanted.shell, wanted.working_dir, wanted.cols, wanted.rows)
        terminal = await self._terminals.create(order)
        self._audit("terminal_create", who, terminal)
        return terminal_of(terminal)

    async def screen(self, wanted: ScreenArguments, _who: Caller) -> ScreenRecord:
        """Show the screen, perhaps once it holds a text."""
        terminal = self._terminals.get(wanted.session_id)
        if wanted.wait_for:
            seconds = min(wanted.timeout, self._mcp_wait)
            try:
                async with asyncio.timeout(seconds):
                    await until_shown(terminal, wanted.wait_for)
            except TimeoutError:
                pass  # the screen as it is says that the text is not there
        return screen_of(terminal, await terminal.screen(), wanted.history)

    async def type(self, wanted: TypeArguments, who: Caller) -> TypedCount:
        """Type into a terminal."""
        terminal = self._terminals.get(wanted.session_id)
        data = wanted.data.encode() + (b"\r" if wanted.enter else b"")
        if data:
            terminal.type(data, who)
        return TypedCount(len(data))

    async def close(self, wanted: SessionArgument, who: Caller) -> Closed:
        """Hang a session up; remove one that has ended."""
        terminal = self._terminals.get(wanted.session_id)
        self._audit("terminal_close", who, terminal)
        await self._terminals.remove(terminal)
        return Closed("closed")

    def _audit(self, action: str, who: Caller, terminal: Terminal) -> None:
        self._access.audit(action, who, session_id=terminal.meta.name)


def tools(made: TerminalTools) -> list[Tool]:
    """Return the terminal tools."""
    return [
        Tool(
            "terminalsList",
            "List the terminal sessions, ended ones too.",
            NoArguments,
            TerminalList,
            made.list,
            "failed to list terminals: ",
            need=USER,
        ),
        Tool(
            "terminalOpen",
            "Open a terminal, for programs that need a screen or ask questions.",
            OpenArguments,
            TerminalRecord,
            made.open,
            "failed to open terminal: ",
            need=USER,
        ),
        Tool(
            "terminalScreen",
            "Show what a terminal's screen shows now, as text with the cursor's place, or wait "
            "until it shows a text.",
            ScreenArguments,
            ScreenRecord,
            made.screen,
            "failed to show terminal: ",
            need=USER,
        ),
        Tool(
            "terminalType",
            "Type text or control characters into a terminal.",
            TypeArguments,
            TypedCount,
            made.type,
            "failed to type: ",
            need=USER,
        ),
        Tool(
            "terminalClose",
            "Hang up a terminal and end what runs in it.",
            SessionArgument,
            Closed,
            made.close,
            "failed to close terminal: ",
            need=USER,
        ),
    ]
