"""What a screen looks like: as plain lines, and as the sequences that draw it again."""

from collections.abc import Iterator, Mapping

from pyte import modes
from pyte.graphics import BG_AIXTERM, BG_ANSI, FG_AIXTERM, FG_ANSI
from pyte.screens import Char

from sandkeeper.terminals.screen import PRIVATE, Line, TrueScreen

__all__ = ["history_text", "redraw", "text_lines"]

RESTORED_MODES = (1, 5, 9, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004)
"""Private modes that a client's terminal must know to behave as the program expects."""

_FG = {name: str(code) for code, name in (*FG_ANSI.items(), *FG_AIXTERM.items())}
_BG = {name: str(code) for code, name in (*BG_ANSI.items(), *BG_AIXTERM.items())}
_FLAGS = (("bold", "1"), ("italics", "3"), ("underscore", "4"), ("blink", "5"), ("reverse", "7"))
PLAIN = Char(" ")


def _line_text(line: Line, columns: int) -> str:
    last = max(line, default=-1)
    return "".join(line[x].data for x in range(min(last + 1, columns))).rstrip()


def text_lines(screen: TrueScreen) -> list[str]:
    """Return the lines as plain text, without blanks at their ends."""
    rows = (screen.buffer.get(y) for y in range(screen.lines))
    return [_line_text(row, screen.columns) if row else "" for row in rows]


def history_text(screen: TrueScreen, count: int) -> list[str]:
    """Return the last `count` lines that scrolled off, oldest first, as plain text."""
    rows = list(screen.history)[-count:] if count > 0 else []
    return [_line_text(row, screen.columns * 10) for row in rows]


def redraw(screen: TrueScreen, history_bytes: int) -> str:
    """Return what draws this screen on a terminal that shows its primary one, scrollback first.

    The scrollback has at most `history_bytes`; 0 leaves the client's own alone.
    """
    parts = ["\x1b[0m"]
    if history_bytes:
        parts += _scrollback(screen, history_bytes)
    if screen.alternate:
        rows, (x, y) = screen.primary()
        parts += _rows(screen, rows)
        parts.append(f"\x1b[{y + 1};{x + 1}H\x1b[?1049h")
    parts += [*_rows(screen, screen.buffer), *_state(screen)]
    return "".join(parts)


def _scrollback(screen: TrueScreen, limit: int) -> list[str]:
    lines: list[str] = []
    size = 0
    for line in reversed(screen.history):
        text = _styled(line, screen.columns) + ("" if getattr(line, "wraps", False) else "\r\n")
        size += len(text.encode())
        if size > limit:
            break
        lines.append(text)
    if lines:
        # Pushed up by as many empty lines as the screen has, so that it becomes scrollback.
        return [*reversed(lines), "\x1b[0m", "\r\n" * (screen.lines - 1)]
    return []


def _rows(screen: TrueScreen, rows: Mapping[int, Line]) -> Iterator[str]:
    yield "\x1b[0m\x1b[r\x1b[H\x1b[2J"
    joined = False
    for y in range(screen.lines):
        row = rows.get(y)
        if row:
            yield ("" if joined else f"\x1b[{y + 1}H") + _styled(row, screen.columns)
        joined = row is not None and getattr(row, "wraps", False) and len(row) >= screen.columns


def _styled(line: Line, columns: int) -> str:
    parts: list[str] = []
    style = PLAIN
    for x in range(min(max(line, default=-1) + 1, columns)):
        char = line[x]
        if char[1:] != style[1:]:
            parts.append(_sgr(char))
            style = char
        parts.append(char.data)
    if style[1:] != PLAIN[1:]:
        parts.append("\x1b[0m")
    return "".join(parts)


def _sgr(char: Char) -> str:
    codes = ["0", *(code for name, code in _FLAGS if getattr(char, name))]
    if char.strikethrough:
        codes.append("9")
    codes += _colour(char.fg, _FG, "38") + _colour(char.bg, _BG, "48")
    return f"\x1b[{';'.join(codes)}m"


def _colour(name: str, named: dict[str, str], extended: str) -> list[str]:
    if name == "default":
        return []
    if name in named:
        return [named[name]]
    try:
        value = int(name, 16)
    except ValueError:
        return []
    return [extended, "2", str(value >> 16), str(value >> 8 & 255), str(value & 255)]


def _state(screen: TrueScreen) -> Iterator[str]:
    """What is neither text nor colour: margins, modes, title, cursor."""
    if screen.margins is not None:
        yield f"\x1b[{screen.margins.top + 1};{screen.margins.bottom + 1}r"
    for number in RESTORED_MODES:
        if number in screen.modes_seen:
            yield f"\x1b[?{number}{'h' if screen.modes_seen[number] else 'l'}"
    yield "\x1b=" if screen.keypad else "\x1b>"
    yield "\x1b[4h" if modes.IRM in screen.mode else "\x1b[4l"
    yield "\x1b[?7h" if modes.DECAWM in screen.mode else "\x1b[?7l"
    yield "\x1b(0" if screen.g0_charset is screen.g1_charset else "\x1b(B"
    if screen.cursor_style:
        yield f"\x1b[{screen.cursor_style} q"
    if screen.title:
        yield "\x1b]2;" + "".join(filter(str.isprintable, screen.title)) + "\x07"
    yield from _cursor(screen)


def _cursor(screen: TrueScreen) -> Iterator[str]:
    cursor = screen.cursor
    x, y = min(cursor.x, screen.columns - 1), cursor.y
    if modes.DECOM in screen.mode:
        y -= screen.margins.top if screen.margins else 0
        yield "\x1b[?6h"
    yield f"\x1b[{y + 1};{x + 1}H"
    if cursor.x >= screen.columns:
        # About to wrap: only printing the last cell again leaves a terminal in that state.
        line = screen.buffer.get(cursor.y)
        last = line[x] if line else PLAIN
        yield _sgr(last) + (last.data or " ")
    yield _sgr(cursor.attrs)
    yield "\x1b[?25l" if cursor.hidden else "\x1b[?25h"


assert modes.DECOM == 6 << PRIVATE
