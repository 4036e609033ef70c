"""Where lines stand in a journal, found without looking at what is in them.

A line belongs to a kind: standard error, or standard output with our notices. Offsets are those
of the journal, where the lines of both kinds stand between one another. Everything here blocks.
"""

from collections.abc import Iterator

from sandkeeper.journal.cursor import Gap, Reader
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import NOTICE, STDERR, STDOUT, STREAMS, Segment, Stream

__all__ = ["KIND", "clean_place", "gaps_before", "newlines_before", "place_of_last"]

KIND = {STDOUT: STDOUT, NOTICE: STDOUT, STDERR: STDERR}
"""The kind of each stream whose bytes make lines."""

BLOCK_LEAST, BLOCK_MOST = 4 << 10, 64 << 10
"""Bytes of one read. Larger ones would come out of fresh pages each time (mallopt(3))."""
STEPS_BACK = 16
"""So often a place is moved back behind lines that overlap before all is read from the front."""


def newlines_before(journal: Journal, reader: Reader, streams: tuple[Stream, ...], end: int) -> int:
    """Count the newlines of some streams in what is kept before an offset.

    What was counted of a closed segment is remembered.
    """
    total = 0
    for segment in journal.segments:
        if segment.base >= end:
            break
        counts = journal.newlines.get(segment.base)
        if counts is None or journal.end_of(segment) > end:
            counts = _newlines(journal, reader, segment, end)
        total += sum(counts[stream] for stream in streams)
    return total


def _newlines(journal: Journal, reader: Reader, segment: Segment, end: int) -> tuple[int, ...]:
    counts = [0] * STREAMS
    stop = min(end, journal.end_of(segment))
    for _, stream, data, first, last in _pieces(reader, segment, stop, tuple(KIND), BLOCK_MOST):
        counts[stream] += data.count(b"\n", first, last)
    if segment.end is not None and stop == segment.end:
        journal.newlines[segment.base] = tuple(counts)
    return tuple(counts)


def place_of_last(
    journal: Journal, reader: Reader, streams: tuple[Stream, ...], lines: int, size: int, end: int
) -> int:
    """Return an offset with at least so many lines' ends, or bytes, of the streams behind it."""
    for segment in reversed(journal.segments):
        stop = min(end, journal.end_of(segment))
        for place, _, data, first, last in _pieces(reader, segment, stop, streams):
            lines -= data.count(b"\n", first, last)
            size -= last - first
            if lines < 0 or size < 0:
                return place
    return journal.first


def clean_place(journal: Journal, reader: Reader, streams: tuple[Stream, ...], offset: int) -> int:
    """Return the last place at or before an offset at which no line of the streams is open."""
    kinds = {KIND[stream] for stream in streams}
    for _ in range(STEPS_BACK):
        starts = [_line_start(journal, reader, kind, offset) for kind in kinds]
        if (place := min(starts)) >= offset:
            return offset
        offset = place
    return journal.first


def _line_start(journal: Journal, reader: Reader, kind: Stream, offset: int) -> int:
    """Return where the line of a kind begins that is open at an offset; the offset if none is."""
    streams = tuple(stream for stream, its in KIND.items() if its == kind)
    start = offset
    for segment in reversed(journal.segments):
        if segment.base >= offset:
            continue
        stop = min(offset, journal.end_of(segment))
        for place, _, data, first, last in _pieces(reader, segment, stop, streams):
            found = data.rfind(b"\n", first, last)
            if found == last - 1:
                return start
            if found >= 0:
                return place + found + 1 - first
            start = place
    return start


def gaps_before(journal: Journal, offset: int) -> Iterator[Gap]:
    """Yield the gaps that a reader from the front would meet before an offset."""
    behind = 0
    for segment in journal.segments:
        base = min(segment.base, offset)
        if behind < base:
            reason = "retention" if behind < journal.first else "storage"
            yield Gap(behind, base, reason)
        behind = journal.end_of(segment)
        if behind >= offset:
            return


def _pieces(
    reader: Reader,
    segment: Segment,
    stop: int,
    streams: tuple[Stream, ...],
    least: int = BLOCK_LEAST,
) -> Iterator[tuple[int, int, bytes, int, int]]:
    """Yield (offset, stream, block, first, last) of the streams' bytes, the last ones first."""
    place, block, size = stop, b"", least
    for stream, start, end in reversed(_runs(reader, segment, stop, streams)):
        while start < end:
            if not place < end <= place + len(block):
                place = max(segment.base, end - size)
                block = reader.plain(segment, place, end)
                size = min(size * 2, BLOCK_MOST)
                if not block:
                    return
            first = max(start, place)
            yield first, stream, block, first - place, end - place
            end = first


def _runs(
    reader: Reader, segment: Segment, stop: int, streams: tuple[Stream, ...]
) -> list[tuple[int, int, int]]:
    """Return (stream, start, end) of what stands together, in order."""
    runs: list[tuple[int, int, int]] = []
    for stream, start, end in reader.extents(segment, nowait=False):
        if start >= stop:
            break
        if stream in streams:
            if runs and runs[-1][0] == stream and runs[-1][2] == start:
                start = runs.pop()[1]
            runs.append((stream, start, min(end, stop)))
    return runs
