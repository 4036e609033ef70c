"""A watched tree against what really happened: whatever order, nothing that exists is missed."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness import cases

from sandkeeper.linux.inotify import Inotify, Mask, Notice, notices
from sandkeeper.watch.audience import OVERFLOW, RESCANNED, Entry
from sandkeeper.watch.tree import WatchTree

PLACES = st.sampled_from(["a", "b", "a/c", "b/c", "a/c/d", "../out"])
ACTIONS = st.one_of(
    st.tuples(st.just("mkdir"), PLACES, st.just("")),
    st.tuples(st.just("touch"), PLACES, st.sampled_from(["f", "g"])),
    st.tuples(st.just("move"), PLACES, PLACES),
    st.tuples(st.just("exchange"), PLACES, PLACES),
    st.tuples(st.just("remove"), PLACES, st.just("")),
    st.tuples(st.just("follow"), st.just(""), st.just("")),
    st.tuples(st.just("overflow"), st.just(""), st.just("")),
)


class Following:
    """A tree and what it told."""

    def __init__(self, root: Path) -> None:
        self.inotify = Inotify()
        self.told: list[tuple[str, str]] = []
        self.tree = WatchTree(
            self.inotify,
            os.fsencode(root),
            recursive=True,
            ignored=(),
            audience=self,
            between=lambda: None,
        )
        self.tree.arm()

    def tell(self, how: str, directory: bytes, name: bytes) -> None:
        self.told.append((how, os.path.join(os.fsdecode(directory), os.fsdecode(name))))

    def listed(self, directory: bytes, entries: Sequence[Entry], *, told: bool) -> None:
        for name, _ in entries if told else ():
            self.tell("CREATE", directory, name)

    def supplanted(self, directory: bytes, name: bytes) -> None:
        pass

    def follow(self) -> None:
        while data := self.inotify.read():
            for notice in notices(data):
                self.tree.handle(notice)


def act(root: Path, action: str, first: str, second: str) -> None:
    here = root / first
    try:
        if action == "mkdir":
            here.mkdir()
        elif action == "touch":
            (here / second).touch()
        elif action == "move":
            here.rename(root / second)
        elif action == "exchange":
            (root / second).rename(root / "aside")
            here.rename(root / second)
            (root / "aside").rename(here)
        elif action == "remove":
            shutil.rmtree(here)
    except OSError:
        pass  # what cannot be done changes nothing


def alive(root: Path) -> set[str]:
    return {os.path.join(where, name) for where, ds, fs in os.walk(root) for name in [*ds, *fs]}


@settings(max_examples=cases(150), deadline=None)
@given(st.lists(ACTIONS, max_size=25))
def test_whatever_happens_every_path_is_told_and_every_directory_watched(
    actions: list[tuple[str, str, str]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        (Path(folder) / "out").mkdir()
        root.mkdir()
        following = Following(root)
        try:
            for action, first, second in actions:
                if action == "follow":
                    following.follow()
                elif action == "overflow":
                    while following.inotify.read():
                        pass
                    following.tree.handle(Notice(-1, Mask.OVERFLOW, 0, b""))
                else:
                    act(root, action, first, second)
            following.follow()
            assert alive(root) <= {path for how, path in following.told if how == "CREATE"}

            following.told.clear()
            folders = [root, *(Path(path) for path in alive(root) if os.path.isdir(path))]
            for each in folders:
                (each / "probe").touch()
            following.follow()
            assert {path for _, path in following.told} == {str(each / "probe") for each in folders}
            assert following.tree.watched == len(folders)
        finally:
            following.inotify.close()


def test_an_overflow_is_told_with_everything_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    following = Following(tmp_path)
    following.tree.handle(Notice(-1, Mask.OVERFLOW, 0, b""))
    following.inotify.close()

    assert following.told == [
        (OVERFLOW, str(tmp_path)),
        ("CREATE", str(tmp_path / "a")),
        ("CREATE", str(tmp_path / "a" / "b")),
        (RESCANNED, str(tmp_path)),
    ]
