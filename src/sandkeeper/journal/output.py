"""The output of a process as text: tails for records, whole logs for readers."""

import asyncio
import codecs
from collections.abc import Iterable, Iterator
from contextlib import suppress

import msgspec

from sandkeeper.blocks import gathered
from sandkeeper.journal.cursor import tails
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.lines import complete_end, strip_partial
from sandkeeper.journal.pump import Pump
from sandkeeper.journal.segment import NOTICE, STDERR, STDOUT
from sandkeeper.pieces import in_order

__all__ = [
    "MARKER",
    "PIECE_BYTES",
    "LongText",
    "LongTexts",
    "Texts",
    "long_texts_of",
    "pieces_of",
    "read_long_texts",
    "read_texts",
    "settled",
    "texts_of",
]

MARKER = "[... truncated, see the process log file for the full output ...]\n"
DISK_SECONDS = 1.0
PIECE_BYTES = 64 << 10
"""Text of this size is made in some tenths of a millisecond, in which nobody else runs."""


class Texts(msgspec.Struct, frozen=True):
    """Standard output, standard error, and both in order of arrival."""

    stdout: str = ""
    stderr: str = ""
    logs: str = ""


class LongText(msgspec.Struct, frozen=True):
    """A text that nobody need hold in one piece; `clipped` says that its beginning is missing."""

    parts: list[bytes]
    clipped: bool

    def pieces(self) -> Iterator[str]:
        """Yield the text in pieces of about `PIECE_BYTES`."""
        parts: Iterable[bytes] = self.parts
        if self.clipped:
            yield MARKER
            parts = _without_partial(gathered(parts, PIECE_BYTES))
        yield from pieces_of(parts)

    def whole(self) -> str:
        """Return the text."""
        return "".join(self.pieces())


def pieces_of(blocks: Iterable[bytes]) -> Iterator[str]:
    """Yield the text of `blocks` in pieces of about `PIECE_BYTES`."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for part in gathered(blocks, PIECE_BYTES):
        yield decoder.decode(part)
    yield decoder.decode(b"", True)


def _without_partial(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Leave out what a cut has left of a character at the beginning."""
    for first in parts:
        yield strip_partial(first)
        break
    yield from parts


class LongTexts(msgspec.Struct, frozen=True):
    """Standard output, standard error, and both in order; the same object where they are equal."""

    stdout: LongText
    stderr: LongText
    logs: LongText


def long_texts_of(journal: Journal, limit: int, *, nowait: bool = False) -> LongTexts:
    """Read the last `limit` bytes of each stream.

    What is clipped begins with `MARKER`. Raises BlockingIOError with `nowait` where the disk would
    have to be waited for.
    """
    found = tails(journal, (STDOUT, STDERR, NOTICE), limit, nowait=nowait)
    out, out_clipped = _tail(*found[STDOUT])
    err, err_clipped = _tail(*found[STDERR])
    notices, _ = found[NOTICE]
    if notices:
        out = in_order(out + notices)
    stdout = LongText([part for _, part in out], out_clipped)
    stderr = LongText([part for _, part in err], err_clipped)
    clipped = out_clipped or err_clipped
    if not err and clipped == out_clipped:
        return LongTexts(stdout, stderr, stdout)
    if not out and clipped == err_clipped:
        return LongTexts(stdout, stderr, stderr)
    both = LongText(list(_interleaved(out, err)), clipped)
    return LongTexts(stdout, stderr, both)


_Pieces = list[tuple[int, bytes]]


def _tail(pieces: _Pieces, clipped: bool) -> tuple[_Pieces, bool]:
    """Return a stream's last pieces without what a cut has left of a character."""
    if clipped:
        for number, (place, part) in enumerate(pieces[:3]):  # each has a byte of it, at least
            pieces[number] = (place, strip_partial(part))
            if pieces[number][1]:
                break
    return pieces, clipped


def _interleaved(out: _Pieces, err: _Pieces) -> Iterator[bytes]:
    """Yield the pieces of both streams in order; a character stands where its last byte came."""
    held = {STDOUT: b"", STDERR: b""}
    marked = [(*piece, stream) for stream, its in ((STDOUT, out), (STDERR, err)) for piece in its]
    for _, part, stream in in_order(marked):
        data = held[stream] + part
        end = complete_end(data)
        held[stream] = data[end:]
        yield data[:end]
    yield from held.values()


def texts_of(journal: Journal, limit: int, *, nowait: bool = False) -> Texts:
    """Return the last `limit` bytes of each stream as text (0: none), as `long_texts_of` does."""
    if limit <= 0 or journal.tail == 0:
        return Texts()
    texts = long_texts_of(journal, limit, nowait=nowait)
    out = texts.stdout.whole()
    err = texts.stderr.whole()
    return Texts(out, err, out if texts.logs is texts.stdout else texts.logs.whole())


async def settled(pump: Pump, journal: Journal, moment: int) -> int | None:
    """Have the journal record later bytes at `moment` (microseconds) or after it.

    Returns the tail below which all earlier ones stand; None when the pump is held up by a disk.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[int] = loop.create_future()

    def done(tail: int) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            loop.call_soon_threadsafe(_settle, answer, tail)

    pump.settle(journal, moment, done)
    with suppress(TimeoutError):
        async with asyncio.timeout(DISK_SECONDS):
            return await answer
    return None


def _settle(answer: asyncio.Future[int], tail: int) -> None:
    if not answer.done():
        answer.set_result(tail)


async def read_texts(journal: Journal, limit: int) -> Texts:
    """Return the tails; a disk that stalls costs a second at most, and then the text."""
    if min(limit, journal.kept) <= PIECE_BYTES:
        with suppress(BlockingIOError):
            return texts_of(journal, limit, nowait=True)
    try:
        async with asyncio.timeout(DISK_SECONDS):
            return await asyncio.to_thread(texts_of, journal, limit)
    except TimeoutError:
        return Texts(MARKER, "", MARKER)


async def read_long_texts(journal: Journal, limit: int) -> LongTexts:
    """Return what `long_texts_of` does; a disk that stalls costs a second at most, and the text."""
    try:
        async with asyncio.timeout(DISK_SECONDS):
            return await asyncio.to_thread(long_texts_of, journal, limit)
    except TimeoutError:
        unread = LongText([], clipped=True)
        return LongTexts(unread, LongText([], clipped=False), unread)
