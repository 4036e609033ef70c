"""The index of a segment: whose byte is this, and when did it come."""

import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.journal.segment import HEAD, Index, Segment, pack_record, read_head, write_head

records = st.lists(
    st.tuples(st.integers(1, 50), st.integers(0, 5000), st.integers(0, 3)), min_size=1, max_size=30
).map(lambda steps: list(accumulate(steps)))


def accumulate(steps):
    offset = moment = 0
    for size, pause, stream in steps:
        moment += pause
        yield offset, moment, stream
        offset += size


@given(records, st.integers(0, 2000), st.integers(0, 200_000), st.integers(0, 15))
def test_look_ups_agree_with_a_plain_search(made, offset, moment, torn) -> None:
    with tempfile.TemporaryFile() as file:
        index = Index(file.fileno())
        file.write(b"\0" * HEAD.size)
        half = len(made) // 2
        for part in (made[:half], made[half:]):
            for record in part:
                file.write(pack_record(*record))
            file.flush()
            index.refresh()
        file.write(b"\1" * torn)
        file.flush()
        index.refresh()

        assert len(index) == len(made)
        assert [
            (index.offset(n), index.time(n), index.stream(n)) for n in range(len(index))
        ] == made
        assert index.find(offset) == sum(start <= offset for start, _, _ in made) - 1
        assert index.find_time(moment) == sum(when < moment for _, when, _ in made)


@given(st.binary(max_size=900), st.integers(0, 500), st.integers(0, 500), st.booleans())
def test_an_index_of_any_bytes_answers_in_order_and_names_streams(raw, base, size, written) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"\0" * HEAD.size + raw)
        file.flush()
        index = Index(file.fileno(), base, None if written else base + size)
        index.refresh()

        offsets = [index.offset(n) for n in range(len(index))]
        moments = [index.time(n) for n in range(len(index))]
        assert offsets == sorted(offsets)
        assert offsets[0] == base
        assert moments == sorted(moments)
        assert {index.stream(n) for n in range(len(index))} <= set(range(4))
        extents = list(index.extents(base + size))
        assert sum(stop - start for _, start, stop in extents) == size
        assert index.find(base) >= 0
        assert 0 <= index.find_time(1 << 40) <= len(index)


def test_a_record_that_cannot_be_true_is_passed_over_and_the_one_before_reigns_on() -> None:
    sound = [(100, 1, 0), (110, 2, 1), (120, 3, 0), (130, 4, 1)]
    for number in range(1, 4):
        for wrong in ((50, 5, 0), (9999, 5, 0), (115, 5, 9)):
            made = [*sound[:number], wrong, *sound[number:]]
            with tempfile.TemporaryFile() as file:
                file.write(b"\0" * HEAD.size + b"".join(pack_record(*one) for one in made))
                file.flush()
                index = Index(file.fileno(), 100, 200)
                index.refresh()
                found = [(index.offset(n), index.stream(n)) for n in range(len(index))]
            assert found == [(offset, stream) for offset, _, stream in sound]


def test_a_head_says_what_was_before_and_a_torn_one_is_refused(tmp_path) -> None:
    segment = Segment(tmp_path, 10, (1, 2, 3, 4), gap_from=7)
    fd = os.open(segment.index_path, os.O_RDWR | os.O_CREAT)
    write_head(fd, segment)
    assert read_head(segment.index_path, 10) == ((1, 2, 3, 4), 7)
    assert read_head(segment.index_path, 11) is None
    os.pwrite(fd, b"\x08", 16)
    assert read_head(segment.index_path, 10) is None

    os.ftruncate(fd, HEAD.size - 1)
    os.close(fd)
    for path in (segment.index_path, tmp_path / "absent", tmp_path):
        with pytest.raises(OSError):
            read_head(path, 10)
