"""The output of a process as text: tails for records, whole logs for readers."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from sandkeeper.core.cursor import tails
from sandkeeper.core.journal import Journal
from sandkeeper.core.lines import strip_partial
from sandkeeper.core.pump import Pump
from sandkeeper.core.segment import NOTICE, STDERR, STDOUT

__all__ = ["MARKER", "Texts", "read_texts", "settled", "texts_of"]

MARKER = "[... truncated, see the process log file for the full output ...]\n"
DISK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Texts:
    """Standard output, standard error, and both in order of arrival."""

    stdout: str = ""
    stderr: str = ""
    logs: str = ""


def texts_of(journal: Journal, limit: int, *, nowait: bool = False) -> Texts:
    """Return the last `limit` bytes of each stream as text (0: none).

    What is clipped begins with `MARKER`. Raises BlockingIOError with `nowait` where the disk would
    have to be waited for.
    """
    if limit <= 0 or journal.tail == 0:
        return Texts()
    found = tails(journal, (STDOUT, STDERR, NOTICE), limit, nowait=nowait)
    out, out_clipped = found[STDOUT]
    err, err_clipped = found[STDERR]
    notices, _ = found[NOTICE]
    if notices:
        out = sorted(out + notices)
    both = out if not err else (err if not out else sorted(out + err))
    return Texts(
        _text(out, out_clipped), _text(err, err_clipped), _text(both, out_clipped or err_clipped)
    )


def _text(pieces: list[tuple[int, bytes]], clipped: bool) -> str:
    data = b"".join(piece for _, piece in pieces)
    if not clipped:
        return data.decode("utf-8", "replace")
    return MARKER + strip_partial(data).decode("utf-8", "replace")


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
    try:
        return texts_of(journal, limit, nowait=True)
    except BlockingIOError:
        pass
    try:
        async with asyncio.timeout(DISK_SECONDS):
            return await asyncio.to_thread(texts_of, journal, limit)
    except TimeoutError:
        return Texts(MARKER, "", MARKER)
