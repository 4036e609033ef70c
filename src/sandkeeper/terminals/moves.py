"""Where a screen's cursor goes, where an xterm differs from pyte: margins, tabs, the edge."""

from pyte import modes
from pyte.screens import Margins, Screen

__all__ = ["MovingScreen"]


class MovingScreen(Screen):
    """pyte's screen with an xterm's moves."""

    def column(self) -> int:
        """Return the cursor's column; a line that was about to wrap no longer is."""
        self.cursor.x = min(self.cursor.x, self.columns - 1)
        return self.cursor.x

    def cursor_up(self, count: int | None = None) -> None:
        """Move up, to the top margin at most if the cursor is below it."""
        top = self.margins.top if self.margins and self.cursor.y >= self.margins.top else 0
        self.cursor.y = max(top, self.cursor.y - (count or 1))

    def cursor_down(self, count: int | None = None) -> None:
        """Move down, to the bottom margin at most if the cursor is above it."""
        last = self.lines - 1
        bottom = self.margins.bottom if self.margins else last
        self.cursor.y = min(
            bottom if self.cursor.y <= bottom else last, self.cursor.y + (count or 1)
        )

    def cursor_to_line(self, line: int | None = None) -> None:
        """Move to a line (pyte fails in origin mode without margins)."""
        offset = self.margins.top if self.margins and modes.DECOM in self.mode else 0
        self.cursor.y = (line or 1) - 1 + offset
        self.ensure_vbounds()

    def set_margins(self, top: int | None = None, bottom: int | None = None) -> None:
        """Set the region that scrolls, and go home; one of less than two lines is ignored."""
        first = (top or 1) - 1
        last = min(bottom or self.lines, self.lines) - 1
        if last > first:
            whole = first == 0 and last == self.lines - 1
            self.margins = None if whole else Margins(first, last)
            self.cursor_position()

    def set_tab_stop(self) -> None:
        """Set a tab stop at the cursor."""
        self.tabstops.add(min(self.cursor.x, self.columns - 1))

    def tab(self) -> None:
        """Move to the next tab stop; a line that is about to wrap stays so."""
        if self.cursor.x < self.columns:
            super().tab()

    def linefeed(self) -> None:
        """Move down a line, and to its first column if that is asked for (LNM)."""
        self.column()
        super().linefeed()

    def insert_lines(self, count: int | None = None) -> None:
        """Insert empty lines at the cursor."""
        self.column()
        super().insert_lines(count)
