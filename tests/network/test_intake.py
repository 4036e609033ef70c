"""What a connection has sent, before its parser: nobody's reads fill a round of the loop."""

import asyncio

from sandkeeper.network.intake import READ_BYTES, REST_BYTES, Intake


class Line:
    """A connection whose parser keeps up with whatever comes."""

    def __init__(self) -> None:
        self.parsed = 0
        self.said: list[str] = []
        self.intake = Intake(
            self._feed,
            lambda: True,
            lambda: self.said.append("hold"),
            lambda: self.said.append("go on"),
            slice_bytes=READ_BYTES,
        )

    def _feed(self, data: bytes) -> None:
        self.parsed += len(data)


def test_a_parser_that_keeps_up_leaves_others_a_round_all_the_same() -> None:
    async def main() -> None:
        line = Line()
        sent = 0
        while not line.said:
            line.intake.take(bytes(READ_BYTES))
            sent += READ_BYTES

        assert sent == REST_BYTES
        assert line.said == ["hold"]
        assert line.intake.waits
        await asyncio.sleep(0)
        assert line.said == ["hold", "go on"]
        assert not line.intake.waits
        assert line.parsed == sent

    asyncio.run(main())


def test_what_comes_in_small_pieces_is_never_held() -> None:
    async def main() -> None:
        line = Line()
        for _ in range(2 * REST_BYTES // 1024):
            line.intake.take(bytes(1024))

        assert line.said == []
        assert line.parsed == 2 * REST_BYTES

    asyncio.run(main())
