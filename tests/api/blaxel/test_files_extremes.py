"""Trees and files at the edge of what a machine can hold: they cost little and end soon."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.harness import Server, make_files, open_files, resident, until

from sandkeeper.files.changing.removal import remove_tree

OCTETS = {"Accept": "application/octet-stream"}
LEVELS = 1500
NAME = "d" * 100


@pytest.fixture
def shm() -> Iterator[Path]:
    """A folder in memory: what is made and removed there by the thousand waits for no disk."""
    folder = Path(f"/dev/shm/sandkeeper-extremes-{os.getpid()}")
    folder.mkdir()
    yield folder
    remove_tree(str(folder))


@pytest.fixture
def deep(shm: Path) -> Path:
    """A tree deeper than PATH_MAX and than Python recurses, with a file in each level."""
    top = shm / "deep"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(LEVELS):
        os.mkdir(NAME, dir_fd=here)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open(NAME, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (top / "up").symlink_to("..")
    (top / "round").symlink_to("round")
    return top


def test_a_tree_deeper_than_paths_are_long_harms_nobody(
    server: Server, deep: Path, tmp_path: Path
) -> None:
    get = server.client.get

    assert get(f"/filesystem-find/{deep}?maxResults=0").json()["total"] > 30
    assert get(f"/filesystem-search/{deep}?query=f").status_code == 200
    assert get(f"/filesystem-content-search/{deep}?query=x").json()["matches"] == []
    assert get(f"/filesystem-usage/{deep}").json()["directories"] > 30
    assert get(f"/filesystem-changes/{deep}").status_code == 200
    tree = get(f"/filesystem/tree/{deep}?recursive=true")
    assert len(tree.json()["subdirectories"]) > 30
    pair = {"source": str(deep), "destination": str(tmp_path / "other")}
    moved = server.client.post("/filesystem-move", json=pair)
    assert (moved.status_code, "too long" in moved.text) == (422, True)
    assert (deep.is_dir(), os.listdir(tmp_path)) == (True, [])
    gone = server.client.delete(f"/filesystem/{deep}?recursive=true")
    assert gone.json()["message"] == "Directory deleted successfully"
    assert not deep.exists()


def test_links_that_go_round_end_where_they_are_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "here").symlink_to(".")
    url = f"/filesystem/{tmp_path}"

    assert "too many levels of symbolic links" in server.client.get(f"{url}/a").text
    assert server.client.put(f"{url}/a", json={}).status_code == 422
    assert server.client.head(f"{url}/a").headers.get("x-file-type") is None
    assert [f["name"] for f in server.client.get(url).json()["files"]] == ["a", "b", "here"]
    tree = server.client.get(f"/filesystem/tree/{tmp_path}?recursive=true&content=true").json()
    assert [("content" in f, f["name"]) for f in tree["files"]] == [
        (False, "a"),
        (False, "b"),
        (False, "here"),
    ]
    assert server.client.delete(f"{url}/a").json()["message"] == "File deleted successfully"


def test_50_000_entries_are_listed_whole_in_little_memory(server: Server, shm: Path) -> None:
    make_files(shm, (f"{number:06}" for number in range(50_000)))
    server.client.get(f"/filesystem/{shm}")
    before = resident(server.pid)

    with httpx.stream("GET", f"{server.url}/filesystem/{shm}", timeout=30) as reply:
        size = count = 0
        for piece in reply.iter_raw():
            size += len(piece)
            count += piece.count(b'"permissions"')
        health = server.client.get("/health")

    assert size > 7_000_000
    assert 49_500 < count <= 50_000  # some stand across two pieces
    assert health.status_code == 200
    assert resident(server.pid) - before < 20_000_000


def test_ten_gigabytes_are_nothing_to_a_server_that_streams(server: Server, shm: Path) -> None:
    with open(shm / "sparse", "wb") as file:
        file.truncate(10 << 30)
    url = f"{server.url}/filesystem/{shm}/sparse"
    before = resident(server.pid)

    json = server.client.get(url)
    last = server.client.get(url, headers={**OCTETS, "Range": "bytes=-5"})
    with httpx.stream("GET", url, headers=OCTETS, timeout=30) as reply:
        taken = 0
        for piece in reply.iter_raw(1 << 20):
            taken += len(piece)
            if taken > 200 << 20:
                break

    assert (json.status_code, "larger than" in json.text) == (422, True)
    assert (last.status_code, last.content) == (206, bytes(5))
    assert last.headers["content-range"] == f"bytes {(10 << 30) - 5}-{(10 << 30) - 1}/{10 << 30}"
    assert resident(server.pid) - before < 20_000_000


def test_a_hundred_who_ask_and_never_read_hold_nobody_up(server: Server, shm: Path) -> None:
    (shm / "big").write_bytes(bytes(5_000_000))
    (shm / "small").write_text("x")
    request = (
        f"GET /filesystem/{shm}/big?download=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    before = resident(server.pid)
    with contextlib.ExitStack() as idle:
        for _ in range(100):
            sock = idle.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(request)
        until(lambda: opened(server, "big") == 100)
        for _ in range(50):
            assert server.client.get(f"/filesystem/{shm}/small", timeout=50).status_code == 200
        assert resident(server.pid) - before < 300_000_000  # a few blocks for each
    until(lambda: opened(server, "big") == 0)


def opened(server: Server, name: str) -> int:
    """Count the server's descriptors of a file."""
    return sum(os.path.basename(link) == name for link in open_files(server.pid))
