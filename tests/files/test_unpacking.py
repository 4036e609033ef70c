"""Unpacking a tar stream: what is kept in memory meanwhile is little, and nothing depends on it."""

import io
import os
import tarfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandkeeper.files.tar import unpacking
from sandkeeper.files.tar.unpacking import UnsafeMember, unpack


@contextmanager
def beside(_root: str, path: str) -> Iterator[str]:
    yield os.path.basename(path) + ".new"


def packed(names: list[str], *, records: dict[str, str] | None = None) -> io.BytesIO:
    """Pack directories (with a slash at the end) that nobody may write to, and files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.mode, member.mtime = 0o500 + number % 8, 1_600_000_000 + number
            member.pax_headers = records or {}
            archive.addfile(member)
    made.seek(0)
    return made


def unpacked(stream: io.BytesIO, root: Path) -> None:
    root.mkdir()
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        unpack(archive, str(root), owners=False, temporary=beside)


@pytest.mark.parametrize("held", [2, 1000])
def test_directories_have_their_look_when_all_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(unpacking, "DIRECTORIES_OPEN", held)
    names = ["a/", "a/b/", "a/b/c/", "a/b/c/f", "a/d/", "a/d/g", "e/", "e/h/", "e/h/i", "a/"]

    unpacked(packed(names), tmp_path / "out")

    last = {name: number for number, name in enumerate(names)}
    for name, number in last.items():
        info = os.stat(tmp_path / "out" / name)
        assert (info.st_mode & 0o777, info.st_mtime) == (0o500 + number % 8, 1_600_000_000 + number)


def test_a_directory_costs_little_whatever_its_header_holds(tmp_path: Path) -> None:
    stream = packed([f"{number}/" for number in range(60)], records={"x": "y" * 500_000})
    (tmp_path / "warm").mkdir()
    tracemalloc.start()
    unpacked(stream, tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 8 << 20  # all headers together are 30 MB


def test_a_path_that_nobody_could_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeMember, match="characters"):
        unpacked(packed(["d/" * 20_000]), tmp_path / "out")
