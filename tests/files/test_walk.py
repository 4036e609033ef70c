"""Walking a tree: everything once, in byte order, a directory before what is in it."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.harness import cases

from sandkeeper.files.walk import runs, walk

names = st.sampled_from([b"a", b"a.b", b"a-", b"B", b".hidden", b"node_modules", b"\xff", b"z"])
trees = st.lists(st.lists(names, min_size=1, max_size=4).map(tuple), max_size=12)


def _make(root: bytes, paths: list[tuple[bytes, ...]]) -> dict[bytes, bool]:
    """Make each path, its last name a file unless something is below it; return what there is."""
    made: dict[bytes, bool] = {}
    for parts in sorted(paths, key=len, reverse=True):
        for depth in range(1, len(parts)):
            made[b"/".join(parts[:depth])] = True
        made.setdefault(b"/".join(parts), False)
    for path, is_directory in sorted(made.items()):
        whole = os.path.join(root, path)
        if is_directory:
            os.mkdir(whole)
        else:
            os.close(os.open(whole, os.O_CREAT | os.O_WRONLY))
    return made


def _shown(path: bytes, is_directory: bool, hidden: bool) -> bool:
    parts = path.split(b"/")
    folders = parts if is_directory else parts[:-1]
    return b"node_modules" not in folders and (
        hidden or not any(part.startswith(b".") for part in parts)
    )


@settings(max_examples=cases(60), deadline=None)
@given(trees, st.booleans())
def test_a_walk_meets_what_there_is_in_byte_order(
    paths: list[tuple[bytes, ...]], hidden: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = os.fsencode(folder)
        made = _make(root, paths)
        found = runs(root, enter=lambda path: not path.endswith(b"node_modules"), hidden=hidden)
        met = [
            (prefix, name, is_directory) for prefix, names, is_directory in found for name in names
        ]

    expected = [path for path in made if _shown(path, made[path], hidden)]
    paths_met = [prefix + name for prefix, name, _ in met]
    assert paths_met == sorted(expected, key=lambda path: path.split(b"/"))
    assert all(is_directory == made[prefix + name] for prefix, name, is_directory in met)
    assert not any(b"/" in name for _, name, _ in met)


def test_a_folders_own_files_come_first_if_that_is_wanted(tmp_path: Path) -> None:
    _make(os.fsencode(tmp_path), [(b"a", b"b", b"c"), (b"a", b"z"), (b"m",), (b"z", b"y")])

    def met(files_first: bool) -> list[str]:
        return [found.relative for found in walk(str(tmp_path), files_first=files_first)]

    assert met(False) == ["a", "a/b", "a/b/c", "a/z", "m", "z", "z/y"]
    assert met(True) == ["m", "a", "a/z", "a/b", "a/b/c", "z", "z/y"]


def test_a_walk_does_not_follow_links_but_its_root(tmp_path: Path) -> None:
    _make(os.fsencode(tmp_path), [(b"tree", b"a", b"f"), (b"other", b"g")])
    (tmp_path / "tree" / "away").symlink_to(tmp_path / "other")
    (tmp_path / "root").symlink_to("tree")

    found = list(walk(str(tmp_path / "root")))

    assert [(one.relative, one.is_directory) for one in found] == [
        ("a", True),
        ("a/f", False),
        ("away", False),
    ]
    assert found[1].path == f"{tmp_path}/root/a/f"


def test_a_directory_that_cannot_be_read_is_told_and_one_that_went_away_is_not(
    tmp_path: Path,
) -> None:
    _make(os.fsencode(tmp_path), [(b"a", b"f"), (b"b", b"f"), (b"c", b"f")])
    told: list[str] = []
    met: list[str] = []

    for found in walk(str(tmp_path), on_error=lambda path, _error: told.append(path)):
        met.append(found.relative)
        if found.relative == "a":  # it is no directory any more when its turn comes
            os.rename(tmp_path / "a", tmp_path / "moved")
            (tmp_path / "a").touch()
        if found.relative == "b":
            os.rename(tmp_path / "b", tmp_path / "gone")

    assert met == ["a", "b", "c", "c/f"]
    assert told == ["a"]
    with pytest.raises(FileNotFoundError):
        next(runs(os.fsencode(tmp_path / "b")))


def test_a_check_ends_a_walk_by_its_answer_or_by_raising(tmp_path: Path) -> None:
    _make(os.fsencode(tmp_path), [(b"a", b"f"), (b"b", b"f")])

    def refuse() -> None:
        raise InterruptedError

    assert [found.relative for found in walk(str(tmp_path), check=lambda: True)] == ["a"]
    with pytest.raises(InterruptedError):
        list(walk(str(tmp_path), check=refuse))
