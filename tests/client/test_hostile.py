"""What a server that lies, or a terminal and pipes that are not as one thinks, can do: nothing."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.client.conftest import Ask
from tests.client.verbs import COMMAND
from tests.harness import Server, until

from sandkeeper.client.connection import LINE_BYTES, VALUE_BYTES
from sandkeeper.client.failures import ClientError, NoServer
from sandkeeper.client.files.unpacking import unpack

Says = Callable[[bytes], Iterator[bytes]]


def whole(body: Any, *, kind: str = "application/json", status: str = "200 OK") -> bytes:
    """Return a whole answer of HTTP."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(raw)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode() + raw


@pytest.fixture
def liar() -> Iterator[Callable[[Says], str]]:
    """Return a function that starts a server which gives what is said to each request."""
    sockets: list[socket.socket] = []

    def serve(says: Says) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def one(line: socket.socket) -> None:
            with line, suppress(OSError):
                head = b""
                while b"\r\n\r\n" not in head:
                    head += line.recv(65536)
                for part in says(head.split(b"\r\n")[0]):
                    line.sendall(part)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=one, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield serve
    for each in sockets:
        each.close()


def endless(head: bytes, piece: bytes) -> Says:
    """Return what says a head and then the same for ever."""

    def says(_line: bytes) -> Iterator[bytes]:
        yield head
        while True:
            yield piece

    return says


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b"null", b"7", b'[{"id": 3}]', b"[" * 200_000, b"\xff", b'{"ports": [[]]}'],
)
@pytest.mark.parametrize("words", [["ps"], ["version"], ["ports"], ["logs", "x"]])
def test_whatever_answers_is_a_sentence_and_never_a_traceback(
    ask: Ask, liar: Callable[[Says], str], words: list[str], body: bytes
) -> None:
    done = ask(*words, url=liar(lambda _line: iter([whole(body)])))

    assert b"Traceback" not in done.stderr
    assert done.returncode in {0, 1, 3}
    assert done.stderr.count(b"\n") == (done.returncode != 0)


@pytest.mark.parametrize("words", [["top"], ["sync", ".", ":x"], ["forward", ":80"]])
def test_so_it_is_with_what_would_go_on(
    ask: Ask, liar: Callable[[Says], str], words: list[str]
) -> None:
    for body in (b"[]", b'{"ports": [[]], "processes": [[]], "entries": [{}]}'):
        done = ask(*words, url=liar(lambda _line, body=body: iter([whole(body)])))

        assert b"Traceback" not in done.stderr
        assert done.returncode in {1, 3}
        assert done.stderr.count(b"\n") == 1


def test_an_answer_without_an_end_is_given_up(liar: Callable[[Says], str]) -> None:
    from sandkeeper.client import connection

    url = liar(endless(HEAD, b"x" * 65536))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "VALUE_BYTES", 1 << 20)
        patch.setattr(connection, "LINE_BYTES", 1 << 20)
        asked = connection.Server(url)
        with pytest.raises(NoServer, match="longer than 1 MiB"):
            asked.ask("GET", "/")
        with asked.open("GET", "/") as answer, pytest.raises(NoServer, match="longer than 1 MiB"):
            list(answer.lines())

    assert VALUE_BYTES <= 1 << 30
    assert LINE_BYTES <= 1 << 30


def test_an_answer_that_is_cut_is_told(liar: Callable[[Says], str]) -> None:
    from sandkeeper.client.connection import Server as Asked

    url = liar(lambda _line: iter([whole(b"[1, 2]").replace(b"Length: 6", b"Length: 9")]))

    with pytest.raises(NoServer, match="breaks off"):
        Asked(url).ask("GET", "/")


def test_lines_are_whole_wherever_the_blocks_are_cut(liar: Callable[[Says], str]) -> None:
    from sandkeeper.client.connection import Server as Asked

    pieces = [HEAD, b"a", b"b\nc", b"\n", b"\n\nd\ne", b"f"]
    with Asked(liar(lambda _line: iter(pieces))).open("GET", "/") as answer:
        assert list(answer.lines()) == [b"ab", b"c", b"", b"", b"d", b"ef"]


def test_names_that_a_terminal_would_obey_are_spelt(
    terminal: Any, ask: Ask, liar: Callable[[Says], str]
) -> None:
    name = "\x1b]0;title\x07\x9b31m\u202e\udcff\ud800"
    folder = {"subdirectories": [], "files": [{"name": name, "path": name}]}

    def says(line: bytes) -> Iterator[bytes]:
        yield whole({"type": "directory", "path": "/x"} if b"-stat" in line else folder)

    url = liar(says)
    for words in (["ls"], ["ls", "--json"]):
        plain = ask(*words, url=url)
        assert plain.returncode == 0
        assert b"\x1b" not in plain.stdout
        assert b"\xc2\x9b" not in plain.stdout
        child = terminal("--url", url, *words)
        shown = child.read()
        assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(shown)


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://a b", "http://h\x01", "http://" + "a" * 80 + ".example", "http://ü/"],
)
def test_an_address_that_is_none_is_a_sentence(ask: Ask, url: str) -> None:
    done = ask("--url", url, "ps")

    assert done.returncode in {1, 3}
    assert done.stderr.startswith(b"sandkeeper: ")
    assert b"Traceback" not in done.stderr


def closed(ask_env: dict[str, str], redirections: str, *words: str) -> Any:
    """Run a verb with descriptors as a shell has them closed or led elsewhere."""
    script = f'exec "$@" {redirections}'
    return subprocess.run(
        ["bash", "-c", script, "sh", *COMMAND, *words],
        env=ask_env,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirections", "said"),
    [(">&-", b"bad file descriptor"), (">/dev/full", b"no space left"), ("<&- 2>&-", b"")],
)
@pytest.mark.parametrize("words", [["ps"], ["ps", "--json"], ["run", "-i", "--", "echo", "x"]])
def test_closed_and_full_descriptors_are_told(
    server: Server, redirections: str, said: bytes, words: list[str]
) -> None:
    done = closed({**server.env, "SANDKEEPER_URL": server.url}, redirections, *words)

    assert said in done.stderr
    assert b"Traceback" not in done.stderr
    assert bool(done.returncode) == bool(said)


def test_a_reader_that_has_enough_ends_a_list_quietly(server: Server) -> None:
    for number in range(3):
        server.client.put(f"/filesystem/many/{number}", json={"content": ""})
    env = {**server.env, "SANDKEEPER_URL": server.url}
    read, write = os.pipe()
    os.close(read)
    for words in (["ls", "many"], ["ps"], ["cat", "many/0"], ["find", "many"]):
        done = subprocess.run(
            [*COMMAND, *words], stdout=write, stderr=subprocess.PIPE, env=env, check=False
        )
        assert (done.returncode, done.stderr) in {(141, b""), (0, b"")}
    os.close(write)


# Tar streams


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> Iterator[bytes]:
    """Return a tar stream of members."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return iter([raw.getvalue()])


def member(name: str, kind: bytes = tarfile.REGTYPE, to: str = "", mode: int = 0o644) -> Any:
    """Return a member of a tar stream."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, to, mode
    return made


@pytest.mark.parametrize(
    "members",
    [
        [(member("../victim"), b"evil")],
        [(member("a/../../victim"), b"evil")],
        [(member("/victim"), b"evil")],
        [(member("out", tarfile.SYMTYPE, ".."), b""), (member("out/victim"), b"evil")],
        [
            (member("deep" * 50 + "/" + "d" * 200, tarfile.SYMTYPE, "../.."), b""),
            (member("deep" * 50 + "/" + "d" * 200 + "/victim"), b"evil"),
        ],
        [(member("hard", tarfile.LNKTYPE, "../victim"), b""), (member("hard"), b"evil")],
        [(member("into", tarfile.SYMTYPE, "../victim"), b""), (member("into"), b"evil")],
        [
            (member("link", tarfile.SYMTYPE, "../victim"), b""),
            (member("hard", tarfile.LNKTYPE, "link"), b""),
            (member("hard"), b"evil"),
        ],
        [(member("out", tarfile.SYMTYPE, ".."), b""), (member("out", tarfile.DIRTYPE), b"")],
    ],
)
def test_no_tar_leads_out(tmp_path: Path, members: list[tuple[Any, bytes]]) -> None:
    (tmp_path / "victim").write_text("safe")
    mode = tmp_path.stat().st_mode
    into = tmp_path / "into"
    into.mkdir()

    with suppress(ClientError):
        unpack(packed(*members), into)

    assert (tmp_path / "victim").read_text() == "safe"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["into", "victim"]
    assert tmp_path.stat().st_mode == mode


def test_links_that_lead_elsewhere_and_closed_folders_are_kept_as_they_are(tmp_path: Path) -> None:
    unpack(
        packed(
            (member("bin", tarfile.DIRTYPE, mode=0o500), b""),
            (member("bin/python", tarfile.SYMTYPE, "/usr/bin/python3"), b""),
            (member("bin/tool", mode=0o4755), b"tool"),
            (member("pipe", tarfile.FIFOTYPE), b""),
        ),
        tmp_path,
    )

    assert (tmp_path / "bin/python").readlink() == Path("/usr/bin/python3")
    assert (tmp_path / "bin").stat().st_mode & 0o7777 == 0o500
    assert (tmp_path / "bin/tool").stat().st_mode & 0o7777 == 0o755
    assert not (tmp_path / "pipe").exists()


@pytest.mark.parametrize("raw", [b"no tar at all" * 100, b"\0" * 100, bytes(range(256)) * 8])
def test_what_is_no_tar_is_told(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(ClientError):
        unpack(iter([raw]), tmp_path)


def test_the_bridge_outlives_messages_that_are_none(server: Server) -> None:
    lines = [
        b"[" * 100_000,
        b"7",
        b'{"method": "notifications/cancelled", "params": [1]}',
        b'{"method": "notifications/cancelled", "params": {"requestId": []}}',
        b'{"id": {}, "method": "ping", "jsonrpc": "2.0"}',
        b'{"id": 1, "method": "ping", "jsonrpc": "2.0"}',
    ]
    done = subprocess.run(
        [sys.executable, "-m", "sandkeeper", "mcp"],
        input=b"\n".join(lines) + b"\n",
        env={**server.env, "SANDKEEPER_URL": server.url},
        capture_output=True,
        timeout=100,
        check=False,
    )

    assert b"Traceback" not in done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"jsonrpc": "2.0", "id": 1, "result": {}} in answers
    assert all("error" in one for one in answers if one.get("id") != 1)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_download_that_is_ended_leaves_what_was_there(
    server: Server, liar: Callable[[Says], str], tmp_path: Path, number: int, status: int
) -> None:
    def says(line: bytes) -> Iterator[bytes]:
        if b"-stat" in line:
            yield whole({"type": "file", "path": "/x", "permissions": "644"})
            return
        yield whole(b"x" * 10)[:-5]
        threading.Event().wait(100)

    (tmp_path / "target").write_text("old")
    argv = [*COMMAND, "--url", liar(says), "cp", ":x", "target"]
    with subprocess.Popen(argv, cwd=tmp_path, env=server.env, stderr=subprocess.PIPE) as child:
        until(lambda: [one for one in tmp_path.glob(".*.part") if one.stat() is not None])
        child.send_signal(number)

        assert child.wait(60) == status
        assert child.stderr is not None
        assert child.stderr.read() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target").read_text() == "old"
