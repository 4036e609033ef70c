"""The law of what changed, where a folder changes also while the tree looks at it."""

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.harness import cases
from tests.watch.storm import Storm
from tests.watch.test_changes import Copy, Recorded, check, copied

from sandkeeper.linux.identity import Identity, acting_for
from sandkeeper.watch.names import NameStore


def weather(root: Path, seed: int) -> None:
    """Check throughout one storm the law, and that what is there is watched and nothing else."""
    storm = Storm(str(root), seed)
    choose = random.Random(seed + 1)

    def change() -> None:
        while choose.random() < 0.5:
            storm.change()

    recorded = Recorded(root, NameStore())
    taken: list[tuple[int, Copy]] = []
    with closing(recorded.inotify):
        for _ in range(12):
            for _ in range(choose.randrange(12)):
                storm.change()
            recorded.meanwhile = change
            recorded.follow(choose.randrange(20))
            if choose.random() < 0.7:
                continue
            recorded.meanwhile = lambda: None
            recorded.follow()
            recorded.follow()  # gives up what the first one left on the move
            now = copied(root)
            folders = [kind for kind, _ in now.values()].count("directory")
            assert recorded.tree.watched == 1 + folders
            for cursor, then in taken[-3:]:
                check(recorded.since(cursor), then, now)
            taken.append((recorded.cursor(), now))


def test_what_changes_between_two_looks_of_the_tree_is_told_as_it_ends() -> None:
    first = random.Random().randrange(1 << 30)
    for seed in range(first, first + cases(300)):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "root")
            root.mkdir()
            try:
                weather(root, seed)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}") from error


def test_directories_that_were_found_ahead_of_their_notices_and_left_are_not_watched_for_ever(
    tmp_path: Path,
) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    out.mkdir()
    root.mkdir()
    recorded = Recorded(root, NameStore())
    with closing(recorded.inotify):
        for index in range(20):
            (root / "b").mkdir()
            recorded.follow()
            (root / "b/c").mkdir()
            (root / "b/c").rename(out / f"{index}")
            for below in range(20):
                (root / f"b/c/{below}").mkdir(parents=True)
            recorded.follow(1)  # finds the second one, which the notice is not about
            (root / "b").rename(out / f"b{index}")
            recorded.follow()
        recorded.follow()
        assert recorded.tree.watched == 1


@pytest.fixture
def folder_of_a_user() -> Iterator[Path]:
    """A folder of somebody from whom modes keep things, and the test acts for him."""
    somebody = Identity(54321, 54321, "somebody", "/") if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        with acting_for(somebody):
            (root := Path(folder, "root")).mkdir()
            yield root
            for where in root.rglob("*"):
                where.chmod(0o700)


def test_a_directory_that_moves_while_it_cannot_be_read_is_followed_once_it_can(
    folder_of_a_user: Path,
) -> None:
    root = folder_of_a_user
    (root / "a/c").mkdir(parents=True)
    (root / "a/c/f").write_text("before")
    recorded = Recorded(root, NameStore())
    with closing(recorded.inotify):
        cursor, then = recorded.cursor(), copied(root)
        (root / "a/c").chmod(0o311)
        (root / "a").rename(root / "b")
        recorded.follow()
        (root / "b/c").chmod(0o755)
        check(recorded.since(cursor), then, copied(root))

        cursor, then = recorded.cursor(), copied(root)
        (root / "b/c/f").write_text("after")
        (root / "b/c/g").touch()
        check(recorded.since(cursor), then, copied(root))


def test_a_directory_that_is_closed_between_two_looks_is_read_once_it_is_open(
    folder_of_a_user: Path,
) -> None:
    root = folder_of_a_user
    recorded = Recorded(root, NameStore())

    def close() -> None:
        if recorded.tree.watched > 1:
            (root / "a").chmod(0)

    with closing(recorded.inotify):
        cursor, then = recorded.cursor(), copied(root)
        (root / "a/c").mkdir(parents=True)
        (root / "a/c/f").write_text("before")
        recorded.meanwhile = close
        recorded.follow(1)
        recorded.meanwhile = lambda: None
        recorded.follow()
        assert recorded.tree.watched == 1
        (root / "a").chmod(0o755)
        check(recorded.since(cursor), then, copied(root))

        cursor, then = recorded.cursor(), copied(root)
        (root / "a/c/f").write_text("after")
        check(recorded.since(cursor), then, copied(root))
