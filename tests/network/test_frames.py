"""What is followed of a WebSocket's frames: where they end, a goodbye, pings without end."""

import random

import pytest
from websockets.frames import Close, Frame, Opcode

from sandkeeper.network.frames import PINGS_MOST, Frames, goodbye

SEED = random.Random(12)


def sent(opcode: Opcode, size: int, *, mask: bool = False) -> bytes:
    return Frame(opcode, SEED.randbytes(size)).serialize(mask=mask)


STREAM = [
    *(sent(Opcode.TEXT, 0), sent(Opcode.BINARY, 125), sent(Opcode.PING, 3)),
    *(sent(Opcode.BINARY, 126), sent(Opcode.BINARY, 65_536, mask=True), sent(Opcode.PONG, 5)),
]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000, 1 << 20])
def test_all_bytes_pass_in_their_order_however_they_come(piece: int) -> None:
    data = b"".join(STREAM)
    followed, passed = Frames(), bytearray()
    ends = {sum(map(len, STREAM[:count])) for count in range(len(STREAM) + 1)}

    for at in range(0, len(data), piece):
        passed += followed.feed(data[at : at + piece])
        assert followed.between == (len(passed) in ends)

    assert passed == data
    assert not followed.closed


def test_a_goodbye_is_noticed_and_can_be_said() -> None:
    followed = Frames()
    frame = goodbye(1014, "x" * 200)

    assert followed.feed(frame) == frame
    assert followed.closed
    assert followed.between
    assert frame[2:4] == Close(1014, "").serialize()


@pytest.mark.parametrize("piece", [1, 5, 4096])
def test_pings_that_nobody_answers_are_left_out(piece: int) -> None:
    flood = b"".join(sent(Opcode.PING, size % 20) for size in range(3 * PINGS_MOST))
    text = sent(Opcode.TEXT, 300)
    data = flood + text + sent(Opcode.PING, 1)
    followed, passed = Frames(), bytearray()
    for at in range(0, len(data), piece):
        passed += followed.feed(data[at : at + piece])

    assert passed.endswith(text)
    assert passed[: -len(text)] == flood[: len(passed) - len(text)]
    followed.pings = 0
    again = sent(Opcode.PING, 4)
    assert followed.feed(again) == again
