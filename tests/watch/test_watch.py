"""A watch whose reader does not read: everything is bounded, and nothing is lost silently."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.harness import open_files, until

from sandkeeper.files.work import FileWork
from sandkeeper.linux.inotify import Mask, Notice
from sandkeeper.linux.worker import Turn
from sandkeeper.watch import notices
from sandkeeper.watch import service as watch
from sandkeeper.watch.notices import NoticeHub
from sandkeeper.watch.service import Change, Pool, Ring, Watch, Watches
from sandkeeper.watch.watcher import Scope


@asynccontextmanager
async def watching() -> AsyncIterator[Watches]:
    work = FileWork(lambda: None)
    watches = Watches(lambda: None, work)
    try:
        yield watches
    finally:
        await watches.close()
        work.close()


async def drain(opened: Watch, last: bytes) -> list[Change]:
    taken: list[Change] = []
    while not taken or taken[-1].name != last:
        taken += await opened.take(10) or []
    return taken


def instances() -> int:
    return sum("inotify" in link for link in open_files(os.getpid()))


def watched() -> int:
    """Count the watches of all instances of this process."""
    texts = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            texts.append(Path(f"/proc/self/fdinfo/{fd}").read_text())
        except OSError:
            continue
    return sum(text.count("inotify wd:") for text in texts)


def test_what_the_kernel_had_to_drop_is_told_and_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    count = queue + 3000

    async def run() -> list[Change]:
        async with watching() as watches:
            opened = await watches.watch(Scope(str(tmp_path), True))
            with watches.hubs.of(None)._instance._lock:  # the reader of the kernel's queue is held
                for index in range(count):
                    os.mknod(f"{tmp_path}/{index:06}")
                (tmp_path / "late").mkdir()
            taken = await drain(opened, tmp_path.name.encode())  # OVERFLOW names the root
            assert taken[-1].how == "OVERFLOW"
            taken += await drain(opened, tmp_path.name.encode())
            assert taken[-1].how == "RESCANNED"
            (tmp_path / "late" / "z").touch()
            return taken + await drain(opened, b"z")

    taken = asyncio.run(run())
    names = {change.name for change in taken if change.how == "CREATE"}
    assert names == {b"late", b"z", *(f"{index:06}".encode() for index in range(count))}


def test_a_reader_left_behind_is_told_and_shown_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "RING_BYTES", 20_000)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "gone").touch()

    async def run() -> None:
        async with watching() as watches:
            slow = await watches.watch(Scope(str(tmp_path), True))
            other = await watches.watch(Scope(str(tmp_path), True))
            for index in range(2000):
                (tmp_path / f"{index:04}").touch()
                if index % 10 == 9:
                    await drain(other, f"{index:04}".encode())
            (tmp_path / "old" / "gone").unlink()
            await drain(other, b"gone")

            first = await slow.take(10)
            assert first == [Change("OVERFLOW", bytes(tmp_path.parent), tmp_path.name.encode())]
            (tmp_path / "old" / "new").touch()
            there = await drain(slow, tmp_path.name.encode())
            after = await drain(slow, b"new")

        assert there.pop().how == "RESCANNED"
        assert {change.how for change in there} == {"CREATE"}
        assert {change.name for change in there} == {
            *(f"{index:04}".encode() for index in range(2000)),
            *(b"old", b"new"),
        }
        assert (b"gone" in {change.name for change in after}) is False
        assert Change("CREATE", bytes(tmp_path / "old"), b"new") in after

    asyncio.run(run())


def test_watches_of_one_scope_share_a_thread_and_all_share_one_instance(tmp_path: Path) -> None:
    folders = [tmp_path / str(index) for index in range(5)]
    for folder in folders:
        folder.mkdir()

    async def run() -> None:
        # The last test's is given back by its own thread.
        until(lambda: not instances())
        async with watching() as watches:
            opened = [await watches.watch(Scope(str(tmp_path), True)) for _ in range(50)]
            threads = threading.active_count()
            opened += [await watches.watch(Scope(str(folder), True)) for folder in folders]
            assert threading.active_count() <= threads + len(folders)
            assert instances() == 1
            assert watched() == 6  # that of a folder is one for its own watch and the one above

            (folders[3] / "f").touch()
            for one in [*opened[:50], opened[53]]:
                assert (await drain(one, b"f"))[-1] == Change("CREATE", bytes(folders[3]), b"f")
            for one in opened[:50]:
                await watches.release(one)
            assert watched() == 5

            (folders[4] / "g").touch()  # what others watched as well is watched still
            assert (await drain(opened[54], b"g"))[-1].how == "CREATE"
        while instances():  # the thread gives it back
            await asyncio.sleep(0.01)

    asyncio.run(run())


def test_a_name_that_leads_elsewhere_now_is_watched_there(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to("a")

    async def run() -> None:
        async with watching() as watches:
            before = await watches.watch(Scope(str(link), False))
            link.unlink()
            link.symlink_to("b")
            after = await watches.watch(Scope(str(link), False))
            (tmp_path / "a" / "x").touch()
            (tmp_path / "b" / "y").touch()
            assert (await drain(before, b"x"))[0].name == b"x"
            assert (await drain(after, b"y"))[0].name == b"y"

    asyncio.run(run())


def test_rings_have_one_bound_together_and_the_largest_pays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "POOL_BYTES", 200_000)

    async def run() -> None:
        pool = Pool()
        small, large = Ring(pool), Ring(pool)
        for index in range(5000):
            large.tell("WRITE", b"/d", b"%d" % index)
            if index < 100:
                small.tell("WRITE", b"/d", b"%d" % index)
        small.flush()
        large.flush()
        await asyncio.sleep(0)
        assert pool.held == small.held + large.held <= 200_000
        assert (small.first, large.first > 0) == (0, True)
        pool.remove(large)
        assert pool.held == small.held > 0

    asyncio.run(run())


def test_a_watcher_that_cannot_follow_is_told_of_a_loss_not_of_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "HELD_MOST", 10)
    hub = NoticeHub()
    with hub.tapped() as tap:
        with hub.turn:
            tap.add(bytes(tmp_path), Mask.CREATE)
        taken: list[Notice] = []
        for index in range(100):
            (tmp_path / str(index)).touch()
            tap.ask(lambda: None)
            until(lambda: not tap._instance._questions)  # taken after the notices before it
        while tap._items.qsize():
            if isinstance(item := tap.take(), list):
                taken += item
    assert [notice.name for notice in taken[:11]] == [b"%d" % index for index in range(11)]
    assert [notice.mask for notice in taken[11:]] == [Mask.OVERFLOW]


def test_turns_go_round() -> None:
    turn, order = Turn(), []

    def take(name: int) -> None:
        for _ in range(200):
            with turn:
                order.append(name)

    threads = [threading.Thread(target=take, args=[name]) for name in range(3)]
    with turn:
        for thread in threads:
            thread.start()
        while len(turn._waiting) < 3:
            with turn.aside():
                pass
    for thread in threads:
        thread.join()

    assert sorted(order) == sorted([0, 1, 2] * 200)
    longest = max(len(list(run)) for run in _runs(order[:300]))
    assert longest <= 4  # a plain lock gives one of them hundreds in a row


def _runs(order: list[int]) -> Iterator[list[int]]:
    run: list[int] = []
    for one in order:
        if run and run[-1] != one:
            yield run
            run = []
        run.append(one)
    yield run


def test_a_repetition_is_told_once() -> None:
    async def run() -> list[Change]:
        ring = Ring(Pool())
        for name in (b"a", b"a", b"b", b"a"):
            ring.tell("WRITE", b"/x", name)
            ring.flush()
        await asyncio.sleep(0)
        return list(ring.block(0))

    assert [change.name for change in asyncio.run(run())] == [b"a", b"b", b"a"]


def test_closing_the_service_ends_its_watches(tmp_path: Path) -> None:
    async def run() -> None:
        async with watching() as watches:
            opened = await watches.watch(Scope(str(tmp_path), True))
            waiting = asyncio.ensure_future(opened.take(10))
            await asyncio.sleep(0)
            await watches.close()
            assert await waiting is None
            assert watches.open == 0

    asyncio.run(run())


def test_no_change_waits_for_a_reader_that_was_just_going_to_sleep(fast_switching: None) -> None:
    count = 60_000

    async def run() -> tuple[int, int]:
        ring = Ring(Pool())
        progress = 0

        def tell() -> None:
            for index in range(count):
                while index - progress > 5000:
                    continue
                ring.tell("WRITE", b"/x", b"%d" % index)
                ring.flush()
            ring.end()

        telling = asyncio.create_task(asyncio.to_thread(tell))
        number = slept = 0
        while not (ring.ended and number == ring.end_number):
            try:
                async with asyncio.timeout(30):
                    await ring.more(number)
            except TimeoutError:
                slept += 1
            if number < ring.end_number:
                progress += len(ring.block(number))
                number += 1
        await telling
        return progress, slept

    assert asyncio.run(run()) == (count, 0)


@pytest.fixture
def fast_switching() -> Iterator[None]:
    """Have threads change places as often as they can, wherever they are."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
