"""The terminals' pump: a flood is held to a rate while somebody types elsewhere, and only then."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest
from tests.harness import until

from sandkeeper.journal.budget import Budget
from sandkeeper.journal.journal import Journal
from sandkeeper.terminals import pump as terminal_pump
from sandkeeper.terminals.pump import ROUND_BYTES, WINDOW_BYTES, WINDOW_SECONDS, Line, TerminalPump


@pytest.fixture
def flood(tmp_path: Path) -> Iterator[tuple[TerminalPump, Line]]:
    """A pump that carries a terminal in which `yes` runs."""
    with ExitStack() as stack:
        master, slave = os.openpty()
        stack.callback(os.close, master)
        os.set_blocking(master, False)
        program = subprocess.Popen(["yes"], stdout=slave)
        os.close(slave)
        stack.callback(program.wait)
        stack.callback(program.kill)
        pump = TerminalPump(
            Budget(run_bytes=1 << 22, total_bytes=0), notify=lambda: None, failed=print
        )
        line = Line(master, Journal(tmp_path))
        pump.start()
        stack.callback(pump.stop)
        pump.watch(line)
        until(lambda: line.journal.tail)
        yield pump, line


def test_a_flood_is_held_while_somebody_types_elsewhere_and_goes_on_afterwards(
    tmp_path: Path, flood: tuple[TerminalPump, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    pump, line = flood
    monkeypatch.setattr(terminal_pump, "TYPING_SECONDS", 60.0)  # however busy the machine is
    other = Line(-1, Journal(tmp_path / "other"))
    pump.typed(other)
    began, before = monotonic(), line.journal.tail

    while monotonic() < began + 0.5 or line.journal.tail == before:
        pump.typed(other)
    moved = line.journal.tail - before
    windows = (monotonic() - began) / WINDOW_SECONDS + 2

    assert 0 < moved <= windows * (WINDOW_BYTES + ROUND_BYTES)
    monkeypatch.undo()
    reached = line.journal.tail
    until(lambda: line.journal.tail > reached + (8 << 20))


def test_who_types_into_the_flood_itself_does_not_slow_it(
    flood: tuple[TerminalPump, Line],
) -> None:
    pump, line = flood

    def typing() -> bool:
        pump.typed(line)
        return line.journal.tail > 8 << 20

    until(typing)
    assert line.moved == 0
