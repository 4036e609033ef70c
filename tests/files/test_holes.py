"""Files with holes: whatever copies, moves, edits or packs one leaves the holes in it."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness import Server, needs_root, small_disk

from sandkeeper.files.changing import holes
from sandkeeper.files.tar.sparse import SPANS, spans_of

MIB = 1 << 20
SIZE = 300 * MIB
ROOM = 2 * MIB
"""What a file with holes may take here at most."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    with_holes(path)
    return path


def with_holes(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(b"begin")
        file.seek(100 * MIB + 77)
        file.write(b"middle")
        file.truncate(SIZE)


def check(path: Path) -> None:
    info = path.stat()
    assert (info.st_size, info.st_blocks * 512 < ROOM) == (SIZE, True)
    with open(path, "rb") as file:
        assert file.read(7) == b"begin\0\0"
        file.seek(100 * MIB + 76)
        assert file.read(8) == b"\0middle\0"
        file.seek(SIZE - 2)
        assert file.read() == b"\0\0"


def test_a_copy_has_the_holes(server: Server, image: Path, tmp_path: Path) -> None:
    for target in ("copy", "copy"):  # fresh, and over what is there
        body = {"source": str(image), "destination": str(tmp_path / target)}
        assert server.client.post("/filesystem-copy", json=body).status_code == 200
        check(tmp_path / target)


def test_a_copied_folder_has_the_holes(server: Server, image: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    image.rename(tmp_path / "folder/image")
    body = {"source": str(tmp_path / "folder"), "destination": str(tmp_path / "other")}

    assert server.client.post("/filesystem-copy", json=body).status_code == 200
    check(tmp_path / "other/image")


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder on another file system."""
    path = Path(f"/dev/shm/sandkeeper-holes-{os.getpid()}")
    path.mkdir()
    yield path
    with contextlib.suppress(FileNotFoundError):
        (path / "image").unlink()
    path.rmdir()


def test_a_move_to_another_file_system_has_the_holes(
    server: Server, image: Path, tmp_path: Path, elsewhere: Path
) -> None:
    for source, target in ((image, elsewhere / "image"), (elsewhere / "image", tmp_path / "back")):
        body = {"source": str(source), "destination": str(target)}
        assert server.client.post("/filesystem-move", json=body).status_code == 200
        check(target)
        assert not source.exists()


def test_a_copy_into_a_file_of_several_names_has_the_holes_and_none_of_the_old(
    server: Server, image: Path, tmp_path: Path
) -> None:
    """It is written in place, for all of its names."""
    (tmp_path / "old").write_bytes(b"o" * (2 * MIB))
    os.link(tmp_path / "old", tmp_path / "name")
    body = {"source": str(image), "destination": str(tmp_path / "name")}

    assert server.client.post("/filesystem-copy", json=body).status_code == 200
    check(tmp_path / "old")
    assert (tmp_path / "old").samefile(tmp_path / "name")


def small(path: Path) -> None:
    """Make a file with holes that an edit can take."""
    with open(path, "wb") as file:
        file.write(b"text to edit\n")
        file.truncate(8 * MIB)


@pytest.mark.parametrize("names", [1, 2])
def test_an_edit_leaves_the_holes(server: Server, tmp_path: Path, names: int) -> None:
    path = tmp_path / "file"
    small(path)
    if names > 1:
        os.link(path, tmp_path / "second")
    body = {"oldString": "to edit", "newString": "that is edited"}

    reply = server.client.post(f"/filesystem-edit/{path}", json=body)

    assert reply.status_code == 200, reply.text
    assert path.read_bytes() == b"text that is edited\n" + bytes(8 * MIB - 13)
    assert path.stat().st_blocks * 512 < ROOM


def test_new_content_for_a_file_with_holes_has_holes_where_it_has_nothing(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    small(path)
    content = bytes(9 * MIB) + b"new" + bytes(5000)

    reply = server.client.put(f"/filesystem/{path}", files={"file": ("file", content)})

    assert reply.status_code == 200, reply.text
    assert path.read_bytes() == content
    assert path.stat().st_blocks * 512 < ROOM


def test_what_was_all_there_gets_no_holes(server: Server, tmp_path: Path) -> None:
    """Somebody may have written NULs to have the room."""
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * MIB) + b"end")
    body = {"oldString": "end", "newString": "END"}

    assert server.client.post(f"/filesystem-edit/{path}", json=body).status_code == 200
    assert path.stat().st_blocks * 512 >= 4 * MIB


def test_an_archive_and_back_has_the_holes(server: Server, image: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    image.rename(tmp_path / "folder/image")

    archive = server.client.get(f"/filesystem-archive/{tmp_path}/folder").content
    reply = server.client.put(f"/filesystem-archive/{tmp_path}/back", content=archive)

    assert (reply.status_code, len(archive) < MIB) == (200, True)
    check(tmp_path / "back/image")


@needs_root
def test_a_disk_that_is_too_small_for_the_data_leaves_the_old_content_whole(
    server: Server, tmp_path: Path
) -> None:
    """In a file of several names, which is written in place."""
    with small_disk(tmp_path / "disk", 4) as disk:
        old = b"o" * 1000
        (disk / "old").write_bytes(old)
        os.link(disk / "old", disk / "name")
        with open(tmp_path / "image", "wb") as file:
            file.truncate(SIZE)
            file.write(os.urandom(8 * MIB))
        body = {"source": str(tmp_path / "image"), "destination": str(disk / "name")}

        assert server.client.post("/filesystem-copy", json=body).status_code == 507
        assert (disk / "old").read_bytes() == old


def test_a_map_has_so_many_spans_and_no_more(tmp_path: Path) -> None:
    """Between more of them the smaller holes are packed as data."""
    with open(tmp_path / "file", "wb") as file:
        count = SPANS + 1000
        for number in range(count):
            file.seek(number * 8192 + (1 << 30) * (number > count // 2))
            file.write(b"x" * 4096)
        file.truncate(3 << 30)
    with open(tmp_path / "file", "rb") as file:
        spans = spans_of(file.fileno(), os.fstat(file.fileno()))

    assert spans is not None
    assert len(spans) <= SPANS
    assert sum(length for _, length in spans) < 200 * MIB
    assert spans[0][0] == 0


@given(
    old=st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=8),
    new=st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=8),
    odd=st.integers(0, 5000),
)
def test_whatever_is_where_the_bytes_stay_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    old: list[tuple[int, bool]],
    new: list[tuple[int, bool]],
    odd: int,
) -> None:
    """Copied, written and put over something else; runs of pages of data and of holes."""
    folder = tmp_path_factory.mktemp("spans")
    before, source = folder / "before", folder / "source"
    for path, runs in ((before, old), (source, new)):
        with open(path, "wb") as file:
            for pages, data in runs:
                if data:
                    file.write(b"%d" % pages * 2048)
                else:
                    file.seek(pages * 4096 + odd, os.SEEK_CUR)
            file.truncate()
    content = source.read_bytes()
    with (
        open(source, "rb", buffering=0) as reader,
        open(folder / "copy", "wb", buffering=0) as copy,
        open(folder / "written", "wb", buffering=0) as written,
        open(before, "r+b", buffering=0) as over,
    ):
        assert holes.copy(reader.fileno(), copy.fileno(), 0) == len(content)
        for start in range(0, len(content), 10_000):
            holes.write(written.fileno(), content[start : start + 10_000], start)
        holes.overwrite(reader.fileno(), over.fileno(), len(content))

    assert (folder / "copy").read_bytes() == content
    assert (folder / "written").read_bytes() == content
    assert before.read_bytes() == content


def test_what_a_pseudo_file_says_of_its_size_is_not_believed(
    server: Server, tmp_path: Path
) -> None:
    """Files in /sys say a page, those in /proc nothing."""
    for source in ("/sys/kernel/notes", "/proc/version", "/sys/kernel/mm/transparent_hugepage"):
        if not os.path.isfile(source):
            continue
        copy = tmp_path / os.path.basename(source)
        body = {"source": source, "destination": str(copy)}
        assert server.client.post("/filesystem-copy", json=body).status_code == 200
        expected = subprocess.run(["cat", source], capture_output=True, check=True).stdout
        assert copy.read_bytes() == expected
