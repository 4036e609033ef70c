"""The journal against a plain byte array: whatever is written, dropped and lost."""

import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.harness import cases

from sandkeeper.journal.budget import Budget
from sandkeeper.journal.cursor import Chunk, Gap, Reader, tails
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import STDERR, STDOUT, put_back
from sandkeeper.journal.stage import Stage


def read_all(journal: Journal, offset: int = 0, limit: int = 1 << 17) -> list[Chunk | Gap]:
    found: list[Chunk | Gap] = []
    with Reader(journal) as reader:
        while batch := reader.read(offset, limit):
            found += batch
            offset = batch[-1].end
    return found


class JournalMachine(RuleBasedStateMachine):
    """Writes to a journal and to a model, and compares what readers see."""

    @initialize(segment_bytes=st.sampled_from([4096, 5000, 1 << 16]))
    def begin(self, segment_bytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.now = 1_000_000_000
        self.segment_bytes = segment_bytes
        self.journal = Journal(self.folder, segment_bytes=segment_bytes, clock=lambda: self.now)
        self.model: list[tuple[int, int | None]] = []  # (stream, byte; None: never stored)

    @rule(stream=st.sampled_from([STDOUT, STDERR]), data=st.binary(max_size=3000))
    def write(self, stream: int, data: bytes) -> None:
        self.now += 700_000
        self.journal.append(stream, data)
        self.model += [(stream, byte) for byte in data]

    @rule(stream=st.sampled_from([STDOUT, STDERR]), count=st.integers(1, 500))
    def lose(self, stream: int, count: int) -> None:
        self.journal.skip(stream, count)
        self.model += [(stream, None)] * count

    @rule()
    def drop(self) -> None:
        self.journal.drop_oldest()

    @rule()
    def restart_the_server(self) -> None:
        lost_tail = self.journal.tail
        self.journal.close()
        recovered = Journal.recover(self.folder, segment_bytes=self.segment_bytes)
        recovered._clock = self.journal._clock
        # Bytes that were lost behind the last stored one are unknown to the disk.
        del self.model[recovered.tail :]
        assert recovered.tail <= lost_tail
        self.journal = recovered

    @invariant()
    def readers_see_what_was_written_or_are_told_of_a_gap(self) -> None:
        if not hasattr(self, "journal"):
            return
        journal, model = self.journal, self.model
        position = 0
        for item in read_all(journal, limit=777):
            assert (item.offset if isinstance(item, Chunk) else item.start) == position
            if isinstance(item, Chunk):
                want = model[position : item.end]
                assert [(item.stream, byte) for byte in item.data] == want
            elif item.start >= journal.first:
                assert all(byte is None for _, byte in model[item.start : item.end])
            position = item.end
        assert position == journal.tail == len(model)

    @invariant()
    def counts_are_right(self) -> None:
        if not hasattr(self, "journal"):
            return
        journal = self.journal
        for stream in (STDOUT, STDERR):
            assert journal.totals[stream] == sum(owner == stream for owner, _ in self.model)
        stored = sum(path.stat().st_size for path in self.folder.glob("*.seg"))
        assert journal.kept == stored
        assert journal.lost == journal.tail - stored

    @invariant()
    def tails_are_the_last_bytes_of_each_stream(self) -> None:
        if not hasattr(self, "journal"):
            return
        first = self.journal.first
        for limit in (10, 1000, 1 << 20):
            found = tails(self.journal, (STDOUT, STDERR), limit)
            for stream in (STDOUT, STDERR):
                kept = bytes(
                    byte
                    for owner, byte in self.model[first:]
                    if owner == stream and byte is not None
                )
                pieces, clipped = found[stream]
                got = b"".join(data for _, data in pieces)
                assert got == kept[len(kept) - min(limit, len(kept)) :]
                assert clipped == (len(got) < self.journal.totals[stream])

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            shutil.rmtree(self.folder)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=cases(40), stateful_step_count=25, deadline=None)


def test_a_reader_at_any_offset_gets_the_same_bytes(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=4096)
    text = b"".join(b"%06d\n" % n for n in range(3000))
    journal.append(STDOUT, text)

    with Reader(journal) as reader:
        for offset in range(0, len(text), 997):
            chunk = reader.read(offset, 500)[0]
            assert isinstance(chunk, Chunk)
            assert chunk.data == text[offset : offset + len(chunk.data)]
    journal.close()


def test_files_that_somebody_removed_are_one_gap_each(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=4096)
    for letter in b"abc":
        journal.append(STDOUT, bytes([letter]) * 5000)
    journal.segments[1].data_path.unlink()
    journal.segments[2].data_path.unlink()

    found = read_all(journal, limit=1 << 20)

    assert isinstance(found[0], Chunk)
    assert found[1:] == [Gap(5000, 10000, "storage"), Gap(10000, 15000, "storage")]
    journal.close()


def test_a_time_finds_the_first_byte_that_arrived_then(tmp_path: Path) -> None:
    now = [0]
    journal = Journal(tmp_path, clock=lambda: now[0])
    for second in range(1, 6):
        now[0] = second * 10**9
        journal.append(STDOUT, b"x" * second)

    with Reader(journal) as reader:
        assert reader.offset_at(0) == 0
        assert reader.offset_at(3_000_000) == 1 + 2
        assert reader.offset_at(3_000_001) == 1 + 2 + 3
        assert reader.offset_at(9_000_000) == journal.tail
    journal.close()


def test_a_clock_that_runs_backwards_does_not_disturb_the_search(tmp_path: Path) -> None:
    times = iter([5_000_000_000, 1_000_000_000, 9_000_000_000])
    journal = Journal(tmp_path, clock=lambda: next(times))
    for stream in (STDOUT, STDERR, STDOUT):
        journal.append(stream, b"x")

    found = [item.time for item in read_all(journal) if isinstance(item, Chunk)]
    assert found == sorted(found)
    journal.close()


def test_the_run_that_keeps_the_most_pays_when_all_are_over_the_budget(tmp_path: Path) -> None:
    budget = Budget(run_bytes=0, total_bytes=64 << 10)
    journals = []
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        journals.append(Journal(tmp_path / name, segment_bytes=4096))
        budget.enlist(journals[-1])
    small, large = journals
    small.append(STDOUT, b"s" * 8000)
    budget.grown(small)
    for _ in range(200):
        large.append(STDOUT, b"l" * 1000)
        budget.grown(large)

    assert small.first == 0
    assert large.first > 0
    assert budget.total <= 64 << 10
    assert large.kept + small.kept == budget.total
    for journal in journals:
        journal.close()


def test_staged_bytes_of_a_killed_server_reach_their_journal(tmp_path: Path) -> None:
    runs = tmp_path / "run"
    runs.mkdir()
    journal = Journal(runs)
    journal.append(STDOUT, b"before ")
    stage = Stage(tmp_path / "stage")
    read, write = os.pipe()
    os.write(write, b"held in the stage only")
    journal.reserve(STDERR)
    stage.read(read, 22, "run", journal.tail)  # and here the server is killed

    staged = Stage.recover(tmp_path / "stage")

    assert staged == ("run", 7, b"held in the stage only")
    put_back(runs, staged[1], staged[2])
    recovered = Journal.recover(runs)
    whole = [(item.stream, item.data) for item in read_all(recovered) if isinstance(item, Chunk)]
    assert whole == [(STDOUT, b"before "), (STDERR, b"held in the stage only")]
    for fd in (read, write):
        os.close(fd)
    journal.close()
    stage.close()


def test_a_stage_goes_where_there_is_room_and_leaves_nothing_behind(tmp_path: Path) -> None:
    usable, unusable = tmp_path / "second", tmp_path / "missing" / "first"
    stage = Stage(unusable, usable)
    assert usable.stat().st_blocks * 512 >= 1 << 20
    stage.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        Stage(unusable, unusable)


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_read_that_never_was_or_is_stored_is_not_restored(
    tmp_path: Path, acknowledged: bool
) -> None:
    stage = Stage(tmp_path / "stage")
    read, write = os.pipe()
    os.set_blocking(read, False)
    if acknowledged:
        os.write(write, b"x" * 100)
        stage.read(read, 100, "run", 0)
        stage.done()
    else:
        with pytest.raises(BlockingIOError):
            stage.read(read, 100, "run", 0)

    assert Stage.recover(tmp_path / "stage") is None
    for fd in (read, write):
        os.close(fd)
    stage.close()


def test_what_is_written_while_tails_are_read_is_not_missing_at_their_beginning(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path, segment_bytes=1 << 16)
    journal.append(STDOUT, b"line\n")
    writer = threading.Thread(
        target=lambda: [journal.append(STDOUT, b"line\n") for _ in range(4000)]
    )
    writer.start()
    clipped = set()
    while writer.is_alive():
        clipped.add(tails(journal, (STDOUT,), 1 << 20)[STDOUT][1])
    writer.join()
    clipped.add(tails(journal, (STDOUT,), 1 << 20)[STDOUT][1])
    journal.close()

    assert clipped == {False}
