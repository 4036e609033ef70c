"""The garbage collector: no long pauses, and nothing kept for ever."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from sandkeeper.observability import heap
from sandkeeper.observability.heap import Heap


@pytest.fixture(autouse=True)
def ordinary_collector() -> Iterator[None]:
    """Have nothing put aside at first, and leave the collector of the test process as it was."""
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()


async def until_thorough(keeper: Heap, times: int) -> None:
    async with asyncio.timeout(60):
        while keeper.thorough < times:
            await asyncio.sleep(0.001)


class Knot:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.self = self


def test_a_collection_looks_only_at_what_came_since_the_last() -> None:
    async def tended() -> tuple[int, int]:
        before = len(gc.get_objects())
        async with Heap(lambda: 0).tended():
            held = [Knot() for _ in range(1000)]
            first = len(gc.get_objects())
            gc.collect()
            second = len(gc.get_objects())
            assert len(held) == 1000
            assert before > 5000
            return first, second

    first, second = asyncio.run(tended())
    assert 1000 <= first < 5000
    assert second < 500


def test_a_cycle_that_was_put_aside_and_died_goes_with_the_next_thorough_collection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heap, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(heap, "ROOM", 0)

    async def grow() -> None:
        keeper = Heap(lambda: 0)
        async with keeper.tended():
            await until_thorough(keeper, 1)
            knot = Knot()
            gone = weakref.ref(knot)
            gc.collect()
            del knot
            gc.collect()
            assert gone() is not None
            grown: list[Any] = [[] for _ in range(2 * gc.get_freeze_count())]
            gc.collect()
            await until_thorough(keeper, 2)
            assert gone() is None
            assert grown

    asyncio.run(grow())


def test_a_little_that_was_put_aside_is_looked_at_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heap, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(heap, "QUIET_TICKS", 20)

    async def rest() -> None:
        keeper = Heap(lambda: 0)
        async with keeper.tended():
            await until_thorough(keeper, 1)
            knot = Knot()
            gone = weakref.ref(knot)
            gc.collect()
            del knot
            await until_thorough(keeper, 2)
            assert gone() is None

    asyncio.run(rest())


def test_a_thorough_collection_waits_for_a_quiet_moment_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heap, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(heap, "ROOM", -1 << 40)
    monkeypatch.setattr(heap, "PATIENCE_TICKS", 20)
    asked = 0

    def busy() -> int:
        nonlocal asked
        asked += 1
        return asked

    async def wait() -> int:
        keeper = Heap(busy)
        async with keeper.tended():
            await until_thorough(keeper, 1)
        return asked

    assert asyncio.run(wait()) >= 20
