"""What telemetry makes of a block of output: a JSON line for each line that is not empty."""

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from sandkeeper.journal.cursor import Chunk
from sandkeeper.journal.lines import LineSplitter, part_end
from sandkeeper.journal.segment import STDERR, STDOUT
from sandkeeper.observability.telemetry import LINE_BYTES, Follower

awkward = st.sampled_from(
    [
        *(
            b"\n",
            b"\\",
            b"n",
            b"\\n",
            b"\x7f",
            b"\x7f\\n",
            b'"',
            b"\r",
            b"\x00",
            b"\x1b[1m",
            b"\xc3",
        ),
        *("ü".encode(), b"x" * LINE_BYTES, b"\n\n\n"),
    ]
)
outputs = st.lists(st.lists(awkward | st.binary(max_size=5), max_size=12).map(b"".join), max_size=4)


def _follower() -> Any:
    """Return a follower that renders, without a process to follow."""
    made: Any = Follower.__new__(Follower)
    made._process = SimpleNamespace(meta=SimpleNamespace(name='a "name"', pid="7"))
    made._lines = {STDOUT: LineSplitter(LINE_BYTES), STDERR: LineSplitter(LINE_BYTES)}
    made._starts = {STDOUT: 0, STDERR: 0}
    return made


def _parts(line: bytes) -> Iterator[bytes]:
    while len(line) > LINE_BYTES:
        end = part_end(line, LINE_BYTES)
        yield line[:end]
        line = line[end:]
    if line:
        yield line


@example([b"x" * LINE_BYTES, b"\x80"])
@given(outputs)
def test_every_line_comes_once_in_order_and_is_json_of_its_own(blocks: list[bytes]) -> None:
    follower, told, offset = _follower(), b"", 0
    for block in [*blocks, b"\n"]:
        told += follower._render(Chunk(STDOUT, offset, 0, block))
        offset += len(block)
    records = [json.loads(line) for line in told.splitlines()]
    written = re.split(rb"\n", b"".join(blocks))
    parts = [part for line in written for part in _parts(line)]

    assert told.endswith(b"\n") or not told
    assert [record["msg"] for record in records] == [p.decode("utf-8", "replace") for p in parts]
    assert all(record["process-name"] == 'a "name"' for record in records)
