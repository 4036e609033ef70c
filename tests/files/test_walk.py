"""Walking a tree: everything once, in byte order, a directory before what is in it."""

import os
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from sandkeeper.files.walk import runs

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


@settings(max_examples=60, deadline=None)
@given(trees, st.booleans())
def test_a_walk_meets_what_there_is_in_byte_order(
    paths: list[tuple[bytes, ...]], hidden: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = os.fsencode(folder)
        made = _make(root, paths)
        found = runs(root, excluded=frozenset([b"node_modules"]), hidden=hidden)
        met = [
            (prefix, name, is_directory) for prefix, names, is_directory in found for name in names
        ]

    expected = [path for path in made if _shown(path, made[path], hidden)]
    paths_met = [prefix + name for prefix, name, _ in met]
    assert paths_met == sorted(expected, key=lambda path: path.split(b"/"))
    assert all(is_directory == made[prefix + name] for prefix, name, is_directory in met)
    assert not any(b"/" in name for _, name, _ in met)
