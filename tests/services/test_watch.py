"""A watch whose reader does not read: everything is bounded, and nothing is lost silently."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandkeeper.services import watch, watching
from sandkeeper.services.watch import Change, Watch, Watches
from sandkeeper.services.watching import Scope


async def drain(opened: Watch, last: bytes) -> list[Change]:
    taken: list[Change] = []
    while not taken or taken[-1].name != last:
        taken += await opened.take(10) or []
    return taken


def test_what_the_kernel_had_to_drop_is_told_and_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "QUEUED", 100)
    monkeypatch.setattr(watching, "BACKLOG_BYTES", 1000)
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    # One read takes READ_BYTES at most: 32 bytes for each of these names.
    count = queue + 256 * 1024 // 32 + 3000

    async def run() -> list[Change]:
        opened = Watch(Scope(str(tmp_path), True), None)
        await opened.start()
        try:
            for index in range(count):
                os.mknod(f"{tmp_path}/{index:06}")
            (tmp_path / "late").mkdir()
            taken = await drain(opened, tmp_path.name.encode())  # OVERFLOW names the root
            assert taken[-1].how == "OVERFLOW"
            taken += await drain(opened, tmp_path.name.encode())
            assert taken[-1].how == "RESCANNED"
            (tmp_path / "late" / "z").touch()
            return taken + await drain(opened, b"z")
        finally:
            await opened.close()

    taken = asyncio.run(run())
    names = {change.name for change in taken if change.how == "CREATE"}
    assert names == {b"late", b"z", *(f"{index:06}".encode() for index in range(count))}


def test_a_repetition_is_told_once(tmp_path: Path) -> None:
    async def run() -> list[Change]:
        opened = Watch(Scope(str(tmp_path), False), None)
        await opened.start()
        for name in (b"a", b"a", b"b", b"a"):
            opened.tell("WRITE", b"/x", name)
        taken = await opened.take(10)
        await opened.close()
        return taken or []

    assert [change.name for change in asyncio.run(run())] == [b"a", b"b", b"a"]


def test_closing_the_service_ends_its_watches(tmp_path: Path) -> None:
    async def run() -> None:
        watches = Watches(lambda: None)
        opened = await watches.watch(Scope(str(tmp_path), True))
        waiting = asyncio.ensure_future(opened.take(10))
        await asyncio.sleep(0)
        await watches.close()
        assert await waiting is None
        assert watches.open == 0

    asyncio.run(run())


def test_no_change_waits_for_a_reader_that_was_just_going_to_sleep(
    tmp_path: Path, fast_switching: None
) -> None:
    count = 60_000

    async def run() -> tuple[int, int]:
        opened = Watch(Scope(str(tmp_path), False), None)
        await opened.start()

        def tell() -> None:
            for index in range(count):
                while opened.full:
                    continue
                opened.tell("WRITE", b"/x", b"%d" % index)

        telling = asyncio.create_task(asyncio.to_thread(tell))
        taken = slept = 0
        while taken < count:
            changes = await opened.take(5)
            taken += len(changes or [])
            slept += not changes
        await telling
        await opened.close()
        return taken, slept

    assert asyncio.run(run()) == (count, 0)


@pytest.fixture
def fast_switching() -> Iterator[None]:
    """Have threads change places as often as they can, wherever they are."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
