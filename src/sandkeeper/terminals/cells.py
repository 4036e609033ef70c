"""Lines of cells, and the scrollback of them."""

from collections import deque

from pyte.screens import Char, StaticDefaultDict

from sandkeeper.terminals.clusters import is_lead

__all__ = ["DEFAULT", "CellLine", "Scrollback"]

HISTORY_LINES = 2000
HISTORY_CELLS = 200_000
"""Lines may be long: with this many cells (60 bytes each) a scrollback takes 12 MiB."""

DEFAULT = Char(" ")


class CellLine(StaticDefaultDict[int, Char]):
    """A line of cells; `wraps` says that the next line continues it.

    The second cell of a wide cluster holds "": wherever one of the two goes, both do.
    """

    wraps = False

    def cut(self, x: int) -> None:
        """Make sure that no wide cluster lies over the left side of column `x`."""
        if x > 0 and x in self and self[x].data == "":
            self[x - 1] = self[x - 1]._replace(data=" ")
            self[x] = self[x]._replace(data=" ")

    def insert(self, x: int, count: int, columns: int) -> None:
        """Move the cells from `x` on to the right by `count`; at `columns` they are lost."""
        self.cut(x)
        self.cut(columns - count)
        moving = {at: self.pop(at) for at in [at for at in self if at >= x]}
        if 0 in moving and is_lead(moving[0].data):
            # A mark with nothing before it can stand at the edge only: elsewhere it would be drawn
            # onto what is before it.
            moving[0] = moving[0]._replace(data=" ")
        self.update((at + count, cell) for at, cell in moving.items() if at + count < columns)

    def delete(self, x: int, count: int) -> None:
        """Take `count` cells out; those behind them move up."""
        self.cut(x)
        self.cut(x + count)
        moving = {at: self.pop(at) for at in [at for at in self if at >= x]}
        self.update((at - count, cell) for at, cell in moving.items() if at >= x + count)


class Scrollback(deque[CellLine]):
    """What scrolled off; the oldest lines go when there are too many, or too many cells."""

    def __init__(self) -> None:
        super().__init__(maxlen=HISTORY_LINES)
        self._cells = 0

    @property
    def cells(self) -> int:
        """How many there are."""
        return self._cells

    def append(self, line: CellLine) -> None:
        """Add the newest line; nobody writes to it any more."""
        if len(self) == HISTORY_LINES:
            self._cells -= len(self[0])
        super().append(line)
        self._cells += len(line)
        while self._cells > HISTORY_CELLS:
            self._cells -= len(self.popleft())

    def pop(self) -> CellLine:  # type: ignore[override]
        """Take the newest line back."""
        line = super().pop()
        self._cells -= len(line)
        return line

    def clear(self) -> None:
        """Forget all of it."""
        super().clear()
        self._cells = 0
