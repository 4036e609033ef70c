"""Archives made by somebody who means harm: small on the line, large or endless here."""

import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest
from backports import zstd
from tests.harness import Server, needs_root, small_disk

from sandkeeper.files.paths import is_temporary

END = bytes(1024)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, **pax: str) -> bytes:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.size = size
    member.pax_headers = {key.replace("_", "."): value for key, value in pax.items()}
    return member.tobuf(tarfile.PAX_FORMAT)


def record(key: str, value: bytes) -> bytes:
    """Make one record of an extended header; its length counts itself."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    size = len(rest) + len(str(len(rest)))
    size = len(rest) + len(str(size))
    return str(size).encode() + rest


def sparse(spans: Sequence[tuple[int, int]], size: int, data: bytes) -> bytes:
    """Make a member with holes as GNU tar 1.x and bsdtar do."""
    numbers = [len(spans), *(number for span in spans for number in span)]
    head = padded(b"".join(b"%d\n" % number for number in numbers))
    pax = {
        "GNU_sparse_major": "1",
        "GNU_sparse_minor": "0",
        "GNU_sparse_name": "holes",
        "GNU_sparse_realsize": str(size),
    }
    return header("holes", len(head) + len(data), **pax) + head + padded(data) + END


def put(server: Server, folder: Path, body: bytes) -> httpx.Response:
    return server.client.put(f"/filesystem-archive/{folder}/t", content=body)


def test_holes_stay_holes(server: Server, tmp_path: Path) -> None:
    body = sparse([(0, 3), (1_000_000, 4)], 5 << 30, b"abcdefg")

    assert put(server, tmp_path, body).status_code == 200
    info = (tmp_path / "t/holes").stat()
    assert info.st_size == 5 << 30
    assert info.st_blocks * 512 < 1_000_000
    with open(tmp_path / "t/holes", "rb") as file:
        assert file.read(5) == b"abc\0\0"
        file.seek(999_999)
        assert file.read(6) == b"\0defg\0"


@pytest.mark.parametrize(
    "spans",
    [
        [(5, 3), (2, 4)],
        [(0, 5), (2, 4)],
        [(-5, 3)],
        [(0, -1)],
        [(0, 101)],
    ],
)
def test_a_map_of_holes_that_makes_no_sense_is_refused(
    server: Server, tmp_path: Path, spans: list[tuple[int, int]]
) -> None:
    reply = put(server, tmp_path, sparse(spans, 100, b"abcdefgh"))

    assert (reply.status_code, "map of its holes" in reply.text) == (400, True)
    assert os.listdir(tmp_path / "t") == []


def test_a_file_larger_than_any_disk_is_refused_before_it_is_written(
    server: Server, tmp_path: Path
) -> None:
    reply = put(server, tmp_path, sparse([(0, 3)], 1 << 62, b"abc"))

    assert reply.status_code == 422
    assert os.listdir(tmp_path / "t") == []


def negative() -> bytes:
    head = bytearray(header("minus", 0))
    head[124:136] = b"\xff" * 12  # base-256, as GNU tar writes large numbers
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + END


def global_headers() -> bytes:
    made = []
    for number in range(4):
        data = record(f"key{number}", b"v" * 400_000)
        made.append(header("g", len(data), tarfile.XGLTYPE) + padded(data) + header("empty", 0))
    return b"".join(made) + END


DEEP = record("comment", b"one more")
LARGE = record("comment", b"x" * 900_000)
PACK = zstd.compress


ENDLESS: dict[str, Callable[[], bytes]] = {
    "a negative size": negative,
    "nested headers": lambda: (header("x", len(DEEP), tarfile.XHDTYPE) + padded(DEEP)) * 3000,
    "a bomb of headers": lambda: PACK(
        (header("x", len(LARGE), tarfile.XHDTYPE) + padded(LARGE)) * 200
    ),
    "global headers": lambda: PACK(global_headers()),
    "an endless map": lambda: sparse([(0, 0)] * 800_000, 10, b""),
    "data of no file": lambda: PACK(header(".", 20 << 20) + bytes(20 << 20) + END),
}
"""Made when they are sent: whoever collects the tests need not wait for them."""


@pytest.mark.parametrize("what", ENDLESS)
def test_headers_are_not_held_without_end(server: Server, tmp_path: Path, what: str) -> None:
    reply = put(server, tmp_path, ENDLESS[what]())

    assert reply.status_code == 400
    assert "no whole tar archive" in reply.json()["error"]
    assert set(os.listdir(tmp_path / "t")) <= {"empty"}


@needs_root
def test_a_bomb_that_fills_the_disk_is_a_507_and_its_file_is_gone(
    server: Server, tmp_path: Path
) -> None:
    size = 50 << 20
    body = PACK(header("small", 3) + padded(b"abc") + header("bomb", size) + b"b" * size + END)
    assert len(body) < 20_000

    with small_disk(tmp_path / "disk", 4) as disk:
        reply = server.client.put(f"/filesystem-archive/{disk}", content=body)
        left = os.listdir(disk)

    assert (reply.status_code, left) == (507, ["small"])


def test_a_name_that_does_not_fit_is_told_by_its_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "t/d").mkdir(parents=True)
    long = put(server, tmp_path, header("x" * 256, 0) + END)
    onto = put(server, tmp_path, header("d", 0) + END)

    assert (long.status_code, onto.status_code) == (422, 422)
    assert "x" * 256 + ": file name too long" in long.text
    assert "open d: is a directory" in onto.text
    assert not [name for name in os.listdir(tmp_path / "t") if is_temporary(name)]
