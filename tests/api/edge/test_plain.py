"""The short way: what is answered from the parsed head is what the long way answers."""

import gzip
import json
import os
import re
import socket
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness import Server, needs_root, start, until

from sandkeeper.api.edge.respond import encode_json
from sandkeeper.api.schemas.kept import stamp_of
from sandkeeper.api.schemas.processes import record_of
from sandkeeper.journal.journal import Journal
from sandkeeper.journal.output import Texts
from sandkeeper.linux.paths.inmemory import InMemory
from sandkeeper.processes.lifecycle import State
from sandkeeper.processes.record import RunMeta

OWN = {"connection", "date", "x-request-id", "etag"}
"""Fields that differ from one answer to the next, or that the closing of a connection brings."""


def exchange(
    server: Server, method: str, path: str, body: bytes, *fields: str
) -> tuple[int, dict[str, str], bytes]:
    """Send one request over a connection of its own; returns status, fields and body."""
    lines = [f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}", *fields]
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        file = sock.makefile("rb")
        status = int(file.readline().split()[1])
        told: dict[str, str] = {}
        while (line := file.readline().decode().strip()) != "":
            name, _, value = line.partition(": ")
            told[name] = value
        return status, told, file.read(int(told["content-length"]))


HOST = "Host: localhost"
GZIP = "Content-Encoding: gzip"
PACKED = gzip.compress(b'{"content": "a", "command": "true", "workingDir": "/no/such"}', mtime=0)
REQUESTS = [
    ("GET", "/health", b"", [HOST]),
    ("GET", "/process/sleeper", b"", [HOST]),
    ("GET", "/process/sleeper", b"", [HOST, "Accept: text/html", "X-Request-Id: mine"]),
    ("GET", "/process/nobody", b"", [HOST]),
    ("GET", "/process", b"", [HOST]),
    ("GET", "/process/", b"", [HOST]),
    ("GET", "/process/sleeper/", b"", [HOST]),
    ("GET", "//process/sleeper", b"", [HOST]),
    ("GET", "/process/sl%65eper", b"", [HOST]),
    ("PATCH", "/process/sleeper", b"", [HOST]),
    ("GET", "/process/sleeper", b"", []),
    ("GET", "/process/sleeper", b"", ["Host: evil.example"]),
    ("GET", "/process/sleeper", b"", [HOST, "Origin: http://evil.example"]),
    ("GET", "/process/sleeper", b"", [HOST, "Sec-Fetch-Site: cross-site"]),
    ("POST", "/process", b"{", [HOST]),
    ("POST", "/process", b"{}", [HOST]),
    ("POST", "/process", b'{"command": "true", "name": "sleeper"}', [HOST]),
    ("POST", "/process", b'{"command": "true", "workingDir": "/no/such"}', [HOST]),
    ("GET", "/filesystem/WORK/text", b"", [HOST]),
    ("GET", "/filesystem/WORK/text", b"", [HOST, "Accept: application/octet-stream"]),
    ("GET", "/filesystem/WORK/text", b"", [HOST, "Range: bytes=1-2", "Accept: text/plain"]),
    ("GET", "/filesystem/WORK/absent", b"", [HOST]),
    ("GET", "/filesystem/WORK", b"", [HOST]),
    ("GET", "/filesystem/tree/WORK", b"", [HOST]),
    ("GET", "/filesystem/WORK/text?download=true", b"", [HOST]),
    ("PUT", "/filesystem/WORK/written", b'{"content": "a"}', [HOST]),
    ("PUT", "/filesystem/WORK/written", b'{"content": "a"}', [HOST, 'If-Match: "x"']),
    ("PUT", "/filesystem/WORK/written", b'{"content": "a", "permissions": "9"}', [HOST]),
    ("PUT", "/filesystem/WORK/made", b'{"isDirectory": true}', [HOST]),
    ("PUT", "/filesystem/WORK/text/below", b'{"content": "a"}', [HOST]),
    ("PUT", "/filesystem/WORK/written", b"[", [HOST]),
    ("PUT", "/filesystem/WORK/written", b"PACKED", [HOST, GZIP]),
    ("PUT", "/filesystem/WORK/written", b'{"content": "a"}', [HOST, GZIP]),
    ("PUT", "/filesystem/WORK/written", b'{"content": "a"}', [HOST, "Content-Encoding: br"]),
    ("POST", "/process", b"PACKED", [HOST, GZIP]),
]


Factory = pytest.TempPathFactory


@pytest.fixture(scope="module", params=["", "secret"])
def asked(request: pytest.FixtureRequest, tmp_path_factory: Factory) -> Iterator[Server]:
    """Return a server with a process and a file, with a token or without."""
    env = {"SANDKEEPER_TOKEN": request.param} if request.param else {}
    with Server(tmp_path_factory.mktemp("plain"), env=env) as server:
        server.client.headers["Authorization"] = "Bearer secret"
        start(server, "exec sleep 600", name="sleeper")
        (server.workdir / "text").write_text('a "text" <&>')
        yield server
        server.client.delete("/process/sleeper/kill")


@pytest.mark.parametrize(("method", "path", "body", "fields"), REQUESTS)
@pytest.mark.parametrize("token", [[], ["Authorization: Bearer secret"]])
def test_both_ways_answer_the_same(
    asked: Server, method: str, path: str, body: bytes, fields: list[str], token: list[str]
) -> None:
    path = path.replace(
        "WORK", str(asked.workdir).lstrip("/").replace("/", "%2F").join(["%2F", ""])
    )
    sent = [*fields, *token]
    body = PACKED if body == b"PACKED" else body

    short = exchange(asked, method, path, body, *sent)
    long = exchange(asked, method, path, body, *sent, "Connection: close")

    assert short[0] == long[0]
    own = OWN | ({"content-length"} if path == "/health" else set())
    assert {k: v for k, v in short[1].items() if k not in own} == {
        k: v for k, v in long[1].items() if k not in own
    }
    if path != "/health":
        assert short[2] == long[2]
    assert short[1].keys() == long[1].keys() - {"connection"}


def test_what_a_record_shows_is_in_its_stamp(tmp_path: Path) -> None:
    """Each field of a run's record is changed: where the answer changes, the stamp does."""
    changed = {
        str: "changed",
        int: 7,
        float: 7.5,
        bool: True,
    }
    unchanging = {"command", "name", "working_dir", "id", "stdin", "restart_on_failure"}
    unchanging |= {"max_restarts", "user", "tag"}

    for field in msgspec.structs.fields(RunMeta):
        meta = RunMeta(id="a", name="b", command="c", exit_code=1, exit_reason="exited")
        process = _Process(meta, Journal(tmp_path))
        before, stamp = encode_json(record_of(process, Texts())), stamp_of(process)
        value = getattr(meta, field.name)
        kind = type(value) if value is not None else int
        if field.name in {"groups", "limits", "env"} or kind not in changed:
            continue
        setattr(meta, field.name, changed[kind])
        if encode_json(record_of(process, Texts())) != before:
            assert (stamp_of(process) != stamp) == (field.name not in unchanging), field.name


class _Process:
    """As much of a process as its record is made of."""

    def __init__(self, meta: RunMeta, journal: Journal) -> None:
        self.meta = meta
        self.journal = journal
        self.state = State.COMPLETED
        self.is_over = True
        self.status = "completed"


def test_a_record_is_never_older_than_what_happened(server: Server) -> None:
    pid = start(server, "read line; echo got $line; exit 3", stdin=True, name="asks")["pid"]
    assert server.client.get(f"/process/{pid}").json()["stdout"] == ""
    assert server.client.get(f"/process/{pid}").json()["status"] == "running"

    server.client.post(f"/process/{pid}/stdin", content=b"it\n")
    assert server.client.get(f"/process/{pid}/wait?timeout=60").json()["exitCode"] == 3
    over = [server.client.get("/process/asks").json()]
    listed = [r for r in server.client.get("/process").json() if r["pid"] == pid]

    assert (over[0]["stdout"], over[0]["status"], over[0]["exitCode"]) == ("got it\n", "failed", 3)
    assert listed == over


def test_requests_one_behind_the_other_are_answered_in_order(server: Server) -> None:
    start(server, "exec sleep 600", name="first")
    ask = "GET /process/{} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    order = ["first", "absent", "first", "logs", "first"] * 20
    paths = ["first/logs" if name == "logs" else name for name in order]
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall("".join(map(ask.format, paths)).encode())
        file = sock.makefile("rb")
        told = []
        for _ in paths:
            status, length = int(file.readline().split()[1]), 0
            while (line := file.readline().lower()) != b"\r\n":
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            told.append((status, b'"name"' in file.read(length)))
    server.client.delete("/process/first/kill")

    expected = {"first": (200, True), "absent": (404, False), "logs": (200, False)}
    assert told == [expected[name] for name in order]


def test_what_was_answered_is_counted_and_told_before_the_next_request_is(server: Server) -> None:
    """Counting follows the sending, so a client that asks at once must not find it undone."""
    start(server, "exec sleep 600", name="counted")
    written = f"/filesystem/{server.workdir}/counted"
    asked = [
        ("GET", "/process/counted"),
        ("POST", "/process", '{"command": "true"}'),
        ("PUT", written, '{"content": "a"}'),
        ("GET", written),
    ]
    counts, told = [], []

    def head(method: str, path: str, body: str = "") -> bytes:
        told.append(f"told-{len(told)}")
        fields = f"Host: localhost\r\nX-Request-Id: {told[-1]}\r\nContent-Length: {len(body)}"
        return f"{method} {path} HTTP/1.1\r\n{fields}\r\n\r\n{body}".encode()

    with socket.create_connection(("127.0.0.1", server.port)) as sock, sock.makefile("rb") as file:
        for request in asked:
            sock.sendall(head(*request))
            _answer(file)
            sock.sendall(head("GET", "/metrics"))
            counts.append(_counted(_answer(file)))
            sock.sendall(head(*request) + head("GET", "/metrics"))  # one behind the other
            _answer(file)
            counts.append(_counted(_answer(file)))
    server.client.delete("/process/counted/kill")

    assert counts == list(range(counts[0], counts[0] + len(counts)))
    lines = until(lambda: [rid for rid in _ids(server) if rid in told][len(told) - 1 :])
    assert lines == told[-1:]
    assert [rid for rid in _ids(server) if rid in told] == told


def test_a_start_that_is_waited_for_is_one_request_however_long_that_takes(server: Server) -> None:
    """What is over soon is answered the short way; all else goes on behind its start."""
    commands = ["true", "echo out; echo err >&2; exit 3", "sleep 0.5; echo late", "seq 50000"]
    own = {"pid", "name", "id", "startedAt", "completedAt", "usage"}
    began, told = _counted(server.client.get("/metrics").content), []
    for number, command in enumerate(commands):
        body = json.dumps({"command": command, "waitForCompletion": True}).encode()
        told += [f"waited-{number}", f"waited-{number}-long"]
        short = exchange(server, "POST", "/process", body, HOST, f"X-Request-Id: {told[-2]}")
        closing = f"X-Request-Id: {told[-1]}", "Connection: close"
        long = exchange(server, "POST", "/process", body, HOST, *closing)

        records = [json.loads(answer[2]) for answer in (short, long)]
        kept = [{k: v for k, v in one.items() if k not in own} for one in records]
        assert (short[0], kept[0]) == (long[0], kept[1])
        assert short[1].keys() - OWN == long[1].keys() - OWN
        assert len(server.client.get("/process").json()) >= 2 * number + 2

    metrics = server.client.get("/metrics").text
    assert _counted(metrics.encode()) == began + 3 * len(commands)
    assert "\nsandkeeper_requests_in_flight 1.0\n" in metrics
    until(lambda: set(told) <= set(_ids(server)))
    lines = [line for line in server.log_lines() if line.get("rid") in told]
    seconds = [line["duration"] for line in lines if line["source"] == "access"]
    assert [line["rid"] for line in lines if line["source"] == "audit"] == told
    assert [line["rid"] for line in lines if line["source"] == "access"] == told
    assert min(seconds[4:6]) >= 0.5


def test_who_left_before_a_quick_end_is_told_of_as_who_leaves_a_long_one(make_server) -> None:
    own: Server = make_server(constants={"sandkeeper.api.blaxel.processes.QUICK_SECONDS": 60.0})
    own.run("true")  # the first of an area goes the long way
    go = own.workdir / "go"
    wanted = {"command": f"while [ ! -e {go} ]; do sleep 0.02; done", "name": "left"}
    body = json.dumps({**wanted, "waitForCompletion": True}).encode()
    head = b"POST /process HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: left\r\n"
    with socket.create_connection(("127.0.0.1", own.port)) as sock:
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: own.client.get("/process/left").status_code == 200, 30)
    own.client.get("/health")

    go.touch()
    (line,) = until(lambda: [one for one in own.log_lines() if _is_access(one, "left")], 30)
    assert (line["status"], line["bytes"]) == (499, 0)


def _is_access(line: dict[str, Any], rid: str) -> bool:
    return line.get("source") == "access" and line["rid"] == rid


def test_a_process_that_is_killed_in_the_same_bytes_is_watched_all_the_same(server: Server) -> None:
    """Its output and its end are looked at behind the answer to whoever started it."""
    body = b'{"command": "echo first; exec sleep 600", "name": "brief"}'
    head = b"POST /process HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    kill = b"DELETE /process/brief/kill HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock, sock.makefile("rb") as file:
        sock.sendall(head + body + kill)
        started = json.loads(_answer(file))
        _answer(file)

    record = server.client.get("/process/brief/wait?timeout=60").json()
    assert (started["status"], started["pid"]) == ("running", record["pid"])
    assert (record["status"], record["exitSignal"]) == ("killed", "SIGKILL")
    assert record["stdout"] in {"", "first\n"}


def _ids(server: Server) -> list[str]:
    """Return the ids of the requests whose lines are in the log."""
    return [line["rid"] for line in server.log_lines() if line.get("source") == "access"]


def _answer(answers: BufferedReader) -> bytes:
    """Return the body of the next answer, which is a good one."""
    assert answers.readline().split()[1] == b"200"
    length = 0
    while (line := answers.readline().lower()) != b"\r\n":
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return answers.read(length)


def _counted(metrics: bytes) -> int:
    """Return how many requests for processes and files were answered well."""
    group = rb'sandkeeper_requests_total\{group="(?:process|filesystem)",status="2xx"\} ([0-9]+)'
    return sum(int(count) for count in re.findall(group, metrics))


def test_a_body_that_comes_later_is_the_same_request(server: Server) -> None:
    body = b'{"command": "echo late", "waitForCompletion": true}'
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"POST /process HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body[:9])
        assert server.client.get("/health").status_code == 200  # the head has been read by now
        sock.sendall(body[9:])
        answer = sock.makefile("rb")
        assert b"200" in answer.readline()
        while (line := answer.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        assert json.loads(answer.read(length))["stdout"] == "late\n"


def test_only_what_is_in_memory_and_of_the_roots_file_system_is_read_at_once(
    tmp_path: Path,
) -> None:
    memory = InMemory()
    file = tmp_path / "file"
    file.write_text("content")
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")

    found = memory.read(str(file), 100)
    assert found is None or (found[1], found[0].st_ino) == (b"content", file.stat().st_ino)
    for name in ("empty", "fifo", ".", "absent", "file/below"):
        assert memory.read(f"{tmp_path}/{name}", 100) is None
    assert memory.read(str(file), 6) is None
    for path in ("/proc/self/status", "/proc/self/fd/0", "/dev/null", "/dev/zero"):
        assert memory.read(path, 1 << 20) is None
    memory.close()
    assert memory.read(str(file), 100) is None


@needs_root
def test_files_of_another_mount_are_left_to_a_thread(tmp_path: Path) -> None:
    from tests.harness import small_disk

    with small_disk(tmp_path / "disk", 1) as disk:
        (disk / "file").write_text("content")
        memory = InMemory()
        assert memory.read(str(disk / "file"), 100) is None
        memory.close()
