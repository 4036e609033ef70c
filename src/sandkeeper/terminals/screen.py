"""The screen of a terminal: pyte's, with what it leaves out.

pyte keeps cells, cursor, margins, tab stops and character sets. Added here: the alternate screen,
a scrollback, lines that know that they wrap, a saved cursor instead of an unbounded stack of them,
modes that only the client's terminal acts upon (mouse, bracketed paste …), and drawing of plain
text without a look at every character's width.
"""

from collections import defaultdict
from typing import Any

from pyte import modes
from pyte.charsets import LAT1_MAP as LATIN
from pyte.screens import Char, Cursor, Margins

from sandkeeper.terminals.cells import DEFAULT, CellLine, Scrollback
from sandkeeper.terminals.clusters import MOST_CHARACTERS, columns_of, joins
from sandkeeper.terminals.moves import MovingScreen
from sandkeeper.terminals.reflow import ScreenPage, refit

__all__ = ["TrueScreen"]

MOST_CELLS = 131_072

REVERSED = 5
PRIVATE = 5
"""pyte shifts the numbers of private modes by so many bits."""

ALTERNATE = {47, 1047, 1049}


def bounded(cols: int, rows: int) -> tuple[int, int]:
    """Return the size that is kept of a terminal: hostile sizes must not cost memory."""
    cols = max(2, min(cols, 10_000))
    return cols, max(1, min(rows, 1000, MOST_CELLS // cols))


class TrueScreen(MovingScreen):
    """A screen; `alternate` says which of the two is shown, `history` holds what scrolled off.

    `modes_seen` are private modes the program switched, to be told to a client that attaches.
    `cluster` is what was drawn last, while nothing but text came since.
    """

    buffer: defaultdict[int, CellLine]  # type: ignore[assignment]

    def __init__(self, cols: int, rows: int) -> None:
        self.history = Scrollback()
        self.alternate = False
        self.modes_seen: dict[int, bool] = {}
        self.keypad = False
        self.cursor_style = 0
        self._saved: dict[bool, tuple[Any, ...]] = {}
        self._other: tuple[Any, ...] | None = None
        self._chars: dict[Char, dict[str, Char]] = {}
        self.cluster = ""
        self._taken = 0
        super().__init__(*bounded(cols, rows))
        self.buffer.default_factory = lambda: CellLine(
            DEFAULT
        )  # pyte's own methods make lines as well

    def line(self, y: int) -> CellLine:
        """Return a line to write to."""
        return self.buffer[y]

    def reset(self) -> None:
        """Start anew, with an empty primary screen."""
        super().reset()
        self.g1_charset = LATIN  # as in xterm; the Linux console draws lines with G1
        self.alternate = False
        self.modes_seen.clear()
        self.keypad = False
        self.cursor_style = 0
        self._saved.clear()
        self._other = None

    def primary(self) -> dict[int, CellLine]:
        """Return the lines of the screen that is hidden now."""
        return self._other[0] if self._other is not None else {}

    @property
    def cells(self) -> int:
        """How many cells both screens and the scrollback have: 60 bytes each."""
        lines = (*self.buffer.values(), *self.primary().values())
        return self.history.cells + sum(map(len, lines))

    def saved(self, alternate: bool) -> tuple[Any, ...] | None:
        """Return what `save_cursor` kept: x, y, attributes, G0, G1, which of them is in use."""
        kept = self._saved.get(alternate)
        if kept is None:
            return None
        x, y = min(kept[0], self.columns - 1), min(kept[1], self.lines - 1)
        return (x, y, *kept[2:])

    # Drawing

    def draw(self, data: str) -> None:
        """Draw text at the cursor; what it begins with may go on with the cluster before it."""
        plain = data.isascii() and not self.charset and self.g0_charset is LATIN
        plain = plain and self.cluster.isascii()
        if not plain or modes.IRM in self.mode or modes.DECAWM not in self.mode:
            for char in data.translate(self.g1_charset if self.charset else self.g0_charset):
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
            line.cut(x)
            line.cut(x + len(piece))
            for char in piece:
                line[x] = chars[char]
                x += 1
            cursor.x = x
            start += len(piece)
        self.cluster, self._taken = data[-1:], 1

    def part(self) -> None:
        """Let nothing join what was drawn last: a control character or a sequence came."""
        self.cluster, self._taken = "", 0

    def _draw_slowly(self, char: str) -> None:
        width = columns_of(char)
        if width < 0:
            return
        if not self.cluster and width == 0:
            self._take_up()
        cluster = self.cluster + char
        apart = self._taken and not (width == 0 or joins(self.cluster, char))
        if width and (not self.cluster or apart or len(cluster) > MOST_CHARACTERS):
            self._put(char, width, 0)
        elif len(cluster) <= MOST_CHARACTERS:
            self._put(cluster, max(self._taken, columns_of(cluster)), self._taken)

    def _take_up(self) -> None:
        """Have what takes no column go on with the cell before the cursor, if there is one."""
        x = min(self.cursor.x, self.columns)
        if x:
            line = self.line(self.cursor.y)
            self._taken = 2 if line[x - 1].data == "" else 1
            self.cluster = line[x - self._taken].data

    def _put(self, text: str, width: int, taken: int) -> None:
        """Show a cluster that takes `width` columns, of which `taken` are behind the cursor."""
        cursor, columns = self.cursor, self.columns
        line, x = self.line(cursor.y), min(cursor.x, columns) - taken
        cell = (line[x] if taken else cursor.attrs)._replace(data=text)
        inserts = modes.IRM in self.mode and not taken
        if x + width > columns:
            if modes.DECAWM in self.mode:
                line.cut(x)
                for gone in range(x, columns):
                    line.pop(gone, None)
                self._wrap()
                line, x, taken = self.line(cursor.y), 0, 0
            elif width == 2:
                return  # there is no room, as in xterm.js
            else:
                x = columns - 1
        if inserts:
            line.insert(x, width, columns)
        line.cut(x + taken)
        line.cut(x + max(width, 1))
        line[x] = cell
        if width == 2:
            line[x + 1] = cell._replace(data="")
        cursor.x = x + width
        self.cluster, self._taken = text, width

    def _wrap(self) -> None:
        line = self.line(self.cursor.y)
        line.wraps = True
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
            self.history.append(gone if gone is not None else CellLine(DEFAULT))
        for y in range(top, bottom):
            moved = buffer.pop(y + 1, None)
            if moved is not None:
                buffer[y] = moved
        self.dirty.clear()

    def reverse_index(self) -> None:
        """Move up a line; at the top margin the region scrolls down, above it nothing does."""
        self.column()
        top, _ = self.margins or Margins(0, self.lines - 1)
        if self.cursor.y == top:
            self.scroll(-1)
        elif self.cursor.y:
            self.cursor.y -= 1

    def scroll(self, count: int) -> None:
        """Scroll the region up (or down, if negative) without moving the cursor (SU, SD)."""
        top, bottom = self.margins or Margins(0, self.lines - 1)
        height = bottom - top + 1
        count = max(-height, min(count, height))
        moving = {y: self.buffer.pop(y) for y in range(top, bottom + 1) if y in self.buffer}
        if top == 0 and not self.alternate:
            for y in range(count):
                self.history.append(moving.get(y) or CellLine(DEFAULT))
        for y, line in moving.items():
            if top <= y - count <= bottom:
                self.buffer[y - count] = line
        self.dirty.clear()

    def alignment_display(self) -> None:
        """Fill the screen with E (DECALN)."""
        for y in range(self.lines):
            line = self.buffer[y] = CellLine(DEFAULT)
            line.update(dict.fromkeys(range(self.columns), self.default_char._replace(data="E")))
        self.dirty.clear()

    def delete_lines(self, count: int | None = None) -> None:
        """Delete lines at the cursor; an empty line moves up like any other."""
        self.column()
        top, bottom = self.margins or Margins(0, self.lines - 1)
        if not top <= self.cursor.y <= bottom:
            return
        count = min(count or 1, bottom - self.cursor.y + 1)
        for y in range(self.cursor.y, bottom + 1):
            self.buffer.pop(y, None)
            if y + count <= bottom and y + count in self.buffer:
                self.buffer[y] = self.buffer.pop(y + count)
        self.carriage_return()

    def insert_characters(self, count: int | None = None) -> None:
        """Insert blanks at the cursor; cells that leave the line are lost."""
        x = self.column()
        self.line(self.cursor.y).insert(x, min(count or 1, self.columns - x), self.columns)

    def delete_characters(self, count: int | None = None) -> None:
        """Delete cells at the cursor; those behind them move up."""
        x = self.column()
        self.line(self.cursor.y).delete(x, min(count or 1, self.columns - x))

    def erase_characters(self, count: int | None = None) -> None:
        """Erase cells from the cursor on."""
        x = self.column()
        self._erase(x, min(x + (count or 1), self.columns))

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        """Erase the line or a part of it: behind a full line that is about to wrap is nothing."""
        x, end = self.cursor.x, self.columns
        first, last = {0: (x, end), 1: (0, min(x + 1, end))}.get(how, (0, end))
        if how != 1:
            self.line(self.cursor.y).wraps = False
        self._erase(first, last)

    def _erase(self, first: int, last: int) -> None:
        """Erase cells; those without a colour are dropped, not stored."""
        line = self.line(self.cursor.y)
        line.cut(first)
        line.cut(last)
        if self.cursor.attrs.bg != "default":
            line.update(dict.fromkeys(range(first, last), self._blank()))
            return
        for x in [x for x in line if first <= x < last]:
            del line[x]

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
        if alternate and save:
            self.save_cursor()
        if alternate != self.alternate:
            self._change_over(alternate)
        if not alternate and save:
            self.restore_cursor()

    def _change_over(self, alternate: bool) -> None:
        here = (dict(self.buffer), self.margins, self.cursor.y)
        self.buffer.clear()
        if alternate:
            self._other = here
            self.margins = None
        elif self._other is not None:
            rows, self.margins, _ = self._other
            self.buffer.update((y, line) for y, line in rows.items() if y < self.lines)
            self._other = None
            if self.margins is not None and self.margins.bottom >= self.lines:
                self.margins = None
        self.alternate = alternate

    def save_cursor(self) -> None:
        """Keep the cursor of this screen: one place, not a stack."""
        cursor = self.cursor
        x = min(cursor.x, self.columns - 1)
        kept = (x, cursor.y, cursor.attrs, self.g0_charset, self.g1_charset, self.charset)
        self._saved[self.alternate] = kept

    def restore_cursor(self) -> None:
        """Bring the kept cursor back, or go home."""
        kept = self._saved.get(self.alternate, (0, 0, DEFAULT, LATIN, LATIN, 0))
        hidden = self.cursor.hidden
        self.cursor = Cursor(kept[0], kept[1], kept[2])
        self.cursor.hidden = hidden
        self.g0_charset, self.g1_charset, self.charset = kept[3:]
        self.ensure_hbounds()
        self.ensure_vbounds()

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Change the size of both screens (`.reflow`: how)."""
        cols, rows = bounded(columns or self.columns, lines or self.lines)
        if self._other is not None:
            hidden, margins, y = self._other
            hidden, y = self._refit(hidden, y, cols, rows, alternate=False)
            self._other = hidden, margins, y
        shown, y = self._refit(self.buffer, self.cursor.y, cols, rows, alternate=self.alternate)
        self.buffer.clear()
        self.buffer.update(shown)
        self.cursor.y = y
        kept = {x for x in self.tabstops if x < cols}
        self.tabstops = kept.union(x for x in range(8, cols, 8) if x >= self.columns)
        self.part()
        self.lines, self.columns, self.margins = rows, cols, None
        self.cursor.x = min(self.cursor.x, cols - 1)
        self.dirty.clear()

    def _refit(
        self, rows: dict[int, CellLine], y: int, cols: int, lines: int, *, alternate: bool
    ) -> tuple[dict[int, CellLine], int]:
        """Return rows and the cursor's row in another size; the saved cursor follows its own."""
        kept = self._saved.get(alternate)
        page = ScreenPage(rows, self.columns, self.lines, y, kept[1] if kept is not None else 0)
        page = refit(page, cols, lines, None if alternate else self.history)
        if kept is not None:
            self._saved[alternate] = (kept[0], page.saved, *kept[2:])
        return page.rows, page.y
