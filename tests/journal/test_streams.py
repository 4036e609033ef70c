"""Whose bytes: one enum, as it is stored and as clients name it."""

import pytest

from sandkeeper.errors import BadInput
from sandkeeper.journal.segment import OUTPUT, STDERR, STDOUT, Stream, output_streams


def test_streams_keep_the_numbers_of_indexes_on_disk_and_their_wire_names() -> None:
    assert {int(stream): stream.wire for stream in Stream} == {
        0: "stdout",
        1: "stderr",
        2: "notice",
        3: "remark",
    }


@pytest.mark.parametrize(
    ("name", "found"), [("", OUTPUT), ("stdout", (STDOUT,)), ("stderr", (STDERR,))]
)
def test_a_client_names_one_stream_or_means_both(name: str, found: tuple[Stream, ...]) -> None:
    assert output_streams(name) == found


@pytest.mark.parametrize("name", ["notice", "STDOUT", "both"])
def test_a_stream_that_no_process_writes_to_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=f"^unknown stream: {name}$"):
        output_streams(name)
