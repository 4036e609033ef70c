"""The sink: lines to a target that may be slow, full or gone."""

import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.harness import fill, needs_root, small_disk, until

from sandkeeper.log.sink import Sink, open_target


def dropped(count: int) -> bytes:
    return json.dumps({"dropped": count}).encode() + b"\n"


@needs_root
def test_a_full_disk_costs_lines_and_never_the_log(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 1) as disk:
        log = disk / "log"
        blocks = [b"pulled\n"]
        acknowledged: list[bytes] = []
        sink = Sink(open_target(str(log)), dropped_line=dropped, queue_bytes=100)
        sink.pull = lambda: (
            (blocks[0], lambda: acknowledged.append(blocks.pop())) if blocks else None
        )
        sink.submit(b"first\n")
        sink.start()
        until(lambda: acknowledged)
        fill(disk / "filler")
        with open(log, "ab") as file:
            file.truncate(4096)  # so that the next byte needs a block
        sink.submit(b"waits\n")
        until(lambda: sink.statistics()["queuedBytes"] == 0)
        for _ in range(50):
            sink.submit(b"is one of many\n")
        assert sink.alive
        os.truncate(disk / "filler", 0)
        until(lambda: b"dropped" in log.read_bytes())
        sink.close()

        lines = log.read_bytes().replace(b"\0", b"").splitlines()
        assert lines[:3] == [b"first", b"pulled", b"waits"]
        assert json.loads(lines[-1])["dropped"] + lines.count(b"is one of many") == 50


def test_a_reader_that_went_away_ends_the_writing_and_nothing_else() -> None:
    read, write = os.pipe()
    sink = Sink(write, dropped_line=dropped)
    sink.start()
    os.close(read)
    sink.submit(b"to nobody\n")

    until(lambda: not sink.alive)
    sink.submit(b"nor this\n")
    sink.close()
    os.close(write)


def test_blocks_take_a_third_of_the_time_while_requests_are_served() -> None:
    taken = 0.0
    acknowledged: list[float] = []

    def pull() -> tuple[bytes, Callable[[], None]] | None:
        nonlocal taken
        if len(acknowledged) == 20:
            return None
        began = time.monotonic()
        while time.monotonic() - began < 0.001:
            pass
        taken += 0.001
        return b"block\n", lambda: acknowledged.append(time.monotonic())

    sink = Sink(os.open("/dev/null", os.O_WRONLY), dropped_line=dropped, pull=pull)
    sink.asked = itertools.count().__next__
    began = time.monotonic()
    sink.start()
    until(lambda: len(acknowledged) == 20)
    sink.close()

    assert acknowledged[-1] - began >= 0.9 * (taken + 2 * 0.001 * 19)


def test_a_line_is_made_by_the_writing_thread_and_one_that_cannot_be_made_is_told(
    tmp_path: Path,
) -> None:
    log, makers = tmp_path / "log", []

    def make() -> bytes:
        makers.append(threading.current_thread().name)
        return b"made\n"

    def fail() -> bytes:
        raise ValueError("cannot be made")

    sink = Sink(open_target(str(log)), dropped_line=dropped)
    for line in (b"before\n", make, fail, b"behind\n"):
        sink.put(line, 10)
    sink.start()
    until(lambda: b"behind" in log.read_bytes())
    sink.submit(b"last\n")
    until(lambda: b"last" in log.read_bytes())
    sink.close()

    lines = log.read_bytes().splitlines()
    assert lines[:3] == [b"before", b"made", b"behind"]
    assert {b"last", b'{"dropped": 1}'} == set(lines[3:])
    assert makers == ["sink"]


def test_lines_that_are_still_to_be_made_count_as_well(tmp_path: Path) -> None:
    log = tmp_path / "log"
    sink = Sink(open_target(str(log)), dropped_line=dropped, queue_bytes=100)
    for _ in range(5):
        sink.put(lambda: b"made\n", 30)
    assert sink.statistics() == {"queuedBytes": 90, "droppedLines": 2, "writtenBytes": 0}
    sink.start()
    sink.close()

    assert log.read_bytes() == b"made\n" * 3 + b'{"dropped": 2}\n'
