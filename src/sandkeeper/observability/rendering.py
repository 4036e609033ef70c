"""What telemetry makes of output: a JSON line for each line that is not empty.

Needs the standard library and how lines are cut, nothing else: the server renders a little output
itself, and the renderer (`observability.renderer_main`), a process of its own, a lot of it. So what
has to be remembered from one block to the next is in one small value, `State`.
"""

import re
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring

from sandkeeper.journal.splitting import LineSplitter

__all__ = ["BEGINNING", "LINE_BYTES", "Piece", "State", "encode", "lines_of", "render", "rest"]

LINE_BYTES = 8 << 10
STREAMS = (("stdout", b"info"), ("stderr", b"error"))
"""Name and level of each stream, by its number."""
ESCAPES = (
    *((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\t", b"\\t"), (b"\r", b"\\r")),
    (b"\x1b", b"\\u001b"),
)
"""What logs have of what JSON escapes; the backslash first."""
UNUSUAL = bytes(set(range(32)) - set(b"\n\t\r\x1b"))
_EMPTY_LINES = re.compile(rb"\n\n+")

State = tuple[bytes, int, bytes, int]
"""For standard output and standard error: the line that is open, and the offset where it begins."""
BEGINNING: State = (b"", 0, b"", 0)
Piece = tuple[int, int, bytes, bytes]
"""Stream, offset, time as JSON, bytes."""


def encode(text: str) -> bytes:
    """Write a text as JSON, which leaves all but quotes, backslashes and control characters."""
    return encode_basestring(text).encode()


def render(
    labels: bytes, state: State, pieces: Iterable[Piece], to_json: Callable[[str], bytes] = encode
) -> tuple[bytes, State]:
    """Return the lines that are complete with these pieces, and the state behind them.

    `labels` stands in every line: members of a JSON object, each behind a comma.
    """
    splitters = LineSplitter(LINE_BYTES), LineSplitter(LINE_BYTES)
    splitters[0].pending, first, splitters[1].pending, second = state
    starts = [first, second]
    told = []
    for stream, offset, moment, data in pieces:
        splitter = splitters[stream]
        if not splitter.pending:
            starts[stream] = offset
        text = _complete(splitter, data)
        if splitter.pending:
            begins = offset + len(data) - len(splitter.pending)
            starts[stream] = max(starts[stream], begins)
        if text:
            told.append(lines_of(labels, stream, text, moment, to_json))
    return b"".join(told), (splitters[0].pending, starts[0], splitters[1].pending, starts[1])


def rest(
    labels: bytes, state: State, moment: bytes, to_json: Callable[[str], bytes] = encode
) -> bytes:
    """Return the lines that never got their newline."""
    open_lines = enumerate((state[0], state[2]))
    return b"".join(lines_of(labels, n, line, moment, to_json) for n, line in open_lines if line)


def lines_of(
    labels: bytes, stream: int, lines: bytes, moment: bytes, to_json: Callable[[str], bytes]
) -> bytes:
    """Encode many lines at once: all but the text is the same for each."""
    name, level = STREAMS[stream]
    head = b'{"level":"%b","msg":"' % level
    tail = b'"%b,"stream":"%b","time":%b}\n' % (labels, name.encode(), moment)
    if len(lines.translate(None, UNUSUAL)) == len(lines):
        text = _escaped(lines)
    else:
        text = _encoded(lines, to_json)
    # Joined once: that is twice as fast as to replace, and nothing so long is copied again.
    every = text.split(b"\n")
    every[0] = head + every[0]
    every[-1] += tail
    return (tail + head).join(every)


def _escaped(lines: bytes) -> bytes:
    """Write text as in JSON, but for its newlines; it has none of `UNUSUAL`."""
    if not lines.isascii():
        lines = lines.decode("utf-8", "replace").encode()
    for byte, escape in ESCAPES:
        if byte in lines:
            lines = lines.replace(byte, escape)
    return lines


def _encoded(lines: bytes, to_json: Callable[[str], bytes]) -> bytes:
    """Write any text as in JSON, but for its newlines.

    In JSON a newline is a backslash and an `n`, which a backslash of the text followed by an `n`
    looks like; behind a DEL, which is not escaped, a backslash begins an escape and cannot be one.
    """
    border = b"\\n"
    if b"\\" in lines:
        lines = lines.replace(b"\n", b"\x7f\n")
        border = b"\x7f\\n"
    return to_json(lines.decode("utf-8", "replace"))[1:-1].replace(border, b"\n")


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
