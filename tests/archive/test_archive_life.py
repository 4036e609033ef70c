"""One export or restore from its order to its end, and the freeze: a sandbox without a server."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.storage import Storage, storage

from sandkeeper.archive.freeze import EXPORT, INTERRUPTED, Freeze
from sandkeeper.archive.job import Clock, Exporting, Job, Restored, Stopped
from sandkeeper.archive.service import Archive
from sandkeeper.errors import Conflict, Internal, NotFound, Unavailable
from sandkeeper.sandbox import Sandbox
from sandkeeper.settings import Environment, Settings

SECONDS = 60.0


@pytest.fixture
def store() -> Iterator[Storage]:
    with storage() as made:
        yield made


@contextlib.asynccontextmanager
async def archiving(folder: Path, **more: str) -> AsyncIterator[Archive]:
    """Start the archive of a sandbox whose machine is `folder/root`."""
    for name in ("root", "work", "state"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    variables = {
        **os.environ,
        "SANDKEEPER_STATE_DIR": str(folder / "state"),
        "SANDKEEPER_LOG": str(folder / "log"),
        "WORKDIR": str(folder / "work"),
        "XDG_RUNTIME_DIR": str(folder),
        "SANDKEEPER_ARCHIVE_ROOT": str(folder / "root"),
        "SANDKEEPER_ARCHIVE_RETRIES": "0",
        **more,
    }
    sandbox = Sandbox(Settings.read(variables), Environment(), variables=variables)
    sandbox._sink.start()
    try:
        await sandbox.archive.start()
        yield sandbox.archive
    finally:
        await sandbox.archive.stop()
        await sandbox.children.close()
        sandbox.file_work.close()
        sandbox._writer.shutdown()
        sandbox._sink.close()


def within(
    folder: Path, scene: Callable[[Archive], Coroutine[Any, Any, None]], **more: str
) -> None:
    async def play() -> None:
        async with asyncio.timeout(SECONDS), archiving(folder, **more) as archive:
            await scene(archive)

    asyncio.run(play())


async def arrived(store: Storage) -> None:
    assert await asyncio.to_thread(store.arrived.wait, 50)


def state(archive: Archive) -> tuple[str, str, bool]:
    """Return how the last export stands, how the sandbox does, and whether something runs."""
    exporting = archive.exporting
    return (exporting.state if exporting else "", archive.freeze.state, archive.busy)


# Exports


def test_a_dry_run_stops_nothing_and_sends_nothing(tmp_path: Path) -> None:
    async def scene(archive: Archive) -> None:
        (tmp_path / "root/new").write_text("12345")
        done = await archive.export(Job(dry_run=True))

        assert (done.uploaded, done.manifest.added, done.stopped) == (False, 1, [])
        assert done.packed is not None
        done.packed.close()
        assert state(archive) == ("succeeded", "active", False)
        assert not (tmp_path / "state/archive/freeze.json").exists()

    within(tmp_path, scene)


def test_a_stored_export_freezes_until_it_is_resumed(tmp_path: Path, store: Storage) -> None:
    async def scene(archive: Archive) -> None:
        done = await archive.export(Job(url=store.url("a")))

        assert done.uploaded
        assert len(store.kept["a"]) == done.size > 0
        assert state(archive) == ("succeeded", "quiesced", False)
        with pytest.raises(Unavailable, match="quiesced"):
            archive.freeze.check()
        assert json.loads((tmp_path / "state/archive/freeze.json").read_text())["done"] is True
        await archive.resume()
        archive.freeze.check()
        assert state(archive) == ("succeeded", "active", False)
        assert not (tmp_path / "state/archive/freeze.json").exists()

    within(tmp_path, scene)


def test_one_thing_at_a_time(tmp_path: Path, store: Storage) -> None:
    store.hold = threading.Event()

    async def scene(archive: Archive) -> None:
        assert store.hold is not None
        task = await archive.begin(Job(url=store.url("a")))
        await arrived(store)

        assert state(archive) == ("running", "quiesced", True)
        for another in (archive.begin(Job(dry_run=True)), archive.resume()):
            with pytest.raises(Conflict, match="is running"):
                await another
        store.hold.set()
        assert (await task).uploaded
        assert state(archive) == ("succeeded", "quiesced", False)

    within(tmp_path, scene)


def test_a_failure_lifts_the_freeze_and_another_export_may_come(
    tmp_path: Path, store: Storage
) -> None:
    store.fault = lambda _method, path, _attempt: 403 if path == "/bad" else None

    async def scene(archive: Archive) -> None:
        with pytest.raises(Internal):
            await archive.export(Job(url=store.url("bad")))

        assert state(archive) == ("failed", "active", False)
        assert archive.exporting is not None
        assert archive.exporting.error
        assert "s3cr3t" not in archive.exporting.error
        assert (await archive.export(Job(url=store.url("good")))).uploaded
        assert state(archive) == ("succeeded", "quiesced", False)

    within(tmp_path, scene)


@pytest.mark.parametrize(
    ("place", "why"), [("store", "nothing to compare"), ("http://127.0.0.1:1/x", "be reached")]
)
def test_what_can_be_told_before_anything_is_stopped_stops_nothing(
    tmp_path: Path, store: Storage, place: str, why: str
) -> None:
    async def scene(archive: Archive) -> None:
        with pytest.raises(Internal, match=why):
            await archive.begin(Job(url=store.url("a") if place == "store" else place))

        assert state(archive) == ("failed", "active", False)

    within(tmp_path, scene, SANDKEEPER_ARCHIVE_BASELINE="required")


def test_a_server_that_is_about_to_be_replaced_begins_nothing(tmp_path: Path) -> None:
    async def scene(archive: Archive) -> None:
        archive._leaving = lambda: True
        with pytest.raises(Unavailable, match="being replaced"):
            await archive.begin(Job(dry_run=True))

        assert state(archive) == ("", "active", False)

    within(tmp_path, scene)


def test_the_end_of_the_server_ends_an_export_and_is_told(tmp_path: Path, store: Storage) -> None:
    store.hold = threading.Event()

    async def scene(archive: Archive) -> None:
        assert store.hold is not None
        task = await archive.begin(Job(url=store.url("a")))
        await arrived(store)
        await archive.stop()
        store.hold.set()

        assert task.done()
        assert archive.exporting is not None
        assert archive.exporting.error == "the server is stopping"
        assert state(archive) == ("failed", "active", False)

    within(tmp_path, scene)


# What an earlier server left


def left(folder: Path, **changes: Any) -> None:
    """Have a record of a freeze lie there as a killed server leaves it."""

    async def freeze() -> None:
        made = Freeze(str(folder / "root"), folder / "state")
        made.enter("quiescing", EXPORT)
        made.stopped = ["a"]
        await made.save(done=False)

    (folder / "state").mkdir(mode=0o700)
    asyncio.run(freeze())
    path = folder / "state/archive/freeze.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "exporting", "frozen", "said"),
    [
        ({"done": True}, "", "quiesced", "still frozen"),
        ({"done": False}, "failed", "active", INTERRUPTED),
        ({"done": False, "reason": "archive restore"}, "", "active", "had failed half-way"),
        ({"done": True, "boot": "another"}, "", "active", "was started again"),
        ({"done": "perhaps"}, "", "active", "is ignored"),
        ({"since": -1e30}, "", "active", "is ignored"),
    ],
)
def test_the_next_server_takes_up_what_was_left(
    tmp_path: Path, changes: dict[str, Any], exporting: str, frozen: str, said: str
) -> None:
    left(tmp_path, **changes)

    async def scene(archive: Archive) -> None:
        assert state(archive) == (exporting, frozen, False)
        assert archive.freeze.stopped == (["a"] if frozen == "quiesced" else [])

    within(tmp_path, scene)
    assert said in (tmp_path / "log").read_text()


# Restores


@pytest.mark.parametrize("answer", [403, b"no archive at all"])
def test_a_restore_that_changed_nothing_leaves_the_sandbox_active(
    tmp_path: Path, store: Storage, answer: Any
) -> None:
    if isinstance(answer, bytes):
        store.kept["a"] = answer
    else:
        store.fault = lambda *_: answer

    async def scene(archive: Archive) -> None:
        restoring = archive.restoring
        assert restoring is not None
        assert archive.busy
        while not restoring.finished_at:
            await asyncio.sleep(0.01)

        assert (restoring.state, restoring.written) == ("failed", False)
        assert restoring.error
        assert (archive.freeze.state, archive.busy) == ("active", False)

    within(tmp_path, scene, BL_ARCHIVE_IMPORT_URL=store.url("a"))


def test_a_restore_makes_the_machine_what_the_archive_says_once(
    tmp_path: Path, store: Storage
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()

    async def export(archive: Archive) -> None:
        (first / "root/new").write_text("12345")
        await archive.export(Job(url=store.url("a")))

    async def restored(archive: Archive) -> None:
        restoring = archive.restoring
        assert restoring is not None
        while not restoring.finished_at:
            await asyncio.sleep(0.01)
        assert (restoring.state, restoring.error, restoring.written) == ("succeeded", "", True)
        assert (archive.freeze.state, archive.busy) == ("active", False)
        assert (second / "root/new").read_text() == "12345"

    async def again(archive: Archive) -> None:
        assert (archive.restoring, archive.freeze.state) == (None, "active")

    within(first, export)
    within(second, restored, BL_ARCHIVE_IMPORT_URL=store.url("a"))
    within(second, again, BL_ARCHIVE_IMPORT_URL=store.url("a"))


# Words and the clock


def test_an_end_is_a_success_only_without_an_error() -> None:
    for made in (Exporting(), Restored()):
        assert made.finished_at == ""
        made.end()
        assert (made.state, made.error) == ("succeeded", "")
        made.end("why")
        assert (made.state, made.error) == ("failed", "why")
        assert made.finished_at


def test_a_clock_ends_a_transfer_when_its_time_is_over_or_the_server_stops() -> None:
    clock = Clock()
    clock.check()
    clock.pause(0.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(clock.pause, 3000.0)
        clock.stop()
        assert isinstance(waiting.exception(50), Stopped)
    with pytest.raises(Stopped):
        clock.check()
    with pytest.raises(Internal, match="more than an hour"):
        Clock(-1.0).pause(3600.0)


# The freeze


def test_whoever_was_let_in_is_waited_for_and_then_sent_away(tmp_path: Path) -> None:
    async def play() -> None:
        freeze = Freeze(str(tmp_path), tmp_path)
        inside, go = asyncio.Event(), asyncio.Event()

        async def write() -> None:
            with freeze.writing():
                inside.set()
                await go.wait()

        quick = asyncio.ensure_future(write())
        await inside.wait()
        freeze.enter("quiescing", EXPORT)
        assert not await freeze.settled(0.0)
        with pytest.raises(Unavailable, match="quiescing"), freeze.writing():
            pass
        go.set()
        assert await freeze.settled(50)
        await quick

        freeze.forget()
        go.clear()
        slow = asyncio.ensure_future(write())
        await asyncio.sleep(0)
        freeze.enter("quiescing", EXPORT)
        freeze.expel()
        assert await freeze.settled(50)
        with pytest.raises(Unavailable, match="too late"):
            await slow

        freeze.forget()
        loop = asyncio.get_running_loop()
        works = [loop.create_future() for _ in range(3)]
        done, failed, late = [freeze.counted(work) for work in works]
        works[0].set_result("written")
        works[1].set_exception(NotFound("gone"))
        assert await done == "written"
        with pytest.raises(NotFound):
            await failed
        freeze.enter("quiescing", EXPORT)
        assert not await freeze.settled(0.0)
        freeze.expel()
        assert await freeze.settled(50)
        with pytest.raises(Unavailable, match="too late"):
            await late
        works[2].set_exception(NotFound("gone"))  # what a thread comes to then is nobody's

    asyncio.run(play())
