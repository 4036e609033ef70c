"""Lines and text out of bytes, however the bytes are cut."""

from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.journal.cursor import Chunk
from sandkeeper.journal.lines import (
    HELD_BYTES,
    PATIENCE,
    Decoder,
    PrefixedText,
    strip_partial,
)
from sandkeeper.journal.segment import NOTICE, REMARK, STDERR, STDOUT
from sandkeeper.journal.splitting import LineSplitter

texts = st.lists(
    st.sampled_from([b"a", b"\n", b"\n\n", b"bc", "☃".encode(), b"\xff", b"\0", b"stderr:"]),
    min_size=1,
    max_size=6,
).map(b"".join)
runs = st.lists(
    st.tuples(st.sampled_from([STDOUT, STDERR]), texts, st.integers(0, 2 * PATIENCE)), max_size=12
)


def journal_of(parts: list[tuple[int, bytes, int]]) -> list[Chunk]:
    offset, moment, chunks = 0, 1, []
    for stream, data, pause in parts:
        moment += pause
        chunks.append(Chunk(stream, offset, moment, data))
        offset += len(data)
    return chunks


def cut(chunks: list[Chunk], draw) -> list[Chunk]:
    """Cut chunks as a reader's blocks may: the parts keep the time of their record."""
    made = []
    for chunk in chunks:
        data, offset = chunk.data, chunk.offset
        while data:
            size = draw(st.integers(1, len(data)))
            made.append(Chunk(chunk.stream, offset, chunk.time, data[:size]))
            offset, data = offset + size, data[size:]
    return made


def render(chunks: list[Chunk]) -> bytes:
    text = PrefixedText()
    return b"".join(map(text.feed, chunks)) + text.finish()


@given(runs, st.data())
def test_a_replay_is_the_same_however_its_chunks_are_cut(parts, data) -> None:
    chunks = journal_of(parts)

    assert render(cut(chunks, data.draw)) == render(chunks)


@given(runs)
def test_without_its_prefixes_the_text_is_each_streams_bytes(parts) -> None:
    chunks = journal_of(parts)
    out = render(chunks)
    for stream, prefix in ((STDOUT, b"stdout:"), (STDERR, b"stderr:")):
        written = b"".join(c.data for c in chunks if c.stream == stream)
        told = b"".join(
            line.removeprefix(prefix)
            for line in out.split(b"\n")
            if line.startswith(prefix) and line != prefix
        )
        assert told == written.replace(b"\n", b"")


@given(runs)
def test_every_line_of_the_text_has_a_prefix(parts) -> None:
    for line in render(journal_of(parts)).split(b"\n")[:-1]:
        assert line.startswith((b"stdout:", b"stderr:"))


@given(st.lists(texts, max_size=10))
def test_one_stream_alone_is_prefixed_line_by_line(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    *lines, rest = whole.split(b"\n")
    expected = b"".join(b"stdout:" + line + b"\n" for line in lines)
    if rest:
        expected += b"stdout:" + rest

    assert render(journal_of([(STDOUT, part, 0) for part in parts])) == expected


def test_another_stream_waits_for_the_end_of_an_open_line() -> None:
    text = PrefixedText()
    assert text.feed(Chunk(STDOUT, 0, 1, b"open")) == b"stdout:open"
    assert text.feed(Chunk(STDERR, 4, 2, b"err\n")) == b""
    assert text.feed(Chunk(STDOUT, 8, 3, b" end\nnext\n")) == b" end\nstderr:err\nstdout:next\n"


def test_it_waits_no_longer_than_patience_and_holds_no_more_than_its_bound() -> None:
    text = PrefixedText()
    text.feed(Chunk(STDOUT, 0, 1, b"open"))
    text.feed(Chunk(STDERR, 4, 2, b"err\n"))
    assert text.deadline == 2 + PATIENCE
    assert text.expire(1 + PATIENCE) == b""
    assert text.expire(2 + PATIENCE) == b"\nstderr:err\n"

    text.feed(Chunk(STDOUT, 8, 3, b"open"))
    flood = text.feed(Chunk(STDERR, 12, 4, b"x" * (HELD_BYTES + 1)))
    assert flood.startswith(b"\nstderr:xxx")


def test_remarks_stand_alone_and_notices_count_as_output() -> None:
    text = PrefixedText()
    text.feed(Chunk(STDOUT, 0, 1, b"open"))
    assert text.feed(Chunk(REMARK, 4, 2, b"\n[bye]\n")) == b"\n\n[bye]\n"
    assert text.feed(Chunk(NOTICE, 11, 3, b"\n[again]\n")) == b"stdout:\nstdout:[again]\n"


@given(st.binary(max_size=200), st.integers(1, 20), st.data())
def test_lines_are_the_same_however_the_bytes_are_cut(whole: bytes, limit: int, data) -> None:
    def lines_of(parts: list[bytes]) -> list[bytes]:
        splitter = LineSplitter(limit)
        joined, made = b"", []
        for part in parts:
            for line, ends in splitter.feed(part):
                assert len(line) <= limit
                joined += line
                if ends:
                    made.append(joined)
                    joined = b""
        assert len(splitter.pending) <= limit
        return [*made, joined + splitter.pending]

    parts, rest = [], whole
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        parts.append(rest[:size])
        rest = rest[size:]

    assert lines_of(parts) == whole.split(b"\n")


@given(st.binary(max_size=100), st.data())
def test_a_decoder_gives_the_same_text_however_the_bytes_are_cut(whole: bytes, data) -> None:
    decoder, out, rest = Decoder(), "", whole
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out += decoder.decode(STDOUT, rest[:size])
        rest = rest[size:]

    assert out + decoder.flush(STDOUT) == whole.decode("utf-8", "replace")


@given(st.text(min_size=1, max_size=20), st.integers(0, 60))
def test_a_clipped_text_begins_with_a_whole_character(text: str, cut_at: int) -> None:
    tail = text.encode()[min(cut_at, len(text.encode())) :]

    assert text.endswith(strip_partial(tail).decode())
