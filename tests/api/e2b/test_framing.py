"""Frames of Connect's streams, however they are torn."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandkeeper.api.e2b.framing import BadFrame, Frames, TooLong, frame

PAYLOADS = st.lists(st.binary(max_size=40), max_size=6)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return `data` in pieces that end at `places`."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(PAYLOADS, st.lists(st.integers(0, 400), max_size=12))
def test_frames_are_the_same_wherever_the_stream_is_torn(
    payloads: list[bytes], places: list[int]
) -> None:
    frames, found = Frames(64), []
    for piece in cut(b"".join(map(frame, payloads)), places):
        found += frames.feed(piece)
    frames.finish()

    assert found == payloads


@given(PAYLOADS.filter(bool), st.integers(1, 400))
def test_a_stream_that_ends_within_a_frame_is_refused(payloads: list[bytes], short: int) -> None:
    whole = b"".join(map(frame, payloads))
    last = len(frame(payloads[-1]))
    frames = Frames(64)
    found = list(frames.feed(whole[: len(whole) - 1 - short % (last - 1)]))

    assert found == payloads[:-1]
    with pytest.raises(BadFrame):
        frames.finish()


@given(st.integers(65, (1 << 32) - 1))
def test_a_long_frame_is_refused_when_it_is_announced(length: int) -> None:
    with pytest.raises(TooLong):
        list(Frames(64).feed(struct.pack(">BI", 0, length)))


@given(st.integers(1, 255))
def test_flags_that_no_request_has_are_refused(flags: int) -> None:
    with pytest.raises(BadFrame):
        list(Frames(64).feed(frame(b"{}", flags)))


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=12))
def test_any_bytes_give_frames_or_one_of_two_errors(data: bytes, places: list[int]) -> None:
    frames = Frames(64)
    try:
        for piece in cut(data, places):
            assert all(len(payload) <= 64 for payload in frames.feed(piece))
        frames.finish()
    except (BadFrame, TooLong):
        pass
