"""Where lines stand: answers that begin in the middle of a log are those of a reading of all."""

import json
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandkeeper.journal.cursor import Chunk, Reader
from sandkeeper.journal.events import TextLog
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.linewatch import Pattern, _Pass
from sandkeeper.journal.matching import Question
from sandkeeper.journal.output import MARKER, texts_of
from sandkeeper.journal.places import newlines_before
from sandkeeper.journal.query import LineQuery
from sandkeeper.journal.segment import NOTICE, REMARK, STDERR, STDOUT
from sandkeeper.journal.splitting import LineSplitter

FAR = 1 << 62
"""A time after all lines: it excludes none, but what it is asked of is read from the front."""

PIECES = st.lists(
    st.tuples(
        st.sampled_from([STDOUT, STDERR, NOTICE, REMARK]),
        st.one_of(
            st.text("ab\n é漢", max_size=12).map(str.encode),
            st.integers(65_530, 140_000).map(lambda size: b"x" * size),
            st.integers(21_840, 50_000).map(lambda size: "漢".encode() * size),
        ),
    ),
    max_size=12,
)


def journal_of(folder: Path, pieces: list[tuple[int, bytes]], segment_bytes: int) -> Journal:
    times = iter(range(0, 1 << 40, 5_000_000))
    journal = Journal(folder, segment_bytes=segment_bytes, clock=lambda: next(times))
    for stream, data in pieces:
        journal.append(stream, data)
    return journal


def answer(journal: Journal, question: Question) -> list[dict[str, Any]]:
    with closing(LineQuery(journal, question)) as query:
        steps = iter(query.step, None)
        return [json.loads(line) for line in b"".join(steps).splitlines()]


def lines(journal: Journal, question: Question) -> list[dict[str, Any]]:
    return [item for item in answer(journal, question) if item["type"] == "line"]


def last_lines(told: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the last records in which there are so many lines: parts of one count once."""
    while len({item["line"] for item in told}) > count:
        told = told[1:]
    return told


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=PIECES,
    segment_bytes=st.sampled_from([1, 40, 100_000]),
    drops=st.integers(0, 2),
    stream=st.sampled_from(["", "stdout", "stderr"]),
    count=st.integers(1, 5),
    data=st.data(),
)
def test_an_answer_from_the_middle_equals_a_reading_of_all(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[tuple[int, bytes]],
    segment_bytes: int,
    drops: int,
    stream: str,
    count: int,
    data: Any,
) -> None:
    journal = journal_of(tmp_path_factory.mktemp("journal"), pieces, segment_bytes)
    with closing(journal):
        for _ in range(drops):
            journal.drop_oldest()
        everything = answer(journal, Question(stream, until=FAR))
        told = [item for item in everything if item["type"] == "line"]

        assert answer(journal, Question(stream, tail=count))[:-1] == [
            *(item for item in everything if item["type"] == "gap"),
            *last_lines(told, count),
        ]
        since = data.draw(st.integers(0, journal.tail + 1))
        assert lines(journal, Question(stream, first_offset=since)) == [
            item for item in told if item["offset"] >= since
        ]
        moment = data.draw(st.integers(1, 5000 * len(pieces) + 1))
        assert [item["offset"] for item in lines(journal, Question(stream, since=moment))] == [
            item["offset"] for item in lines(journal, Question(stream, since=moment, until=FAR))
        ]


def test_parts_of_a_long_line_have_one_number_and_no_character_is_cut(tmp_path: Path) -> None:
    long = "漢" * 60_000
    with closing(journal_of(tmp_path, [(STDOUT, f"a\n{long}\nb\n".encode())], 1 << 20)) as journal:
        first, *parts, last = lines(journal, Question())

    assert (first["line"], last["line"], last["text"]) == (1, 3, "b")
    assert {part["line"] for part in parts} == {2}
    assert [part.get("continued", False) for part in parts] == [True, True, False]
    assert "".join(part["text"] for part in parts) == long


def test_parts_of_a_line_count_once(tmp_path: Path) -> None:
    text = f"a\n{'x' * 200_000}\nb\n{'y' * 100_000}\n"
    with closing(journal_of(tmp_path, [(STDOUT, text.encode())], 1 << 20)) as journal:
        for question, numbers in [
            (Question(head=2), [1, 2, 2, 2, 2]),
            (Question(limit=3), [1, 2, 2, 2, 2, 3]),
            (Question(tail=1), [4, 4]),
            (Question(tail=3), [2, 2, 2, 2, 3, 4, 4]),
            (Question(grep="x", head=1), [2, 2, 2, 2]),
        ]:
            *told, end = answer(journal, question)
            assert [item["line"] for item in told] == numbers
            assert end["lines"] == len(set(numbers))


@pytest.mark.parametrize("literal", [True, False])
def test_a_match_over_the_border_of_two_parts_is_found_and_both_are_told(
    tmp_path: Path, literal: bool
) -> None:
    numbers = [65_530, 131_066, 200_000]
    text = bytearray(b"a" * 300_000)
    for number in numbers:
        text[number : number + 12] = b"SERVER READY"
    pieces = [(STDOUT, bytes(text[:70_000])), (STDERR, b"SERVER\n"), (STDOUT, bytes(text[70_000:]))]
    with closing(journal_of(tmp_path, pieces, 40_000)) as journal:
        told = lines(journal, Question(grep="SERVER READY", literal=literal))
        assert len("".join(item["text"] for item in told)) == 4 * 65_536
        for pattern, matches in [("^a", 1), ("Y$", 0), ("^S", 0), ("Ya", 3), ("a$", 1)]:
            found = lines(journal, Question("stdout", grep=pattern, literal=False))
            assert (pattern, len(found)) == (pattern, matches)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.tuples(
            st.sampled_from([STDOUT, STDERR]),
            st.one_of(st.binary(min_size=1, max_size=20), st.text("a\n\r漢\u2028").map(str.encode)),
        ),
        max_size=12,
    ),
    segment_bytes=st.sampled_from([1, 40, 100_000]),
)
def test_all_readers_of_lines_find_the_lines_between_newlines(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[tuple[int, bytes]],
    segment_bytes: int,
) -> None:
    journal = journal_of(tmp_path_factory.mktemp("journal"), pieces, segment_bytes)
    with closing(journal), closing(Reader(journal)) as reader:
        chunks: list[Chunk] = []
        while batch := reader.read(chunks[-1].end if chunks else 0):
            chunks += [item for item in batch if isinstance(item, Chunk)]
        log = TextLog()
        text = b"".join(log.batch([chunk]) for chunk in chunks) + log.finish(0)
        texts = texts_of(journal, 1 << 20)
        for stream in (STDOUT, STDERR):
            whole = b"".join(data for its, data in pieces if its == stream)
            reference = [line.decode("utf-8", "replace") for line in whole.split(b"\n")]
            told = [item["text"] for item in lines(journal, Question(stream.wire))]
            assert told == reference[: len(reference) - (not reference[-1])]
            found = [Question(stream.wire, grep=line) for line in reference if "\ufffd" not in line]
            for question in found:
                wanted = [line for line in reference if question.grep in line]
                told = [item["text"] for item in lines(journal, question)]
                assert told == wanted[: len(wanted) - (wanted[-1:] == [""] and not reference[-1])]
            splitter = LineSplitter(1 << 20)
            split = [line for part in cut(whole) for line, _ in splitter.feed(part)]
            assert [*split, splitter.pending] == whole.split(b"\n")
            one, mark = _Pass(0), Pattern.of(Question(stream.wire, grep="^", literal=False))
            one.add(mark, SimpleNamespace(done=lambda: False))  # type: ignore[arg-type]
            first = [hit[1].text for hit in one.look(list(chunks)) if hit][:1]
            assert not first or reference[0].startswith(first[0].rstrip("\ufffd"))
            assert getattr(texts, stream.wire) == whole.decode("utf-8", "replace")
            name = stream.wire.encode() + b":"
            parts = [line[len(name) :] for line in text.split(b"\n") if line.startswith(name)]
            assert b"".join(parts) == whole.replace(b"\n", b"")


def cut(data: bytes) -> list[bytes]:
    return [data[at : at + 7] for at in range(0, len(data), 7)]


def test_a_character_that_the_other_stream_interrupts_is_whole_in_the_log(tmp_path: Path) -> None:
    start, end = "漢".encode()[:2], "漢".encode()[2:]
    pieces = [(STDOUT, b"a" + start), (STDERR, b"error\n"), (STDOUT, end + b"b\n")]
    with closing(journal_of(tmp_path, pieces, 1 << 20)) as journal:
        assert texts_of(journal, 1 << 20).logs == "aerror\n漢b\n"
        assert texts_of(journal, 5).logs == MARKER + "rror\n漢b\n"
        assert texts_of(journal, 4).logs == MARKER + "ror\nb\n"


def test_newlines_of_closed_segments_are_counted_once(tmp_path: Path) -> None:
    pieces = [(STDOUT, b"one\ntwo\n"), (STDERR, b"three\n")] * 3
    with closing(journal_of(tmp_path, pieces, 10)) as journal, closing(Reader(journal)) as reader:
        assert newlines_before(journal, reader, (STDOUT, STDERR), journal.tail) == 9
        assert newlines_before(journal, reader, (STDERR,), journal.tail) == 3
        known = [segment.base for segment in journal.segments if segment.end is not None]
        assert sorted(journal.newlines) == known

        for segment in journal.segments:
            segment.data_path.write_bytes(b"")

        assert newlines_before(journal, reader, (STDOUT, STDERR), known[-1]) == sum(
            sum(journal.newlines[base]) for base in known[:-1]
        )
