"""Wire structs of terminals."""

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sandkeeper.log.lines import timestamp
from sandkeeper.terminals.terminal import Terminal

if TYPE_CHECKING:
    from sandkeeper.terminals.emulator import Emulator

__all__ = [
    "ClientMessage",
    "ScreenRecord",
    "ServerMessage",
    "SizeMessage",
    "TerminalChange",
    "TerminalRecord",
    "TerminalRequest",
    "screen_of",
    "terminal_of",
]


class ServerMessage(msgspec.Struct):
    """A frame to the client: `output` or `error`."""

    type: str
    data: str


class SizeMessage(msgspec.Struct):
    """A frame to the client that asked for them: from here on the terminal has this size."""

    cols: int
    rows: int
    type: str = "resize"


class ClientMessage(msgspec.Struct):
    """A frame from the client: `input` (data) or `resize` (cols, rows)."""

    type: str = ""
    data: str = ""
    cols: int = 0
    rows: int = 0


class TerminalRequest(msgspec.Struct, rename="camel"):
    """The body of `POST /terminals`; all of it may be absent.

    `shell` is the program, `args` what stands behind it; `env` comes on top of the server's
    variables, or alone where `inheritEnv` is false. It is killed after `timeout` seconds (0: none).
    """

    session_id: str = ""
    shell: str = ""
    working_dir: str = ""
    cols: int = 80
    rows: int = 24
    args: list[str] = []
    env: dict[str, str] = {}
    inherit_env: bool = True
    user: str = ""
    tag: str = ""
    timeout: Annotated[float, Meta(ge=0)] = 0.0


class TerminalChange(msgspec.Struct, rename="camel"):
    """The body of `PATCH /terminals/{id}`; what is absent stays."""

    session_id: str | None = None
    cols: int = 0
    rows: int = 0


class TerminalRecord(msgspec.Struct, rename="camel"):
    """A session as clients see it; times are RFC 3339, `exitCode` null while it runs."""

    id: str
    session_id: str
    status: str
    pid: int
    shell: str
    working_dir: str
    cols: int
    rows: int
    clients: int
    output_bytes: int
    lost_bytes: int
    queued_input_bytes: int
    started_at: str
    ended_at: str
    exit_code: int | None
    exit_signal: int | None
    args: list[str] | UnsetType = UNSET
    user: str | UnsetType = UNSET
    tag: str | UnsetType = UNSET


class Cursor(msgspec.Struct):
    """Where the cursor stands, counted from 0."""

    row: int
    col: int
    visible: bool


class ScreenRecord(msgspec.Struct, rename="camel"):
    """The screen as text; `history` are lines that scrolled off, oldest first."""

    session_id: str
    status: str
    cols: int
    rows: int
    cursor: Cursor
    lines: list[str]
    history: list[str]
    title: str
    alternate: bool


def terminal_of(terminal: Terminal) -> TerminalRecord:
    """Make the record of a session."""
    meta, journal = terminal.meta, terminal.journal
    over = terminal.over.is_set()
    return TerminalRecord(
        id=meta.id,
        session_id=meta.name,
        status="exited" if over else "running",
        pid=meta.leader,
        shell=meta.shell,
        working_dir=meta.working_dir,
        cols=terminal.size[0],
        rows=terminal.size[1],
        clients=len(terminal.viewers),
        output_bytes=journal.totals[0],
        lost_bytes=journal.lost,
        queued_input_bytes=terminal.queued_input,
        started_at=timestamp(meta.started_at),
        ended_at=timestamp(meta.ended_at) if over else "",
        exit_code=meta.exit_code,
        exit_signal=meta.exit_signal,
        args=meta.args or UNSET,
        user=meta.user or UNSET,
        tag=meta.tag or UNSET,
    )


def screen_of(terminal: Terminal, emulator: "Emulator", history: int) -> ScreenRecord:
    """Make the record of a screen."""
    from sandkeeper.terminals.render import history_text, text_lines

    screen = emulator.screen
    cursor = screen.cursor
    return ScreenRecord(
        session_id=terminal.meta.name,
        status="exited" if terminal.over.is_set() else "running",
        cols=screen.columns,
        rows=screen.lines,
        cursor=Cursor(cursor.y, min(cursor.x, screen.columns - 1), not cursor.hidden),
        lines=text_lines(screen),
        history=history_text(screen, history),
        title=screen.title,
        alternate=screen.alternate,
    )
