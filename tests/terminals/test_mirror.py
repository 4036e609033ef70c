"""Screens of all terminals: together they have a bound, and none is worse for it."""

import asyncio
from pathlib import Path

import pytest

from sandkeeper.journal.journal import Journal
from sandkeeper.journal.segment import STDOUT
from sandkeeper.terminals import mirror
from sandkeeper.terminals.mirror import Mirror
from sandkeeper.terminals.render import redraw

SIZE = (80, 24)


def test_screens_that_nobody_asks_for_are_let_go_of_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "ALL_CELLS", 20_000)
    journals = []
    for number in range(6):
        (tmp_path / str(number)).mkdir()
        journals.append(Journal(tmp_path / str(number)))
        journals[-1].append(STDOUT, b"".join(b"%d: %070d\r\n" % (number, at) for at in range(100)))
    screens = [Mirror(journal, *SIZE) for journal in journals]

    async def shown(one: Mirror) -> str:
        return redraw((await one.screen(1 << 20, SIZE)).screen, 1 << 20)

    async def run() -> None:
        first = [await shown(one) for one in screens]
        held = [one.emulator.screen.cells for one in screens if one.emulator is not None]
        assert 0 < sum(held) <= 20_000
        assert not screens[0].begun
        assert screens[-1].begun
        for journal in journals:
            journal.append(STDOUT, b"more")
        again = [await shown(one) for one in screens]
        assert ["more" in text for text in again] == [True] * 6
        for before, after in zip(first, again, strict=True):
            assert before.splitlines()[:90] == after.splitlines()[:90]

    asyncio.run(run())
    for journal in journals:
        journal.close()


def test_a_screen_larger_than_all_may_be_is_shown_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "ALL_CELLS", 10)
    journal = Journal(tmp_path)
    journal.append(STDOUT, b"text " * 30)

    async def run() -> None:
        one = Mirror(journal, *SIZE)
        assert "text" in (await one.replay(1 << 20, SIZE))[0]
        assert one.begun

    asyncio.run(run())
    journal.close()
