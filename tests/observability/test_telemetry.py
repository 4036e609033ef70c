"""What telemetry makes of a block of output: a JSON line for each line that is not empty."""

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from tests.harness import Server, children_of, until, words_of

from sandkeeper.journal.splitting import part_end
from sandkeeper.jsonlines import json_line
from sandkeeper.log.formats import Json
from sandkeeper.log.framing import framed
from sandkeeper.observability.rendering import BEGINNING, LINE_BYTES, render

FRAME = Json().frame('a "name"', "7", "stdout", 0.0)
LINES = 60_000

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
    told, offset, state = b"", 0, BEGINNING
    for block in [*blocks, b"\n"]:
        lines, state = render(state, [(0, offset, FRAME, block)])
        told += lines
        offset += len(block)
    records = [json.loads(line) for line in told.splitlines()]
    written = re.split(rb"\n", b"".join(blocks))
    parts = [part for line in written for part in _parts(line)]

    assert told.endswith(b"\n") or not told
    assert [record["msg"] for record in records] == [p.decode("utf-8", "replace") for p in parts]
    assert all(record["process-name"] == 'a "name"' for record in records)


@given(st.text())
def test_a_text_is_written_as_json_has_it(text: str) -> None:
    line = text.replace("\n", "").encode("utf-8", "replace")

    assert framed((True, b'"', b'"'), line) == json_line(line.decode()).removesuffix(b"\n")


def _renderers(server: Server) -> list[int]:
    """Return the pids of what makes lines for a server."""
    return [pid for pid in children_of(server.pid) if b"renderer_main" in b" ".join(words_of(pid))]


def test_a_backlog_is_rendered_outside_of_the_server_and_no_line_hangs_on_who_does(
    tmp_path: Path,
) -> None:
    read, write = os.pipe()
    server = Server(tmp_path, env={"SANDKEEPER_LOG": "stdout"})
    server.stdout = write
    told = bytearray()
    try:
        with server:
            os.close(write)
            server.run(f"seq -f '%099.0f' 1 {LINES}")  # the log is not read meanwhile

            def renderer() -> list[int]:
                told.extend(os.read(read, 1 << 16))
                return _renderers(server)

            (pid,) = until(renderer)
            while len(told) < 2 << 20:
                told.extend(os.read(read, 1 << 16))
            with contextlib.suppress(ProcessLookupError):  # one without work goes by itself
                os.kill(pid, signal.SIGKILL)
            while b"\n" not in told[-(1 << 18) :].partition(b"%099d" % LINES)[2]:
                told.extend(os.read(read, 1 << 16))
    finally:
        os.close(read)
    lines = [json.loads(line) for line in told.splitlines() if b'"process-name"' in line]

    assert [int(line["msg"]) for line in lines] == list(range(1, LINES + 1))
