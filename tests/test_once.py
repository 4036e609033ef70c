"""`once`: one makes it for all."""

import asyncio

import pytest

from sandkeeper.once import Once


def test_all_who_ask_have_the_one_that_was_made() -> None:
    made: list[object] = []

    async def make() -> object:
        await asyncio.sleep(0)
        made.append(object())
        return made[-1]

    async def main() -> list[object]:
        once = Once(make)
        return await asyncio.gather(*(once.get() for _ in range(5)))

    assert asyncio.run(main()) == made * 5


def test_who_goes_away_takes_nothing_from_the_others() -> None:
    async def main() -> str:
        go = asyncio.Event()

        async def make() -> str:
            await go.wait()
            return "made"

        once = Once(make)
        first = asyncio.ensure_future(once.get())
        second = asyncio.ensure_future(once.get())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        go.set()
        return await second

    assert asyncio.run(main()) == "made"


def test_a_failure_is_told_and_tried_again() -> None:
    tries = iter([OSError("not yet"), None])

    async def make() -> str:
        if (error := next(tries)) is not None:
            raise error
        return "made"

    async def main() -> str:
        once = Once(make)
        with pytest.raises(OSError, match="not yet"):
            await once.get()
        return await once.get()

    assert asyncio.run(main()) == "made"
