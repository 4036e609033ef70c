"""The pump: every byte from a pipe to its journal, whatever the disk does."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness import fill, needs_root, small_disk, until

from sandkeeper.journal.budget import Budget
from sandkeeper.journal.cursor import Chunk, Gap, Reader
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.pump import Pump
from sandkeeper.journal.segment import NOTICE, STDERR, STDOUT
from sandkeeper.journal.source import Source


class Rig:
    """A pump and one run with its two pipes; nobody else has the journal."""

    def __init__(self, folder: Path, *, run_bytes: int = 0, segment_bytes: int = 1 << 20) -> None:
        self.failures: list[str] = []
        self.news = 0
        budget = Budget(run_bytes=run_bytes, total_bytes=0)
        self.pump = Pump([folder / "stage"], budget, notify=self.told, failed=self.failures.append)
        (folder / "run").mkdir()
        self.journal = Journal(folder / "run", segment_bytes=segment_bytes)
        budget.enlist(self.journal)
        self.writers: list[int] = []
        sources = []
        for stream in (STDOUT, STDERR):
            read, write = os.pipe()
            os.set_blocking(read, False)
            self.writers.append(write)
            sources.append(Source("run", self.journal, stream, read))
        self.sources = tuple(sources)
        self.pump.start()
        self.pump.watch(*self.sources)

    def told(self) -> None:
        self.news += 1

    def drained(self) -> None:
        done = threading.Event()
        self.pump.drain(self.sources, done.set)
        assert done.wait(60)

    def close_writers(self) -> None:
        for fd in self.writers:
            os.close(fd)
        self.writers = []

    def finish(self) -> None:
        self.drained()
        self.journal.exit_offset = self.journal.tail
        self.pump.release(self.journal, self.sources)

    def texts(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with Reader(self.journal) as reader:
            offset = 0
            while batch := reader.read(offset):
                for item in batch:
                    if isinstance(item, Chunk):
                        found[item.stream] = found.get(item.stream, b"") + item.data
                offset = batch[-1].end
        return found


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close_writers()
    made.pump.stop()
    assert made.failures == []


def test_small_and_large_writes_arrive_whole_and_in_order(rig: Rig) -> None:
    sent = {STDOUT: b"", STDERR: b""}
    for size in (1, 5, 100, 8191, 8192, 50_000, 3, 65_536):
        for stream, fd in zip((STDOUT, STDERR), rig.writers, strict=True):
            data = os.urandom(size)
            os.write(fd, data)
            sent[stream] += data
    rig.drained()

    assert rig.texts() == sent


def test_a_flood_that_nobody_waits_for_is_told_of_once(rig: Rig) -> None:
    for _ in range(50):
        os.write(rig.writers[0], b"x" * 10_000)
        rig.drained()
        rig.pump.take_grown()
    assert rig.news == 1

    async def wait() -> bool:
        waiting = asyncio.ensure_future(rig.journal.changed(10, rig.journal.tail))
        await asyncio.sleep(0)
        os.write(rig.writers[0], b"y")
        rig.drained()
        for journal in rig.pump.take_grown():
            journal.wake()
        return await waiting

    assert asyncio.run(wait())
    assert rig.news == 2


def test_what_came_before_the_wait_began_ends_it(rig: Rig) -> None:
    seen = rig.journal.tail
    os.write(rig.writers[0], b"x")
    rig.drained()

    assert asyncio.run(rig.journal.changed(10, seen))


def test_the_pipe_holds_a_mebibyte_for_a_server_that_is_away(rig: Rig) -> None:
    rig.drained()

    assert os.write(rig.writers[0], b"x" * (1 << 20)) == 1 << 20


def test_the_journal_is_sealed_when_the_last_writer_goes(rig: Rig) -> None:
    os.write(rig.writers[0], b"last words")
    rig.finish()
    assert not rig.journal.sealed

    os.write(rig.writers[0], b", and a survivor's")
    rig.close_writers()

    until(lambda: rig.journal.sealed)
    assert rig.texts() == {STDOUT: b"last words, and a survivor's"}


def test_words_of_ours_stand_behind_what_was_drained_before_them(rig: Rig) -> None:
    os.write(rig.writers[0], b"first ")
    rig.drained()
    rig.pump.append(rig.journal, NOTICE, b"[notice]")
    os.write(rig.writers[0], b"second")
    rig.drained()

    # The pump may see the second write before it takes our order: then it stands right behind the
    # first, as one chunk with it.
    with Reader(rig.journal) as reader:
        chunks = [item for item in reader.read(0) if isinstance(item, Chunk)]
    said = b"".join(chunk.data for chunk in chunks)
    assert said in (b"first [notice]second", b"first second[notice]")
    assert [chunk.data for chunk in chunks if chunk.stream == NOTICE] == [b"[notice]"]
    assert rig.texts()[STDOUT] == b"first second"


def test_old_segments_go_when_a_run_is_over_its_bound(tmp_path: Path) -> None:
    rig = Rig(tmp_path, run_bytes=64 << 10, segment_bytes=16 << 10)
    for _ in range(40):
        os.write(rig.writers[0], b"y" * 10_000)
        rig.drained()

    assert rig.journal.totals[STDOUT] == 400_000
    assert rig.journal.kept <= 64 << 10
    with Reader(rig.journal) as reader:
        gap = reader.read(0)[0]
    assert gap == Gap(0, rig.journal.first, "retention")
    rig.close_writers()
    rig.pump.stop()
    assert rig.failures == []


@needs_root
def test_a_full_disk_costs_old_output_and_never_holds_up_the_child(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        rig = Rig(disk, segment_bytes=256 << 10)
        for _ in range(10 << 4):
            os.write(rig.writers[0], b"z" * (64 << 10))
            rig.drained()

        assert rig.journal.totals[STDOUT] == 10 << 20
        assert rig.journal.lost > 0
        assert 0 < rig.journal.kept < 4 << 20
        rig.close_writers()
        rig.pump.stop()
        assert rig.failures == []


@needs_root
def test_a_disk_without_any_room_left_makes_gaps_and_recovers(tmp_path: Path) -> None:
    """All the while as many descriptors are held as the files take."""

    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    with small_disk(tmp_path / "disk", 3) as disk:
        rig = Rig(disk, segment_bytes=1 << 20)
        rig.drained()
        before = held()
        fill(disk / "ballast")
        os.write(rig.writers[0], b"lost" * 1000)
        rig.drained()
        assert held() == before
        (disk / "ballast").unlink()
        os.write(rig.writers[0], b"kept")
        rig.drained()
        assert held() == before

        with Reader(rig.journal) as reader:
            gap, chunk = reader.read(0)[0], reader.read(4000)[0]
        assert isinstance(gap, Gap)
        assert (gap.start, gap.end) == (0, 4000)
        assert isinstance(chunk, Chunk)
        assert chunk.data == b"kept"
        assert rig.journal.lost == 4000
        rig.finish()
        rig.close_writers()
        until(lambda: rig.journal.sealed)
        assert held() == before - 6
        rig.pump.stop()


def test_after_a_settled_moment_nothing_is_recorded_before_it(rig: Rig) -> None:
    """However the clock stands: a live reader that acted on the time is right in every replay."""
    os.write(rig.writers[1], b"held\n")
    rig.drained()
    with Reader(rig.journal) as reader:
        (held,) = reader.read(0)
    assert isinstance(held, Chunk)
    moment = held.time + 3_600_000_000
    tails: list[int] = []
    done = threading.Event()
    rig.pump.settle(rig.journal, moment, lambda tail: (tails.append(tail), done.set()))
    assert done.wait(60)
    os.write(rig.writers[1], b"later\n")
    rig.drained()

    with Reader(rig.journal) as reader:
        before, after = reader.read(0)
    assert tails == [5]
    assert isinstance(before, Chunk)
    assert isinstance(after, Chunk)
    assert before.time == held.time
    assert after.time >= moment
