"""What becomes of a screen in another size: as xterm.js does it, which shows it live.

Lines of text that wrapped are wrapped anew, all but the one that the cursor is in: its program (a
shell's line editor) draws that again itself. What scrolled off keeps its rows until somebody looks
at them, so a resize costs what is on the screen and no more.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sandkeeper.terminals.cells import DEFAULT, CellLine, Scrollback

__all__ = ["ScreenPage", "newest_first", "refit"]

CELLS_MOST = 32_768
"""A screen that holds more is only cut: nobody waits longer than 30 ms for another's resize."""
MOST_ROWS = 200
"""So many rows are taken for one line of text at most: it may have no end."""


@dataclass(frozen=True, slots=True)
class ScreenPage:
    """What a screen shows: rows in which anything is, the cursor's row, that of the saved one."""

    rows: dict[int, CellLine]
    columns: int
    lines: int
    y: int
    saved: int


def refit(page: ScreenPage, columns: int, lines: int, history: Scrollback | None) -> ScreenPage:
    """Return a page in another size; `history` takes and gives rows, the alternate one has none.

    Rows go from below the cursor first. Where the cursor was in the last row it stays there, and
    where nothing has scrolled off yet, the text stays at the top.
    """
    rows = [page.rows.get(y) or CellLine(DEFAULT) for y in range(page.lines)]
    at = [page.y, page.saved]
    few = sum(map(len, rows)) <= CELLS_MOST
    if history is not None and columns != page.columns and few:
        before = _pop(history) if history and history[-1].wraps else []
        rows, at = _wrapped_anew([*before, *rows], [len(before) + y for y in at], columns)
    y = min(page.y, lines - 1)
    if history is not None:
        if not history:
            y = min(at[0], lines - 1)
        elif page.y == page.lines - 1 < lines:
            y = lines - 1
        while at[0] < y and history:
            more = _wrap(_pop(history), columns)
            rows, at = more + rows, [place + len(more) for place in at]
        y = min(y, at[0])
    surplus = at[0] - y
    if history is not None:
        for row in rows[:surplus]:
            history.append(row)
    shown = rows[surplus : surplus + lines]
    for row in shown:
        _trim(row, columns)
    kept = {y: row for y, row in enumerate(shown) if row}
    return ScreenPage(kept, columns, lines, y, max(0, min(at[1] - surplus, lines - 1)))


def newest_first(history: Scrollback, columns: int) -> Iterator[CellLine]:
    """Yield what scrolled off as rows of a width, from the newest on."""
    for rows in _texts(reversed(history)):
        yield from reversed(_wrap(rows, columns))


def _texts(newest: Iterable[CellLine]) -> Iterator[list[CellLine]]:
    """Yield the rows of each line of text, the last line first."""
    rows: list[CellLine] = []
    for row in newest:
        if rows and (not row.wraps or len(rows) == MOST_ROWS):
            yield rows[::-1]
            rows = []
        rows.append(row)
    if rows:
        yield rows[::-1]


def _pop(history: Scrollback) -> list[CellLine]:
    """Take the last line of text out of what scrolled off."""
    rows = [history.pop()]
    while history and history[-1].wraps and len(rows) < MOST_ROWS:
        rows.append(history.pop())
    return rows[::-1]


def _wrapped_anew(
    rows: list[CellLine], at: list[int], columns: int
) -> tuple[list[CellLine], list[int]]:
    """Wrap all lines of text but the one that holds the row `at[0]`; follow the rows `at`."""
    made: list[CellLine] = []
    moved = list(at)
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and rows[end - 1].wraps:
            end += 1
        old = rows[start:end]
        new = old if start <= at[0] < end else _wrap(old, columns)
        for which, place in enumerate(at):
            if start <= place < end:
                moved[which] = len(made) + min(place - start, len(new) - 1)
        made += new
        start = end
    return made, moved


def _wrap(rows: Sequence[CellLine], columns: int) -> list[CellLine]:
    """Return the rows of one line of text in another width."""
    ends = [max(row, default=-1) + 1 for row in rows]
    ends[-1] = _end_of_text(rows[-1], ends[-1], columns)
    if ends[-1] <= columns and all(map(columns.__eq__, ends[:-1])):
        return list(rows)
    row, x = CellLine(DEFAULT), 0
    made = [row]
    for old, end in zip(rows, ends, strict=True):
        for place in range(end):
            cell = old[place]
            width = 2 if place + 1 < end and old[place + 1].data == "" else 1
            if cell.data and x + width > columns:
                row.wraps = True
                row, x = CellLine(DEFAULT), 0
                made.append(row)
            if place in old:
                row[x] = cell
            x += 1
    row.wraps = rows[-1].wraps
    return made


def _end_of_text(row: CellLine, end: int, columns: int) -> int:
    """Return where a row ends, of which blanks that are only coloured are no text."""
    while end > columns and row[end - 1].data == " " and row[end - 1] != DEFAULT:
        end -= 1
    return end


def _trim(row: CellLine, columns: int) -> None:
    row.cut(columns)
    for x in [x for x in row if x >= columns]:
        del row[x]
