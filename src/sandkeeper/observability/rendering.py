"""What telemetry makes of output: a line for each line that is not empty.

Needs the standard library, how lines are cut and how they are framed, nothing else: the server
renders a little output itself, and the renderer (`observability.renderer_main`), a process of its
own, a lot of it. So what is remembered from one block to the next is in one small value, `State`.
"""

from collections.abc import Iterable

from sandkeeper.journal.splitting import LineSplitter
from sandkeeper.log.framing import Frame, framed
from sandkeeper.patterns import pattern

__all__ = ["BEGINNING", "LINE_BYTES", "Piece", "State", "render", "rest"]

LINE_BYTES = 8 << 10
_EMPTY_LINES = pattern(rb"\n\n+")

State = tuple[bytes, int, bytes, int]
"""For standard output and standard error: the line that is open, and the offset where it begins."""
BEGINNING: State = (b"", 0, b"", 0)
Piece = tuple[int, int, Frame, bytes]
"""Stream (0, 1), offset, what stands around its lines, bytes."""


def render(state: State, pieces: Iterable[Piece]) -> tuple[bytes, State]:
    """Return the lines that are complete with these pieces, and the state behind them."""
    splitters = LineSplitter(LINE_BYTES), LineSplitter(LINE_BYTES)
    splitters[0].pending, first, splitters[1].pending, second = state
    starts = [first, second]
    told = []
    for stream, offset, frame, data in pieces:
        splitter = splitters[stream]
        if not splitter.pending:
            starts[stream] = offset
        text = _complete(splitter, data)
        if splitter.pending:
            begins = offset + len(data) - len(splitter.pending)
            starts[stream] = max(starts[stream], begins)
        if text:
            told.append(framed(frame, text))
    return b"".join(told), (splitters[0].pending, starts[0], splitters[1].pending, starts[1])


def rest(state: State, frames: tuple[Frame, Frame]) -> bytes:
    """Return the lines that never got their newline."""
    lines = zip(frames, (state[0], state[2]), strict=True)
    return b"".join(framed(frame, line) for frame, line in lines if line)


def _complete(splitter: LineSplitter, data: bytes) -> bytes:
    """Return the lines that are complete but for empty ones; too long ones in parts."""
    text, _, left = (splitter.pending + data).rpartition(b"\n")
    if len(left) <= LINE_BYTES and not _has_long_line(text):
        splitter.pending = left
    else:
        text = b"\n".join(line for line, _ in splitter.feed(data))
    return _EMPTY_LINES.sub(b"\n", text).strip(b"\n") if b"\n\n" in text else text.strip(b"\n")


def _has_long_line(text: bytes) -> bool:
    """Say whether a line has more than `LINE_BYTES`, looking at every so-manieth newline only."""
    start = 0
    while len(text) - start > LINE_BYTES:
        end = text.rfind(b"\n", start, start + LINE_BYTES + 1)
        if end < 0:
            return True
        start = end + 1
    return False
