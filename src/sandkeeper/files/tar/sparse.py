"""Members with holes, written as GNU tar's format 1.0 (tar(1), "Sparse Formats").

The readers of GNU tar, bsdtar, Go and Python know it. What is stored is the map, as decimal
numbers in whole blocks, and then the data without holes.
"""

import copy
import tarfile
from typing import Final

from sandkeeper.files.changing.holes import HOLE_BYTES, data_spans, has_holes
from sandkeeper.linux.paths import useros as os

__all__ = ["spans_of", "sparse_header"]

BLOCK = 512
SPANS = 8192
"""How many spans a map has at most: between more of them the smaller holes are packed as data."""

_FORMAT: Final = 2  # tarfile.PAX_FORMAT, as a literal for its type

Spans = list[tuple[int, int]]


def spans_of(fd: int, info: os.stat_result) -> Spans | None:
    """Return where an open file has data as (offset, length); None for one without holes.

    Raises OSError.
    """
    if not has_holes(info):
        return None
    spans: Spans = []
    least = HOLE_BYTES
    for offset, length in data_spans(fd, 0, info.st_size):
        if spans and offset - sum(spans[-1]) < least:
            offset, length = spans[-1][0], offset + length - spans.pop()[0]
        spans.append((offset, length))
        while len(spans) > SPANS:
            least *= 4
            spans = _joined(spans, least)
    return None if spans == [(0, info.st_size)] else spans


def _joined(spans: Spans, least: int) -> Spans:
    joined = spans[:1]
    for offset, length in spans[1:]:
        begin, size = joined[-1]
        if offset - begin - size < least:
            joined[-1] = (begin, offset + length - begin)
        else:
            joined.append((offset, length))
    return joined


def sparse_header(member: tarfile.TarInfo, spans: Spans) -> bytes:
    """Return all that comes before the data of a member with holes."""
    # An end that is a hole is a span of no bytes.
    entries = spans if spans and sum(spans[-1]) == member.size else [*spans, (member.size, 0)]
    numbers = [len(entries), *(number for entry in entries for number in entry)]
    table = b"".join(b"%d\n" % number for number in numbers)
    table += bytes(-len(table) % BLOCK)
    stored = copy.copy(member)
    folder, _, name = member.name.rpartition("/")
    stored.name = os.path.join(folder, "GNUSparseFile.0", name)
    stored.size = len(table) + sum(length for _, length in spans)
    stored.pax_headers = {
        **member.pax_headers,
        "path": stored.name,  # before the true name: Python's reader takes the last one
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": member.name,
        "GNU.sparse.realsize": str(member.size),
    }
    return stored.tobuf(_FORMAT, "utf-8", "surrogateescape") + table
