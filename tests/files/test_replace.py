"""Replacing files as a whole, the journal of temporaries, globs, removal."""

import os
import threading
from pathlib import Path

import pytest

from sandkeeper.files.changing.pathlocks import PathLocks
from sandkeeper.files.changing.removal import remove_tree
from sandkeeper.files.changing.renaming import exclusive_rename
from sandkeeper.files.changing.replace import Draft, survey
from sandkeeper.files.changing.temporaries import Temporaries, remove_temporary
from sandkeeper.files.paths import is_temporary, temporary_name


def test_a_new_journal_removes_what_an_old_one_had_in_flight(tmp_path: Path) -> None:
    first = Temporaries(tmp_path / "journal")
    first.open()
    names = [temporary_name(replacing=False) for _ in range(3)]
    slots = [first.enter(str(tmp_path / name)) for name in names]
    (tmp_path / names[0]).write_text("half")
    (tmp_path / names[1] / "deep").mkdir(parents=True)
    first.leave(slots[2])
    (tmp_path / names[2]).write_text("its slot was freed: somebody else's by now")
    stranger = first.enter(str(tmp_path / "precious"))
    (tmp_path / "precious").write_text("not ours")
    assert (stranger, first.in_flight) == (slots[2], 3)
    first.close()

    second = Temporaries(tmp_path / "journal")
    assert len(second.open()) == 2
    second.close()

    assert sorted(os.listdir(tmp_path)) == sorted(["journal", "precious", names[2]])
    assert (tmp_path / "journal").stat().st_size == 0


def test_a_draft_replaces_only_on_commit_and_its_name_says_what_it_does(tmp_path: Path) -> None:
    journal = Temporaries(tmp_path / "journal")
    journal.open()
    (tmp_path / "data").mkdir()
    target = tmp_path / "data/f"
    target.write_text("old")
    draft = Draft(survey(str(target)), 0o644, journal, PathLocks())
    draft.write(b"new")
    (temporary,) = (name for name in os.listdir(target.parent) if name != "f")

    assert is_temporary(temporary)
    assert temporary.startswith(".sandkeeper-tmp-r-")
    assert target.read_text() == "old"
    draft.seal()
    info = draft.commit()
    assert (target.read_text(), info.st_size, journal.in_flight) == ("new", 3, 0)
    other = Draft(survey(str(target)), 0o644, journal, PathLocks())
    other.discard()
    other.discard()
    assert os.listdir(target.parent) == ["f"]
    journal.close()


def test_a_path_is_held_by_one_at_a_time_and_pairs_never_lock_each_other_out() -> None:
    locks = PathLocks()
    inside: list[str] = []

    def work(first: str, second: str) -> None:
        for _ in range(300):
            with locks.hold(first, second):
                inside.append(first)
                assert len(inside) == 1
                inside.pop()

    threads = [threading.Thread(target=work, args=pair) for pair in [("a", "b"), ("b", "a")] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert locks._locks == {}


def test_removing_a_tree_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/f").write_text("")
    (tmp_path / "tree/sub/link").symlink_to(tmp_path / "outside")

    remove_tree(str(tmp_path / "tree"))

    assert (tmp_path / "outside/f").exists()
    assert not (tmp_path / "tree").exists()
    (tmp_path / "link").symlink_to("outside")
    with pytest.raises(OSError):
        remove_tree(str(tmp_path / "link"))


def test_an_exclusive_rename_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").mkdir()

    with pytest.raises(FileExistsError):
        exclusive_rename(str(tmp_path / "a"), str(tmp_path / "b"))
    exclusive_rename(str(tmp_path / "a"), str(tmp_path / "c"))
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


def test_a_temporary_directory_is_removed_however_deep_it_is(tmp_path: Path) -> None:
    top = tmp_path / temporary_name(replacing=False)
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    assert remove_temporary(str(top))
    assert os.listdir(tmp_path) == []
