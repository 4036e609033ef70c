"""The screen of a terminal: pyte's, with what it leaves out.

pyte keeps cells, cursor, margins, tab stops and character sets. Added here: the alternate screen,
a scrollback, lines that know that they wrap, a saved cursor instead of an unbounded stack of them,
modes that only the client's terminal acts upon (mouse, bracketed paste …), and drawing of plain
text without a look at every character's width.
"""

import unicodedata
from collections import deque
from typing import Any

from pyte import modes
from pyte.screens import Char, Cursor, Margins, Screen, StaticDefaultDict

__all__ = ["TrueScreen"]

HISTORY_LINES = 2000
HISTORY_CELLS = 200_000
"""Lines may be long: with this many cells (60 bytes each) a scrollback takes 12 MiB."""

MOST_CELLS = 131_072
MOST_MARKS = 16
"""Combining characters of one cell; without an end to them each costs as much as all before."""

REVERSED = 5
PRIVATE = 5
"""pyte shifts the numbers of private modes by so many bits."""

ALTERNATE = {47, 1047, 1049}
DEFAULT = Char(" ")
Line = StaticDefaultDict[int, Char]


def bounded(cols: int, rows: int) -> tuple[int, int]:
    """Return the size that is kept of a terminal: hostile sizes must not cost memory."""
    cols = max(2, min(cols, 10_000))
    return cols, max(1, min(rows, 1000, MOST_CELLS // cols))


class WrapLine(Line):
    """A line of cells; `wraps` says that the next line continues it."""

    wraps = False


class History(deque[Line]):
    """What scrolled off; the oldest lines go when there are too many, or too many cells."""

    def __init__(self) -> None:
        super().__init__(maxlen=HISTORY_LINES)
        self._cells = 0

    def append(self, line: Line) -> None:
        """Add the newest line; nobody writes to it any more."""
        if len(self) == HISTORY_LINES:
            self._cells -= len(self[0])
        super().append(line)
        self._cells += len(line)
        while self._cells > HISTORY_CELLS:
            self._cells -= len(self.popleft())

    def clear(self) -> None:
        """Forget all of it."""
        super().clear()
        self._cells = 0


class TrueScreen(Screen):
    """A screen; `alternate` says which of the two is shown, `history` holds what scrolled off.

    `modes_seen` are private modes the program switched, to be told to a client that attaches.
    """

    def __init__(self, cols: int, rows: int) -> None:
        self.history = History()
        self.alternate = False
        self.modes_seen: dict[int, bool] = {}
        self.keypad = False
        self.cursor_style = 0
        self._saved: dict[bool, tuple[Any, ...]] = {}
        self._other: tuple[Any, ...] | None = None
        self._chars: dict[Char, dict[str, Char]] = {}
        super().__init__(*bounded(cols, rows))

    def line(self, y: int) -> Line:
        """Return a line to write to."""
        found = self.buffer.get(y)
        if found is None:
            found = self.buffer[y] = WrapLine(self.default_char)
        return found

    def reset(self) -> None:
        """Start anew, with an empty primary screen."""
        super().reset()
        self.alternate = False
        self.modes_seen.clear()
        self.keypad = False
        self.cursor_style = 0
        self._saved.clear()
        self._other = None

    def primary(self) -> tuple[dict[int, Line], tuple[int, int]]:
        """Return the lines of the screen that is hidden now, and where its cursor was kept."""
        rows = self._other[0] if self._other is not None else {}
        x, y = self._saved.get(False, (0, 0))[:2]
        return rows, (x, y)

    # Drawing

    def draw(self, data: str) -> None:
        """Draw text at the cursor."""
        plain = data.isascii() and not self.charset and self.g0_charset is LATIN
        if not plain or modes.IRM in self.mode or modes.DECAWM not in self.mode:
            for char in data:
                self._draw_slowly(char)
            return
        attrs = self.cursor.attrs
        chars = self._chars.get(attrs)
        if chars is None:
            if len(self._chars) > 256:
                self._chars.clear()
            chars = self._chars[attrs] = {chr(n): attrs._replace(data=chr(n)) for n in range(128)}
        cursor, start, length = self.cursor, 0, len(data)
        while start < length:
            if cursor.x >= self.columns:
                self._wrap()
            piece = data[start : start + self.columns - cursor.x]
            line, x = self.line(cursor.y), cursor.x
            for char in piece:
                line[x] = chars[char]
                x += 1
            cursor.x = x
            start += len(piece)

    def _draw_slowly(self, char: str) -> None:
        if self.cursor.x >= self.columns and modes.DECAWM in self.mode and char.isprintable():
            self._wrap()
        self.line(self.cursor.y)
        if unicodedata.combining(char) and len(self._before_cursor().data) > MOST_MARKS:
            return
        super().draw(char)

    def _before_cursor(self) -> Char:
        """Return the cell that a combining character goes to."""
        x, y = min(self.cursor.x, self.columns), self.cursor.y
        x, y = (x, y) if x else (self.columns, max(0, y - 1))
        row = self.buffer.get(y)
        return row[x - 1] if row is not None else DEFAULT

    def _wrap(self) -> None:
        line = self.line(self.cursor.y)
        line.wraps = True  # type: ignore[attr-defined]
        self.carriage_return()
        self.index()

    def index(self) -> None:
        """Move down a line; at the bottom the top line goes to the scrollback."""
        top, bottom = self.margins or Margins(0, self.lines - 1)
        cursor = self.cursor
        if cursor.y != bottom:
            if cursor.y < self.lines - 1:
                cursor.y += 1
            return
        buffer = self.buffer
        gone = buffer.pop(top, None)
        if top == 0 and not self.alternate:
            self.history.append(gone if gone is not None else WrapLine(DEFAULT))
        for y in range(top, bottom):
            moved = buffer.pop(y + 1, None)
            if moved is not None:
                buffer[y] = moved
        self.dirty.clear()

    def scroll(self, count: int) -> None:
        """Scroll the region up (or down, if negative) without moving the cursor (SU, SD)."""
        top, bottom = self.margins or Margins(0, self.lines - 1)
        height = bottom - top + 1
        count = max(-height, min(count, height))
        moving = {y: self.buffer.pop(y) for y in range(top, bottom + 1) if y in self.buffer}
        if top == 0 and not self.alternate:
            for y in range(count):
                self.history.append(moving.get(y) or WrapLine(DEFAULT))
        for y, line in moving.items():
            if top <= y - count <= bottom:
                self.buffer[y - count] = line
        self.dirty.clear()

    def alignment_display(self) -> None:
        """Fill the screen with E (DECALN)."""
        for y in range(self.lines):
            line = self.buffer[y] = WrapLine(self.default_char)
            line.update(dict.fromkeys(range(self.columns), self.default_char._replace(data="E")))
        self.dirty.clear()

    def delete_lines(self, count: int | None = None) -> None:
        """Delete lines at the cursor; an empty line moves up like any other."""
        top, bottom = self.margins or Margins(0, self.lines - 1)
        if not top <= self.cursor.y <= bottom:
            return
        count = min(count or 1, bottom - self.cursor.y + 1)
        for y in range(self.cursor.y, bottom + 1):
            self.buffer.pop(y, None)
            if y + count <= bottom and y + count in self.buffer:
                self.buffer[y] = self.buffer.pop(y + count)
        self.carriage_return()

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        """Erase; cells without a colour are dropped, not stored."""
        if self.cursor.attrs.bg != "default":
            super().erase_in_line(how, private)
            return
        x = min(self.cursor.x, self.columns - 1)
        first, last = {0: (x, self.columns), 1: (0, x + 1)}.get(how, (0, self.columns))
        line = self.line(self.cursor.y)
        if how != 1:
            line.wraps = False  # type: ignore[attr-defined]
        for cell in [cell for cell in line if first <= cell < last]:
            del line[cell]

    def erase_in_display(self, how: int = 0, *args: Any, **kwargs: Any) -> None:
        """Erase the screen or a part of it; 3 is the scrollback."""
        if how == 3:
            self.history.clear()
            return
        if how not in {0, 1, 2}:
            return
        y = self.cursor.y
        for gone in {0: range(y + 1, self.lines), 1: range(y)}.get(how, range(self.lines)):
            self.buffer.pop(gone, None)
            if self.cursor.attrs.bg != "default":
                line = self.line(gone)
                line.update(dict.fromkeys(range(self.columns), self._blank()))
        if how != 2:
            self.erase_in_line(how)
        self.dirty.clear()

    def _blank(self) -> Char:
        return DEFAULT._replace(bg=self.cursor.attrs.bg)

    # Modes, the two screens

    def switch(self, numbers: list[int], on: bool) -> None:
        """Set or reset private modes."""
        for number in numbers:
            if number in ALTERNATE:
                self._show(alternate=on, save=number == 1049)
            elif number == 1048:
                (self.save_cursor if on else self.restore_cursor)()
            elif number == 3:
                continue  # 132 columns: the size is the client's to choose
            elif number == REVERSED:
                pass  # of the whole screen: the client's terminal shows it, cells stay as they are
            else:
                (self.set_mode if on else self.reset_mode)(number, private=True)
            if number not in {1048, 2026} and (
                number in self.modes_seen or len(self.modes_seen) < 64
            ):
                self.modes_seen[number] = on

    def _show(self, *, alternate: bool, save: bool) -> None:
        if alternate == self.alternate:
            return
        if alternate and save:
            self.save_cursor()
        here = (dict(self.buffer), self.margins)
        self.buffer.clear()
        if alternate:
            self._other = here
            self.margins = None
        elif self._other is not None:
            rows, self.margins = self._other
            self.buffer.update((y, line) for y, line in rows.items() if y < self.lines)
            self._other = None
            if self.margins is not None and self.margins.bottom >= self.lines:
                self.margins = None
        self.alternate = alternate
        if not alternate and save:
            self.restore_cursor()

    def save_cursor(self) -> None:
        """Keep the cursor of this screen: one place, not a stack."""
        cursor = self.cursor
        kept = (cursor.x, cursor.y, cursor.attrs, self.g0_charset, self.g1_charset, self.charset)
        self._saved[self.alternate] = kept

    def restore_cursor(self) -> None:
        """Bring the kept cursor back, or go home."""
        kept = self._saved.get(self.alternate)
        if kept is None:
            self.cursor_position()
            return
        hidden = self.cursor.hidden
        self.cursor = Cursor(kept[0], kept[1], kept[2])
        self.cursor.hidden = hidden
        self.g0_charset, self.g1_charset, self.charset = kept[3:]
        self.ensure_hbounds()
        self.ensure_vbounds()

    def cursor_to_line(self, line: int | None = None) -> None:
        """Move to a line (pyte fails in origin mode without margins)."""
        offset = self.margins.top if self.margins and modes.DECOM in self.mode else 0
        self.cursor.y = (line or 1) - 1 + offset
        self.ensure_vbounds()

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Change the size as xterm does: lines go from the bottom while they are blank."""
        cols, rows = bounded(columns or self.columns, lines or self.lines)
        surplus = max(0, self.cursor.y - rows + 1)
        if surplus:
            for y in range(surplus):
                gone = self.buffer.pop(y, None)
                if not self.alternate and gone is not None:
                    self.history.append(gone)
            moving = {y: self.buffer.pop(y) for y in range(surplus, self.lines) if y in self.buffer}
            self.buffer.update((y - surplus, line) for y, line in moving.items())
        self.cursor.y -= surplus
        for y in [y for y in self.buffer if y >= rows]:
            del self.buffer[y]
        for line in self.buffer.values():
            for x in [x for x in line if x >= cols]:
                del line[x]
        self.lines, self.columns, self.margins = rows, cols, None
        self.cursor.x = min(self.cursor.x, cols - 1)
        self.dirty.clear()


LATIN = TrueScreen(2, 1).g0_charset
