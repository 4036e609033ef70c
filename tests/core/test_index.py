"""The index of a segment: whose byte is this, and when did it come."""

import os
import tempfile

from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.core.segment import HEAD, Index, Segment, pack_record, read_head, write_head

records = st.lists(
    st.tuples(st.integers(1, 50), st.integers(0, 5000), st.integers(0, 3)), max_size=30
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


def test_a_head_says_what_was_before_and_a_torn_one_says_nothing(tmp_path) -> None:
    segment = Segment(tmp_path, 77, (1, 2, 3, 4), gap_from=70)
    fd = os.open(segment.index_path, os.O_RDWR | os.O_CREAT)
    write_head(fd, segment)
    assert read_head(segment.index_path) == ((1, 2, 3, 4), 70)

    os.ftruncate(fd, HEAD.size - 1)
    os.close(fd)
    assert read_head(segment.index_path) is None
    assert read_head(tmp_path / "absent") is None
