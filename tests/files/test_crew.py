"""Threads for blocking work: of no kind all, and whoever waits gives its place away."""

import asyncio
import os
import threading
import time
from collections.abc import Callable

import pytest

from sandkeeper.errors import Unavailable
from sandkeeper.files import crew
from sandkeeper.files.crew import Crew


def blocked() -> tuple[Callable[[], bytes], Callable[[], int]]:
    """Return work that waits in the kernel, and what ends it."""
    reading, writing = os.pipe()
    return (lambda: os.read(reading, 1)), (lambda: os.write(writing, b"x"))


def test_work_gives_what_it_returns_or_raises() -> None:
    async def run() -> None:
        made = Crew("test", 2, 1)
        assert await made.run("a", lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await made.run("a", lambda: 1 // 0)
        made.close()

    asyncio.run(run())


def test_one_kind_never_has_all_places() -> None:
    async def run() -> None:
        made = Crew("test", 4, 3)
        go, inside = threading.Event(), threading.Semaphore(0)

        def compute() -> None:
            inside.release()
            while not go.is_set():
                sum(range(1000))

        hogs = [asyncio.ensure_future(made.run("hog", compute)) for _ in range(20)]
        assert await asyncio.wait_for(made.run("other", lambda: 1), 20) == 1
        assert all(inside.acquire(timeout=60) for _ in range(3))
        assert not inside.acquire(blocking=False)
        go.set()
        await asyncio.gather(*hogs)
        made.close()

    asyncio.run(run())


def test_work_that_waits_gives_its_place_to_others() -> None:
    async def run() -> None:
        made = Crew("test", 2, 2)
        pipes = [blocked() for _ in range(6)]
        waiting = [asyncio.ensure_future(made.run("read", work)) for work, _ in pipes]
        assert await asyncio.wait_for(made.run("other", lambda: 1), 20) == 1
        assert await asyncio.wait_for(made.run("read", lambda: b"2"), 20) == b"2"
        for _, end in pipes:
            end()
        assert await asyncio.gather(*waiting) == [b"x"] * 6
        assert (made._taken, made._waiting) == ({}, {})
        made.close()

    asyncio.run(run())


def test_what_waits_is_bounded_for_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "WAITING_EACH", 3)

    async def run() -> None:
        made = Crew("test", 2, 2)
        pipes = [blocked() for _ in range(5)]
        waiting = [asyncio.ensure_future(made.run("read", work)) for work, _ in pipes]
        while made._waiting.get("read", 0) < 3:
            await asyncio.sleep(0.01)
        with pytest.raises(Unavailable, match="3 operations of this kind hang"):
            await made.run("read", lambda: b"")
        assert await asyncio.wait_for(made.run("other", lambda: 1), 20) == 1
        for _, end in pipes:
            end()
        await asyncio.gather(*waiting)
        assert await made.run("read", lambda: 5) == 5
        made.close()

    asyncio.run(run())


def test_work_whose_caller_went_before_it_began_never_begins() -> None:
    async def run() -> None:
        made = Crew("test", 1, 1)
        work, end = blocked()
        first = asyncio.ensure_future(made.run("read", work))
        begun: list[int] = []
        second = asyncio.ensure_future(made.run("read", lambda: begun.append(1)))
        await asyncio.sleep(0)
        second.cancel()
        end()
        await first
        assert await made.run("read", lambda: 3) == 3
        assert begun == []
        made.close()

    asyncio.run(run())


def test_after_closing_nothing_is_taken_and_nothing_left_running() -> None:
    async def run() -> None:
        before = threading.active_count()
        made = Crew("test", 4, 4)
        await asyncio.gather(*(made.run("a", lambda: 1) for _ in range(8)))
        made.close()
        with pytest.raises(Unavailable):
            await made.run("a", lambda: 1)
        until = time.monotonic() + 10
        while threading.active_count() > before and time.monotonic() < until:
            await asyncio.sleep(0.01)
        assert threading.active_count() <= before

    asyncio.run(run())


def test_threads_that_cannot_be_started_cost_their_requests_and_no_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        made = Crew("test", 2, 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(5):
                with pytest.raises(Unavailable, match="thread"):
                    await made.run("a", lambda: 7)
        assert await made.run("a", lambda: 7) == 7
        made.close()

    asyncio.run(run())
