"""What a screen looks like: as plain lines, and as the sequences that draw it again."""

from collections.abc import Iterator, Mapping
from itertools import islice

from pyte import modes
from pyte.charsets import MAPS
from pyte.graphics import BG_AIXTERM, BG_ANSI, FG_AIXTERM, FG_ANSI
from pyte.screens import Char

from sandkeeper.terminals.cells import CellLine
from sandkeeper.terminals.clusters import columns_of, is_lead, joins
from sandkeeper.terminals.reflow import newest_first
from sandkeeper.terminals.screen import PRIVATE, TrueScreen

__all__ = ["flowing_text", "history_text", "redraw", "text_lines"]

RESTORED_MODES = (1, 5, 9, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004)
"""Private modes that a client's terminal must know to behave as the program expects."""

_FG = {name: str(code) for code, name in (*FG_ANSI.items(), *FG_AIXTERM.items())}
_BG = {name: str(code) for code, name in (*BG_ANSI.items(), *BG_AIXTERM.items())}
_FLAGS = (("bold", "1"), ("italics", "3"), ("underscore", "4"), ("blink", "5"), ("reverse", "7"))
_CHARSETS = {table: code for code, table in MAPS.items()}
PLAIN = Char(" ")
EMPTY = CellLine(PLAIN)
APART = "\x1b[?7h"
"""Any sequence keeps two clusters apart that would be one; this one changes nothing else."""


def _line_text(line: CellLine, columns: int) -> str:
    return _whole_line(line, columns).rstrip(" ")


def _whole_line(line: CellLine, columns: int) -> str:
    last = max(line, default=-1)
    return "".join(line[x].data for x in range(min(last + 1, columns)))


def text_lines(screen: TrueScreen) -> list[str]:
    """Return the lines as plain text, without blanks at their ends."""
    rows = (screen.buffer.get(y) for y in range(screen.lines))
    return [_line_text(row, screen.columns) if row else "" for row in rows]


def flowing_text(screen: TrueScreen) -> str:
    """Return the text as it was written: a line that wraps goes on behind its end."""
    parts: list[str] = []
    for y in range(screen.lines):
        row = screen.buffer.get(y, EMPTY)
        if row.wraps:
            parts.append(_whole_line(row, screen.columns))
        else:
            parts += [_line_text(row, screen.columns), "\n"]
    return "".join(parts[:-1])


def history_text(screen: TrueScreen, count: int) -> list[str]:
    """Return the last `count` lines that scrolled off, oldest first, as plain text."""
    rows = list(islice(newest_first(screen.history, screen.columns), max(count, 0)))
    return [_line_text(row, screen.columns) for row in reversed(rows)]


def redraw(screen: TrueScreen, history_bytes: int) -> str:
    """Return what draws this screen on a terminal that shows its primary one, scrollback first.

    The scrollback has at most `history_bytes`; 0 leaves the client's own alone.
    """
    parts = ["\x1b[0m\x1b[4l\x1b[?6l\x1b[?7h\x1b(B\x1b)B\x0f"]
    if history_bytes:
        parts += _scrollback(screen, history_bytes)
    if screen.alternate:
        parts += [*_rows(screen, screen.primary()), _saved(screen, "\x1b[?1049h")]
    parts += [*_rows(screen, screen.buffer), *_state(screen)]
    return "".join(parts)


def _scrollback(screen: TrueScreen, limit: int) -> list[str]:
    lines: list[str] = []
    size = 0
    for line in reversed(screen.history):
        # Of whatever width it was: the client wraps it anew.
        text = _styled(line, max(line, default=-1) + 1) + ("" if line.wraps else "\r\n")
        size += len(text.encode())
        if size > limit:
            break
        lines.append(text)
    if lines:
        # Pushed up by as many empty lines as the screen has, so that it becomes scrollback.
        return [*reversed(lines), "\x1b[0m", "\r\n" * (screen.lines - 1)]
    return []


def _rows(screen: TrueScreen, rows: Mapping[int, CellLine]) -> Iterator[str]:
    yield "\x1b[0m\x1b[r\x1b[H\x1b[2J"
    before: CellLine | None = None
    for y in range(screen.lines):
        row = rows.get(y)
        if row:
            if before is None or not _continues(before, row, screen.columns):
                yield f"\x1b[{y + 1}H"
            elif joins(_last(before), row[0].data[:1]):
                yield APART
            yield _styled(row, screen.columns)
        before = row


def _continues(before: CellLine, row: CellLine, columns: int) -> bool:
    """Say whether printing a row right behind the one before it puts it onto the next line."""
    end = max(before, default=-1) + 1
    wide = row[1].data == "" and row[0].data != ""
    full = end == columns or (end == columns - 1 and wide)
    return before.wraps and full and not is_lead(row[0].data)


def _last(line: CellLine) -> str:
    end = max(line)
    return line[end].data or line[end - 1].data


def _styled(line: CellLine, columns: int) -> str:
    parts: list[str] = []
    style, before = PLAIN, ""
    for x in range(min(max(line, default=-1) + 1, columns)):
        char = line[x]
        if char.data == "":
            continue  # the second half of what was drawn
        if char[1:] != style[1:]:
            parts.append(_sgr(char))
            style = char
        elif before and not char.data.isascii() and joins(before, char.data[0]):
            parts.append(APART)
        parts.append(char.data)
        before = char.data
        if not char.data.isascii() and columns_of(char.data) == 0:
            parts.append(f"\x1b[{x + 2}G")
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
    """What is neither text nor colour: margins, modes, title, tab stops, cursors."""
    if screen.tabstops != set(range(8, screen.columns, 8)):
        yield "\x1b[3g"
        yield from (f"\x1b[{x + 1}G\x1bH" for x in sorted(screen.tabstops))
    yield _saved(screen, "\x1b7")
    if screen.margins is not None:
        yield f"\x1b[{screen.margins.top + 1};{screen.margins.bottom + 1}r"
    for number in RESTORED_MODES:
        if number in screen.modes_seen:
            yield f"\x1b[?{number}{'h' if screen.modes_seen[number] else 'l'}"
    yield "\x1b=" if screen.keypad else "\x1b>"
    if screen.cursor_style:
        yield f"\x1b[{screen.cursor_style} q"
    if screen.title:
        yield "\x1b]2;" + "".join(filter(str.isprintable, screen.title)) + "\x07"
    yield from _cursor(screen)
    yield _charsets(screen.g0_charset, screen.g1_charset, screen.charset)
    yield "\x1b[4h" if modes.IRM in screen.mode else "\x1b[4l"
    yield "\x1b[?7h" if modes.DECAWM in screen.mode else "\x1b[?7l"


def _charsets(g0: str, g1: str, shift: int) -> str:
    return f"\x1b({_CHARSETS[g0]}\x1b){_CHARSETS[g1]}" + ("\x0e" if shift else "\x0f")


def _saved(screen: TrueScreen, how: str) -> str:
    """Bring about a cursor that was saved, and have it saved, by DECSC or as 1049 does."""
    kept = screen.saved(how == "\x1b7" and screen.alternate)
    if kept is None:
        return "" if how == "\x1b7" else "\x1b[H" + how
    x, y, attrs, *charsets = kept
    place = f"\x1b[{y + 1};{x + 1}H{_sgr(attrs)}{_charsets(*charsets)}"
    return f"{place}{how}\x1b[0m\x1b(B\x1b)B\x0f"


def _cursor(screen: TrueScreen) -> Iterator[str]:
    cursor = screen.cursor
    x, y = min(cursor.x, screen.columns - 1), cursor.y
    about_to_wrap = cursor.x >= screen.columns
    last = screen.buffer.get(y, EMPTY)[x]
    if about_to_wrap and last.data == "":
        x -= 1
        last = screen.buffer[y][x]
    if modes.DECOM in screen.mode:
        y -= screen.margins.top if screen.margins else 0
        yield "\x1b[?6h"
    yield f"\x1b[{y + 1};{x + 1}H"
    if about_to_wrap:
        # Only printing the last cell again leaves a terminal in that state.
        yield _sgr(last) + last.data
    yield _sgr(cursor.attrs)
    yield "\x1b[?25l" if cursor.hidden else "\x1b[?25h"


assert modes.DECOM == 6 << PRIVATE
