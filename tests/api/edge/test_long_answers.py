"""Long answers: the same JSON as in one piece, and nobody else waits for it."""

import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness import Server

from sandkeeper.api.edge.long_answers import Frame
from sandkeeper.journal import output
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.lines import strip_partial
from sandkeeper.journal.output import MARKER, LongText
from sandkeeper.journal.segment import STDERR, STDOUT

# Whole characters of each length, what JSON escapes, ends of lines; bytes cut characters in two.
# Hypothesis's own texts cost a table of all characters first: seconds on a busy machine.
CHARACTERS = 'aé€\U0001f600\u2028"\\<\0\x1b\n\r'
parts = st.lists(st.sampled_from(CHARACTERS).map(str.encode) | st.binary(max_size=4), max_size=10)
LINE = 'grüße <a href="x">&amp;</a> \\n \x1b[1m\t%d\n'


@given(parts, st.booleans())
def test_a_text_in_pieces_is_the_text_in_one(parts: list[bytes], clipped: bool) -> None:
    data = b"".join(parts)
    expected = MARKER + strip_partial(data).decode("utf-8", "replace") if clipped else None
    before, output.PIECE_BYTES = output.PIECE_BYTES, 4
    try:
        whole = LongText(parts, clipped).whole()
    finally:
        output.PIECE_BYTES = before

    assert whole == (data.decode("utf-8", "replace") if expected is None else expected)


@given(st.lists(parts, min_size=3, max_size=3), st.booleans())
def test_a_filled_frame_is_what_one_encoding_would_be(
    given: list[list[bytes]], shared: bool
) -> None:
    texts = [LongText(one, clipped=False) for one in given]
    if shared:
        texts[2] = texts[0]
    frame = Frame(lambda marks: {"b": marks[1], "c": [marks[2], 1], "a": marks[0]}, 3)

    assert json.loads(b"".join(frame.fill(texts))) == {
        "a": texts[0].whole(),
        "b": texts[1].whole(),
        "c": [texts[2].whole(), 1],
    }


@pytest.mark.parametrize(("early", "late"), [(STDERR, STDOUT), (STDOUT, STDERR)])
def test_both_streams_say_that_one_of_them_is_gone(tmp_path: Path, early: int, late: int) -> None:
    journal = Journal(tmp_path, segment_bytes=4096)
    journal.append(early, b"e" * 4096)
    journal.append(late, b"kept\n")
    journal.drop_oldest()

    texts = output.texts_of(journal, 1 << 20)
    assert texts.logs == MARKER + "kept\n"
    assert {texts.stdout, texts.stderr} == {MARKER, "kept\n"}


def test_megabytes_of_output_come_whole_in_a_record_in_the_logs_and_from_a_file(
    server: Server,
) -> None:
    text = "".join(LINE % number for number in range(30_000))
    source = Path(server.workdir) / "source"
    source.write_text(text)
    body = {"command": f"cat {source}; cat {source} >&2", "waitForCompletion": True}
    reply = server.client.post("/process", json=body)
    record = reply.json()
    logs = server.client.get(f"/process/{record['pid']}/logs").json()
    file = server.client.get(f"/filesystem/{source}")

    assert int(reply.headers["content-length"]) == len(reply.content)
    assert record["stdout"] == record["stderr"] == text
    assert {key: record[key] for key in logs} == logs
    assert len(logs["logs"]) == 2 * len(text)
    assert file.json()["content"] == text
    assert file.json()["size"] == len(text.encode())
    assert file.headers["etag"]


def test_who_reads_megabytes_again_and_again_makes_nobody_wait(server: Server) -> None:
    made = server.run("seq 1 1000000")
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            server.client.get(f"/process/{made['pid']}/logs")

    reader = threading.Thread(target=read)
    reader.start()
    slowest = 0.0
    for _ in range(60):
        began = time.monotonic()
        assert server.client.get(f"/process/{made['pid']}").status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    done.set()
    reader.join()

    assert slowest < 10


def test_a_client_that_leaves_in_the_middle_of_a_long_answer_is_forgotten(server: Server) -> None:
    made = server.run("seq 1 1000000")
    for _ in range(20):
        with server.client.stream("GET", f"/process/{made['pid']}/logs") as reply:
            assert next(reply.iter_raw())

    assert server.client.get("/health").status_code == 200
