"""Files on a disk that fails, or that never answers: whoever asked for one of them is told."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.fuse import FaultyFile, faulty
from tests.harness import Server, needs_root, until

pytestmark = needs_root


def at(path: Path) -> str:
    return quote(str(path), safe="")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("what was there")
    return path


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EUCLEAN])
def test_a_read_that_fails_is_an_error_in_words(server: Server, file: Path, code: int) -> None:
    with faulty(file, FaultyFile(b"x" * 10_000, error=code)):
        for route in (f"/filesystem/{at(file)}", f"/filesystem-edit/{at(file)}"):
            wanted = {"oldString": "a", "newString": "b"}
            method = "GET" if "edit" not in route else "POST"
            reply = server.client.request(method, route, json=wanted if method == "POST" else None)
            assert reply.status_code == 422
            assert "error" in reply.json()
    assert server.client.get(f"/filesystem/{at(file)}").json()["content"] == "what was there"


def test_a_download_that_fails_midway_is_not_taken_for_whole(server: Server, file: Path) -> None:
    data = b"x" * (3 << 20)
    with (
        faulty(file, FaultyFile(data, good=1 << 20)),
        pytest.raises(Exception, match=r"closed|chunk"),
    ):
        server.client.get(f"/filesystem/{at(file)}?download=true")


def test_files_that_never_answer_keep_nobody_from_others(server: Server, file: Path) -> None:
    """Twice as many as there are places for reads; when the disk is gone all of them are told."""
    dead = FaultyFile(b"x" * 10_000)
    dead.silent = True
    with ThreadPoolExecutor(40) as asking:
        with faulty(file, dead):
            asked = [asking.submit(server.client.get, f"/filesystem/{at(file)}") for _ in range(32)]
            assert dead.asked.wait(60)
            other = file.with_name("other")
            other.write_text("other")
            until(
                lambda: (
                    server.client.get(f"/filesystem/{at(other)}").json().get("content") == "other"
                )
            )
            assert server.client.put(f"/filesystem/{at(other)}", json={"content": "new"}).is_success
            assert not any(one.done() for one in asked)
        told = {one.result(60).status_code for one in asked}
        assert 422 in told
        assert told <= {422, 200}  # who came when it was gone found the file below
    assert other.read_text() == "new"
