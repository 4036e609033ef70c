"""Turns: a round of the event loop carries one block, whoever it is for."""

import asyncio

from sandkeeper.journal.turns import Turns


def test_everybody_who_asks_at_once_gets_a_round_of_their_own_in_order() -> None:
    rounds = asyncio.run(_rounds_of(5))
    assert [name for name, _ in rounds] == list(range(5))
    assert len({number for _, number in rounds}) == 5


def test_who_asks_alone_does_not_wait() -> None:
    async def alone() -> bool:
        task = asyncio.ensure_future(Turns().take())
        await asyncio.sleep(0)
        return task.done()

    assert asyncio.run(alone())


def test_a_turn_of_somebody_who_left_goes_to_the_next() -> None:
    async def leave() -> list[str]:
        turns, got = Turns(), []

        async def stand(name: str) -> None:
            await turns.take()
            got.append(name)

        tasks = {name: asyncio.ensure_future(stand(name)) for name in "abc"}
        await asyncio.sleep(0)
        tasks["b"].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        await asyncio.wait_for(turns.take(), 60)
        return got

    assert asyncio.run(leave()) == ["a", "c"]


async def _rounds_of(count: int) -> list[tuple[int, int]]:
    """Return who had a turn in which round of the loop."""
    turns, rounds, passed = Turns(), [], 0
    loop = asyncio.get_running_loop()

    def count_rounds() -> None:
        nonlocal passed
        passed += 1
        loop.call_soon(count_rounds)

    async def stand(name: int) -> None:
        await turns.take()
        rounds.append((name, passed))

    loop.call_soon(count_rounds)
    await asyncio.gather(*(stand(name) for name in range(count)))
    return rounds
