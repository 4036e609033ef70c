"""The server is killed and started again in the middle of what a verb does.

`run` is in `test_run`, `sync` in `test_sync`, `forward` in `test_forward`.
"""

import hashlib
import json
import os
import select
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import pytest
from tests.client.verbs import COMMAND, Verb, begin
from tests.harness import Server, start, until

from sandkeeper.client import failures
from sandkeeper.client.connection import Server as Remote
from sandkeeper.client.failures import ClientError, NoServer
from sandkeeper.client.files import large as large_files
from sandkeeper.client.files.transfer import fetch

LARGE = 96 << 20


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
def running(server: Server, *words: str) -> "Iterator[Verb | subprocess.Popen[bytes]]":
    """Run a verb beside what the test does; it ends well."""
    env = {**server.env, "SANDKEEPER_URL": server.url}
    with begin(*words, env=env) as child:
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
    script = "i=0; while [ $i -lt 100 ]; do echo $i; i=$((i+1)); sleep 0.02; done"
    start(server, script, name="followed")
    with running(server, "logs", "-f", "followed") as child:
        assert child.stdout is not None
        head = child.stdout.read(20)
        server.kill9()
        server.restart()
        rest = child.stdout.read()

    assert head + rest == b"".join(b"%d\n" % number for number in range(100))


def test_whoever_watches_a_folder_goes_on(make_server, tmp_path: Path) -> None:
    server = make_server()
    env = {**server.env, "SANDKEEPER_URL": server.url}
    argv = [*COMMAND, "watch", "--json", str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        _changes_until_seen(child.stdout, tmp_path / "before")
        server.kill9()
        server.restart()
        _changes_until_seen(child.stdout, tmp_path / "after")

        tmp_path.rename(tmp_path.with_suffix(".moved"))
        assert child.wait(60) == 1
        assert b"connected again" in child.stderr.read()


def _changes_until_seen(lines: "IO[bytes]", path: Path) -> None:
    """Touch a file until a line tells of it: before there is a watch nothing does."""

    def tells() -> bool:
        path.touch()
        ready, _, _ = select.select([lines], [], [], 0.05)
        return bool(ready) and json.loads(lines.readline())["name"] == path.name

    until(tells)


def test_chosen_lines_are_followed_over_it_too(make_server) -> None:
    server = make_server()
    script = "i=0; while [ $i -lt 100 ]; do echo $i; i=$((i+1)); sleep 0.02; done"
    start(server, script, name="chosen")
    with running(server, "logs", "-f", "--grep", "7$", "chosen") as child:
        assert child.stdout is not None
        head = child.stdout.read(5)
        server.kill9()
        server.restart()
        rest = child.stdout.read()

    assert head + rest == b"".join(b"%d\n" % number for number in range(7, 100, 10))


def uploads_of(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.client.get("/filesystem-multipart").json()["uploads"]
    return found


def test_a_large_file_goes_up_and_no_part_of_it_twice(make_server, large: Path) -> None:
    server = make_server()

    def kept() -> int:
        return sum(one.get("contentSize", 0) for one in uploads_of(server))

    def has_gone_on() -> bool:
        return any(
            int(line["query"].removeprefix("offset=")) > 16 << 20
            for line in server.log_lines()
            if line.get("path", "").endswith("/content") and line["method"] == "PUT"
        )

    for turn in range(20):  # it may be over before we have seen that it had begun
        with running(server, "cp", str(large), f":{turn}") as child:
            until(lambda child=child: kept() > 16 << 20 or child.poll() is not None)
            server.kill9()
            server.restart()
        assert _digest(server.workdir / str(turn)) == _digest(large)
        assert uploads_of(server) == []
        if has_gone_on():
            return
    pytest.fail("it was never interrupted")


def test_another_run_goes_on_only_behind_what_is_the_same(make_server, large: Path) -> None:
    server = make_server()
    begun = 40 << 20
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
    with running(server, "cp", ":here", str(target)) as child:

        def has_begun() -> bool:
            try:
                parts = [one.stat().st_size for one in tmp_path.glob(".*.part")]
            except FileNotFoundError:  # it is whole, and has its name
                return True
            return child.poll() is not None or any(size > 1 << 20 for size in parts)

        until(has_begun)
        server.kill9()
        server.restart()

    assert _digest(target) == _digest(large)
    assert list(tmp_path.glob(".*.part")) == []


class Losing(BaseHTTPRequestHandler):
    """A server whose line breaks each time before it has anything."""

    def do_GET(self) -> None:
        told = {"uploads": [], "size": 0, "arriving": False, "path": "/"}
        self._say(told)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say({"uploadId": "one"})

    def do_PUT(self) -> None:
        self.rfile.read(5 << 20)  # so much has left there each time

    def _say(self, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


def test_a_line_that_always_breaks_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(failures, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(failures, "PAUSES", [0.01])
    with ThreadingHTTPServer(("127.0.0.1", 0), Losing) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        remote = Remote(f"http://127.0.0.1:{listener.server_port}")
        (tmp_path / "file").write_bytes(bytes(8 << 20))
        with (tmp_path / "file").open("rb") as file:
            upload = large_files.LargeUpload(remote, file, 8 << 20, "f", "644", lambda _more: None)
            with pytest.raises(NoServer):
                upload.run()
        listener.shutdown()


WHOLE = bytes(range(200)) * 100


class Forgetting(BaseHTTPRequestHandler):
    """A server whose line breaks after a tenth, and which gives all of it once more then."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(WHOLE)))
        self.send_header("ETag", '"one"')
        self.end_headers()
        self.wfile.write(WHOLE if "Range" in self.headers else WHOLE[: len(WHOLE) // 10])
        self.close_connection = True

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("condition", ["If-Match", "If-Range"])
def test_an_answer_that_begins_again_is_never_appended(condition: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetting) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        remote = Remote(f"http://127.0.0.1:{listener.server_port}")
        got, moved = bytearray(), [0]

        def count(more: int) -> None:
            moved[0] += more

        with pytest.raises(ClientError, match="begins again"):
            fetch(remote, "/any", got.extend, count, condition=condition)
        assert got == WHOLE[: len(got)] != WHOLE

        got.clear()
        moved[0] = 0
        fetch(remote, "/any", got.extend, count, condition=condition, anew=got.clear)
        assert (bytes(got), moved[0]) == (WHOLE, len(WHOLE))
        listener.shutdown()
