"""Records of streams: no cut of a chunk is seen in them, and all readers of lines see the same."""

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandkeeper.journal.cursor import Chunk
from sandkeeper.journal.events import EventRecords, LogRecords, Outcome, TextLog, pieces
from sandkeeper.journal.lines import complete_end
from sandkeeper.journal.segment import STDERR, STDOUT

TEXT = st.text("ab\n é漢😀\u2028\u0085", max_size=30)
BUSY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be."""

ODD = st.one_of(TEXT.map(str.encode), st.binary(max_size=30))


def cut(data: Any, whole: bytes) -> list[bytes]:
    parts = []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        parts.append(whole[:size])
        whole = whole[size:]
    return parts


def mixed(data: Any, out: bytes, err: bytes) -> list[Chunk]:
    """Cut two streams and lay them between one another."""
    parts = {STDOUT: cut(data, out), STDERR: cut(data, err)}
    chunks: list[Chunk] = []
    offset = 0
    while any(parts.values()):
        stream = data.draw(st.sampled_from([one for one in parts if parts[one]]))
        part = parts[stream].pop(0)
        chunks.append(Chunk(stream, offset, 1_000_000 + offset, part))
        offset += len(part)
    return chunks


def records(made: bytes) -> list[dict[str, Any]]:
    """Read NDJSON as those do who split lines wherever Unicode has a line's end."""
    return [json.loads(line) for line in made.decode().splitlines()]


def bytes_of(record: dict[str, Any]) -> bytes:
    text: str = record["data"]
    return base64.b64decode(text) if "encoding" in record else text.encode()


@BUSY
@given(TEXT, TEXT, st.data())
def test_the_log_sends_text_as_text_however_it_is_cut(out: str, err: str, data: Any) -> None:
    log = LogRecords()
    chunks = mixed(data, out.encode(), err.encode())
    told = records(b"".join(log.batch([chunk]) for chunk in chunks) + log.finish())

    assert not any("encoding" in record for record in told)
    for name, text in (("stdout", out), ("stderr", err)):
        assert "".join(record["data"] for record in told if record["type"] == name) == text


@BUSY
@given(ODD, ODD, st.data())
def test_no_byte_is_lost_or_moved_whatever_it_is(out: bytes, err: bytes, data: Any) -> None:
    chunks = mixed(data, out, err)
    whole = b"".join(chunk.data for chunk in chunks)
    log, events = LogRecords(), event_records()
    logged: list[bytes] = []
    told: list[bytes] = []
    for chunk in chunks:
        quiet = data.draw(st.booleans())
        logged += [log.batch([chunk]), log.alive() if quiet else b""]
        told += [events.batch([chunk]), events.heartbeat() if quiet else b""]
    found = records(b"".join(logged) + log.finish())
    for name, expected in (("stdout", out), ("stderr", err)):
        assert b"".join(bytes_of(one) for one in found if one["type"] == name) == expected

    position = 0
    for event in records(b"".join(told) + events.end()):
        if event["type"] == "output":
            assert event["offset"] == position
            position += len(bytes_of(event))
            assert whole[event["offset"] : position] == bytes_of(event)
        assert event["type"] == "output" or event["offset"] == position
    assert position == len(whole)


@BUSY
@given(TEXT, st.data())
def test_events_of_one_stream_are_text_however_it_is_cut(text: str, data: Any) -> None:
    events = event_records()
    told = b"".join(events.batch([chunk]) for chunk in mixed(data, text.encode(), b""))

    assert not any("encoding" in event for event in records(told))


def event_records() -> EventRecords:
    return EventRecords(lambda: Outcome("completed", 0, None, ""), 0, sse=False, streams=set())


@BUSY
@given(st.binary(max_size=12))
def test_an_unfinished_character_is_what_more_bytes_would_finish(data: bytes) -> None:
    end = complete_end(data)

    assert len(data) - end < 4
    if end < len(data):
        tail = data[end:]
        more = [tail + b"\x80" * count for count in (1, 2, 3)]
        more += [tail + second + b"\x80\x80" for second in (b"\x90", b"\xa0")]
        assert tail[0] >= 0xC2
        assert all(byte & 0xC0 == 0x80 for byte in tail[1:])
        if not tail[1:]:
            assert any(_is_text(each[: size + 2]) for each in more for size in range(3))
    else:
        assert not data or not _is_lead(data[-1])


def _is_lead(byte: int) -> bool:
    return 0xC2 <= byte <= 0xF4


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@BUSY
@given(st.text("a漢😀", max_size=20), st.integers(0, 3), st.integers(0, 3))
def test_a_cut_at_either_end_does_not_encode_what_is_between(
    text: str, front: int, back: int
) -> None:
    data = text.encode()
    part = data[front : len(data) - back]
    found = list(pieces(part))

    assert sum(
        len(bytes_of({"data": t, **({"encoding": 1} if e else {})})) for _, t, e in found
    ) == (len(part))
    assert all(len(base64.b64decode(told)) <= 3 for _, told, encoded in found if encoded)


@BUSY
@given(TEXT, TEXT, st.data())
def test_the_text_form_cuts_no_character(out: str, err: str, data: Any) -> None:
    log = TextLog()
    chunks = mixed(data, out.encode(), err.encode())
    told = b"".join(log.batch([chunk]) for chunk in chunks) + log.finish(0)

    assert "\ufffd" not in told.decode("utf-8", "replace")


@pytest.mark.parametrize("character", ["\u0085", "\u2028", "\u2029"])
def test_line_breaks_of_unicode_are_escaped(character: str) -> None:
    made = LogRecords().batch([Chunk(STDOUT, 0, 0, f"a{character}b\n".encode())])

    assert len(made.decode().splitlines()) == 1
    assert json.loads(made)["data"] == f"a{character}b\n"
