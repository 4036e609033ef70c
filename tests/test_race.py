"""The first of several tasks ends the others."""

import asyncio

import pytest

from sandkeeper.race import race


async def _forever(events: list[str], name: str) -> None:
    events.append(f"{name} begins")
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        events.append(f"{name} is over")


async def _fails() -> None:
    raise LookupError("no")


def test_the_first_is_returned_and_the_others_are_over() -> None:
    async def main() -> None:
        events: list[str] = []

        first, other = await race(asyncio.sleep(0, "done"), _forever(events, "it"))

        assert first is not None
        assert first.result() == "done"
        assert other is None
        assert events == ["it begins", "it is over"]

    asyncio.run(main())


def test_a_failure_is_the_winners_to_tell() -> None:
    async def main() -> None:
        lost, failed = await race(asyncio.Event().wait(), _fails())

        assert lost is None
        assert failed is not None
        with pytest.raises(LookupError):
            failed.result()

    asyncio.run(main())


def test_after_the_time_nobody_has_won() -> None:
    async def main() -> None:
        assert await race(asyncio.Event().wait(), asyncio.Event().wait(), seconds=0) == [None, None]

    asyncio.run(main())


def test_who_is_cancelled_leaves_nothing_running() -> None:
    async def main() -> None:
        events: list[str] = []
        racing = asyncio.ensure_future(race(_forever(events, "a"), _forever(events, "b")))
        while len(events) < 2:
            await asyncio.sleep(0)

        racing.cancel()

        with pytest.raises(asyncio.CancelledError):
            await racing
        assert sorted(events) == ["a begins", "a is over", "b begins", "b is over"]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
