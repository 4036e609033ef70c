"""The law of what changed, where a folder changes also while the tree looks at it."""

import random
import tempfile
from contextlib import closing
from pathlib import Path

from tests.harness import cases
from tests.watch.storm import Storm
from tests.watch.test_changes import Copy, Recorded, check, copied

from sandkeeper.watch.names import NameStore


def weather(root: Path, seed: int) -> None:
    """Check the law throughout one storm."""
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
            now = copied(root)
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
        for index in range(100):
            (root / "b").mkdir()
            recorded.follow()
            (root / "b/c").mkdir()
            (root / "b/c").rename(out / f"{index}")
            (root / "b/c").mkdir()
            recorded.follow(1)  # finds the second one, which the notice is not about
            (root / "b").rename(out / f"b{index}")
            recorded.follow()
        assert recorded.tree.watched < 20
