"""The server is killed and started again in the middle of what a verb does.

`run` is in `test_run`, `sync` in `test_sync`, `forward` in `test_forward`.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.client.conftest import COMMAND
from tests.harness import Server, start, until

LARGE = 160 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that goes on where it stopped."""
    file = tmp_path_factory.mktemp("large") / "file"
    block = os.urandom(1 << 20)
    with file.open("wb") as stream:
        for number in range(LARGE >> 20):
            stream.write(number.to_bytes(8, "big") + block[8:])
    return file


@contextmanager
def running(server: Server, *words: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a verb beside what the test does; it ends well."""
    env = {**server.env, "SANDKEEPER_URL": server.url}
    argv = [*COMMAND, *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as child:
        yield child
        assert child.stderr is not None
        said = child.stderr.read()
        assert child.wait(120) == 0, said
        assert b"Traceback" not in said


def _digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def test_who_follows_a_log_sees_every_line_once(make_server) -> None:
    server = make_server()
    script = "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); sleep 0.005; done"
    start(server, script, name="followed")
    with running(server, "logs", "-f", "followed") as child:
        assert child.stdout is not None
        head = child.stdout.read(20)
        server.kill9()
        server.restart()
        rest = child.stdout.read()

    assert head + rest == b"".join(b"%d\n" % number for number in range(400))


def test_chosen_lines_are_followed_over_it_too(make_server) -> None:
    server = make_server()
    script = "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); sleep 0.005; done"
    start(server, script, name="chosen")
    with running(server, "logs", "-f", "--grep", "7$", "chosen") as child:
        assert child.stdout is not None
        head = child.stdout.read(5)
        server.kill9()
        server.restart()
        rest = child.stdout.read()

    assert head + rest == b"".join(b"%d\n" % number for number in range(7, 400, 10))


def uploads_of(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.client.get("/filesystem-multipart").json()["uploads"]
    return found


def test_a_large_file_goes_up_and_no_part_of_it_twice(make_server, large: Path) -> None:
    server = make_server()

    def kept() -> int:
        return sum(one.get("contentSize", 0) for one in uploads_of(server))

    with running(server, "cp", str(large), ":there"):
        until(lambda: kept() > 16 << 20)
        server.kill9()
        server.restart()
    offsets = [
        int(line["query"].removeprefix("offset="))
        for line in server.log_lines()
        if line.get("path", "").endswith("/content") and line["method"] == "PUT"
    ]
    assert offsets[-1] > 16 << 20
    assert _digest(server.workdir / "there") == _digest(large)
    assert uploads_of(server) == []


def test_another_run_goes_on_only_behind_what_is_the_same(make_server, large: Path) -> None:
    server = make_server()
    begun = 64 << 20
    for beginning in (b"", b"other"):
        initiate = "/filesystem-multipart/initiate/there"
        made = server.client.post(
            initiate, json={"permissions": f"{large.stat().st_mode & 0o777:o}"}
        )
        route = f"/filesystem-multipart/{made.json()['uploadId']}/content"
        with large.open("rb") as file:
            head = beginning + file.read(begun)[len(beginning) :]
        assert server.client.put(route, content=head).json()["size"] == begun
        with running(server, "cp", str(large), ":there"):
            pass

        assert _digest(server.workdir / "there") == _digest(large)
        left = [made.json()["uploadId"]] if beginning else []
        assert [one["uploadId"] for one in uploads_of(server)] == left


def test_a_large_file_comes_down_and_goes_on_where_it_was(
    make_server, large: Path, tmp_path: Path
) -> None:
    server = make_server()
    (server.workdir / "here").symlink_to(large)
    target = tmp_path / "target"
    with running(server, "cp", ":here", str(target)):
        until(lambda: any(one.stat().st_size > 1 << 20 for one in tmp_path.glob(".*.part")))
        server.kill9()
        server.restart()

    assert _digest(target) == _digest(large)
    assert list(tmp_path.glob(".*.part")) == []
