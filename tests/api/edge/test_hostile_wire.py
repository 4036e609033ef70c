"""Requests made to cost much: bounded, refused in words, and nobody else waits for them."""

import asyncio
import json
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from benchmarks import hostile, hostile_wire
from benchmarks.share import of_full_size
from tests.harness import Server, resident, until
from tests.hostile_requests import search

MIB = 1 << 20
GENEROUS_MS = 10_000
"""On a machine of its own it is 100."""


def talk(server: Server, *parts: bytes) -> bytes:
    """Send and return all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        for part in parts:
            sock.sendall(part)
        return rest(sock)


def rest(sock: socket.socket) -> bytes:
    pieces = []
    while piece := sock.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def head(line: str, *fields: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode()


def test_a_body_in_very_many_chunks_arrives_as_it_was(server: Server) -> None:
    data = bytes(range(32, 127)) * 700
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\nx: y\r\n\r\n"
    fields = ("Transfer-Encoding: chunked", "Content-Type: multipart/form-data; boundary=b")
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    inner = b"%x\r\n%s\r\n" % (len(form), form) + chunks.removesuffix(b"0\r\nx: y\r\n\r\n")
    whole = inner + b"7\r\n\r\n--b--\r\n0\r\n\r\n"

    reply = talk(server, head("PUT /filesystem/chunks", "Connection: close", *fields), whole)

    assert reply.startswith(b"HTTP/1.1 200 ")
    assert (server.workdir / "chunks").read_bytes() == data


def test_very_many_requests_one_behind_the_other_are_all_answered_in_order(server: Server) -> None:
    ask = b"".join(head("GET /health", f"X-Request-Id: n-{number}-") for number in range(3000))

    reply = talk(server, ask, head("GET /health", "Connection: close"))

    told = [int(part.partition(b"-")[0]) for part in reply.split(b"x-request-id: n-")[1:]]
    assert told == list(range(3000))
    assert reply.count(b"HTTP/1.1 200 ") == 3001


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head("GET /health", *(f"x-{n}: v" for n in range(998))), 200),
        (head("GET /health", *(f"x-{n}: v" for n in range(1001))), 431),
        (head("GET /health", "Cookie: " + "a=b;" * 50_000), 431),
        (head("GET /health?" + "a=b&" * 5_000), 200),
        (head("GET /health?" + "a=b&" * 10_000), 414),
        (head("GET /filesystem/" + "%41" * 20_000), 414),
    ],
)
def test_heads_have_bounds(server: Server, request_head: bytes, status: int) -> None:
    closing = request_head.replace(b"Host:", b"Connection: close\r\nHost:", 1)

    reply = talk(server, closing)

    assert reply.startswith(b"HTTP/1.1 %d " % status)
    if status != 200:
        assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]


def test_a_form_has_a_thousand_parts_at_most(server: Server) -> None:
    def sent(count: int) -> object:
        part = '--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n\r\n'
        last = '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n'
        return server.client.put(
            "/filesystem/form",
            content=part * (count - 1) + last + "--b--\r\n",
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )

    few, many = sent(999), sent(1001)

    assert few.status_code == 200
    assert (many.status_code, "more than 1000 parts" in many.json()["error"]) == (400, True)


def test_a_batch_has_a_hundred_messages_and_each_list_of_tools_is_the_same(server: Server) -> None:
    ask = {"jsonrpc": "2.0", "id": 0, "method": "tools/list"}

    def post(content: object) -> object:
        return server.client.post("/mcp", json=content, headers=hostile_wire.MCP)

    first, again = post(ask).json(), post(ask).json()
    batch = post([{**ask, "id": number} for number in range(100)]).json()
    refused = post([{**ask, "id": number} for number in range(101)])

    assert first == again
    assert [each["id"] for each in batch] == list(range(100))
    assert all(each["result"] == first["result"] for each in batch)
    assert refused.status_code == 400
    assert refused.json()["error"] == {"code": -32600, "message": "a batch has 1 to 100 messages"}
    assert refused.json()["id"] is None


def test_a_tool_reads_no_file_that_would_fill_memory_in_its_answer(server: Server) -> None:
    (server.workdir / "large").write_bytes(b"\x01" * (5 * MIB))
    (server.workdir / "fits").write_bytes(b"\x01" * MIB)

    def read(name: str) -> dict:
        params = {"name": "fsReadFile", "arguments": {"path": str(server.workdir / name)}}
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return server.client.post("/mcp", json=call, headers=hostile_wire.MCP).json()["result"]

    assert read("fits")["structuredContent"]["content"] == "\x01" * MIB
    assert "larger than 4194304 bytes" in read("large")["content"][0]["text"]
    (server.workdir / "escaped").write_bytes(b"\x01" * (2 * MIB))
    assert "larger than 8388608 bytes as JSON" in read("escaped")["content"][0]["text"]


# WebSockets


def frame(opcode: int, data: bytes, *, final: bool) -> bytes:
    """Write a masked frame, of which the mask is zero."""
    first = opcode | (0x80 if final else 0)
    length = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack("!BH", 0xFE, len(data))
    return bytes([first]) + length + b"\0\0\0\0" + data


def opened(server: Server, session: str) -> socket.socket:
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    sock.sendall(head(f"GET /terminal/ws?sessionId={session}", *fields, key))
    assert sock.recv(12) == b"HTTP/1.1 101"
    return sock


def test_a_message_in_many_fragments_arrives_whole(server: Server) -> None:
    text, written = "x" * 3000, server.workdir / "fragments"
    command = f"printf %s {text} > {written}\n"
    message = json.dumps({"type": "input", "data": command}).encode()
    pieces = b"".join(frame(0, bytes([byte]), final=False) for byte in message[1:-1])
    with opened(server, "fragments") as sock:
        sock.sendall(frame(1, message[:1], final=False) + pieces + frame(0, b"}", final=True))
        until(lambda: written.exists() and written.read_text() == text)


@pytest.mark.parametrize("data", [b"", b"x"])
def test_a_message_in_fragments_without_end_is_refused(server: Server, data: bytes) -> None:
    with opened(server, "endless") as sock:
        sock.sendall(frame(1, b"x", final=False) + frame(0, data, final=False) * 20_000)
        reply = rest(sock)

    assert b"\x03\xf1too many fragments" in reply  # 1009


def test_pings_of_a_client_that_reads_nothing_do_not_add_up(server: Server) -> None:
    pings = frame(9, b"p" * 125, final=True) * 8000
    with opened(server, "pings") as sock:
        sock.setblocking(False)
        sent = 0
        until_quiet = time.monotonic() + 3
        while time.monotonic() < until_quiet and sent < 64 * MIB:
            try:
                sent += sock.send(pings[sent % 131 :])
            except BlockingIOError:
                time.sleep(0.01)
        assert sent < 64 * MIB  # so much is in the two kernels' buffers and 1 MiB here


# Bodies that do not come


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SANDKEEPER_BODY_SECONDS": "1"}
    with Server(tmp_path_factory.mktemp("impatient"), env=env) as running:
        yield running


@pytest.mark.parametrize("length", [100, 40_000_000])
def test_a_body_that_does_not_come_is_answered_408(impatient: Server, length: int) -> None:
    fields = (f"Content-Length: {length}", "Content-Type: multipart/form-data; boundary=b")
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nabc'
    begun = time.monotonic()

    reply = talk(impatient, head("PUT /filesystem/half", *fields), part)

    assert reply.startswith(b"HTTP/1.1 408 ")
    assert "body" in json.loads(reply.partition(b"\r\n\r\n")[2])["error"]
    assert time.monotonic() - begun >= 1
    assert not (impatient.workdir / "half").exists()


def test_a_body_in_chunks_that_stops_is_answered_408(impatient: Server) -> None:
    sent = head("PUT /filesystem/half", "Transfer-Encoding: chunked"), b'5\r\n{"con'

    assert talk(impatient, *sent).startswith(b"HTTP/1.1 408 ")


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that waits for bodies longer than a busy machine stands still."""
    env = {"SANDKEEPER_BODY_SECONDS": "5"}
    with Server(tmp_path_factory.mktemp("patient"), env=env) as running:
        yield running


def says_something(sock: socket.socket, seconds: float) -> bool:
    """Say whether an answer comes while nothing is sent: that long a client's line stands still."""
    return bool(select.select([sock], [], [], seconds)[0])


def test_bodies_that_are_slow_but_moving_go_on(patient: Server) -> None:
    data, size = b"s" * 4096, MIB
    body = b'{"content":"%s"}' % (data * 8)
    *pieces, last = [body[at : at + 4096] for at in range(0, len(body), 4096)]
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    end = b"\r\n--b--\r\n"
    length = f"Content-Length: {len(form) + size + len(end)}"
    kind = "Content-Type: multipart/form-data; boundary=b"
    address = ("127.0.0.1", patient.port)
    with (
        socket.create_connection(address, timeout=60) as sock,
        socket.create_connection(address, timeout=60) as other,
    ):
        sock.sendall(head("PUT /filesystem/slow", f"Content-Length: {len(body)}"))
        other.sendall(head("PUT /filesystem/slow-form", length, kind) + form)
        for piece in pieces:
            sock.sendall(piece)
            other.sendall(b"u" * 20_000)
            assert not says_something(sock, 0.7)
            assert not says_something(other, 0.0)
        sock.sendall(last)
        other.sendall(b"u" * (size - len(pieces) * 20_000) + end)
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
        assert other.recv(15) == b"HTTP/1.1 200 OK"

    assert (patient.workdir / "slow").read_bytes() == data * 8
    assert (patient.workdir / "slow-form").read_bytes() == b"u" * size


def test_waiting_and_streaming_have_nothing_to_do_with_it(impatient: Server) -> None:
    body = b'{"command": "sleep 1.5; echo done", "waitForCompletion": true}'
    fields = ("Connection: close", f"Content-Length: {len(body)}")

    reply = talk(impatient, head("POST /process", *fields) + body)  # at once: a second is little
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["stdout"] == "done\n"
    with opened(impatient, "quiet") as sock:
        sock.settimeout(1.5)
        seen = b""
        with pytest.raises(TimeoutError):
            while True:
                piece = sock.recv(1 << 16)
                assert piece, "the server closed a terminal that was quiet"
                seen += piece


# Answers that are not read


def answers(server: Server) -> dict[str, int]:
    return server.client.get("/diagnostics").json()["requests"]["answers"]


def unread(server: Server, stack: ExitStack, count: int, ask: bytes) -> list[socket.socket]:
    made = []
    for _ in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        stack.enter_context(sock).sendall(ask)
        made.append(sock)
    return made


def test_all_answers_that_nobody_reads_have_one_bound_and_stalled_clients_go_for_others(
    make_server,
) -> None:
    outgoing = "sandkeeper.api.edge.connections.outgoing"
    server: Server = make_server(
        env={"SANDKEEPER_MAX_ANSWER_BYTES_TOTAL": str(16 * MIB)},
        # Those that stand before the last have the room for so long, a dozen at a time.
        constants={f"{outgoing}.STALLED_SECONDS": 5.0, f"{outgoing}.WAIT_SECONDS": 100.0},
    )
    (server.workdir / "ones").write_bytes(b"\x01" * (2 * MIB))
    ask = head("GET /filesystem/ones")
    with ExitStack() as stack:
        unread(server, stack, 24, ask)
        until(lambda: answers(server)["heldBytes"] > 12 * MIB)
        assert server.client.get("/process").status_code == 200
        late = server.client.get("/filesystem/ones", timeout=120)
        assert len(late.json()["content"]) == 2 * MIB
        after = answers(server)

    assert after["cut"] > 0
    assert after["mostHeldBytes"] < 20 * MIB
    until(lambda: answers(server)["heldBytes"] < MIB)


def test_logs_that_nobody_waits_for_any_more_hold_nothing(server: Server) -> None:
    server.run("head -c 4000000 /dev/zero | tr '\\000' '\\001'", name="ones")
    with ExitStack() as stack:
        unread(server, stack, 40, head("GET /process/ones/logs"))
        until(lambda: answers(server)["heldBytes"] > 16 * MIB)

    until(lambda: answers(server)["heldBytes"] == 0)


def test_what_is_not_in_memory_has_no_bound_there(make_server) -> None:
    server: Server = make_server(env={"SANDKEEPER_MAX_ANSWER_BYTES_TOTAL": str(16 * MIB)})
    with open(server.workdir / "sparse", "wb") as file:
        file.truncate(40 * MIB)

    told = server.client.head("/filesystem/sparse")
    reply = server.client.get("/filesystem/sparse?download=true")

    assert told.headers["content-length"] == str(40 * MIB)
    assert reply.content == bytes(40 * MIB)


def test_answers_under_a_limit_of_memory_do_not_end_the_server(make_server) -> None:
    import resource

    server: Server = make_server()
    (server.workdir / "ones").write_bytes(b"\x01" * (32 * MIB))
    resource.prlimit(server.pid, resource.RLIMIT_AS, (2500 * MIB, 2500 * MIB))
    with ExitStack() as stack:
        clients = unread(server, stack, 25, head("GET /filesystem/ones", "Connection: close"))
        size = len(rest(clients[0]))
        assert size > 6 * 32 * MIB

    assert server.client.get("/health").status_code == 200


@pytest.mark.parametrize("options", [b"", b"?recursive=true&content=true"])
def test_a_tree_of_long_files_is_told_as_each_file_is(server: Server, options: bytes) -> None:
    root = server.workdir / "trees"
    (root / "in").mkdir(parents=True, exist_ok=True)
    texts = {"a": "é<&>\x01" * 30_000, "in/b": "", "in/c": "\U0001f600" * 70_000, "z": "short"}
    for name, text in texts.items():
        (root / name).write_text(text)
    (root / "broken").write_bytes(b"\xff\xf0\x9f\x98" * 40_000)

    tree = server.client.get(f"/filesystem/tree{root}{options.decode()}").json()

    found = {Path(file["path"]).relative_to(root).as_posix(): file for file in tree["files"]}
    for name in found:
        alone = server.client.get(f"/filesystem/{root / name}").json()
        assert found[name] == (alone if options else {k: alone[k] for k in found[name]})
    assert not options or set(found) == {*texts, "broken"}
    assert not options or found["in/c"]["content"] == texts["in/c"]


# The law


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, int]]:
    """Return a server with a tenth of the usual room, and its memory before all attacks."""
    room = {"SANDKEEPER_MAX_BODY_BYTES_TOTAL", "SANDKEEPER_MAX_ANSWER_BYTES_TOTAL"}
    env = dict.fromkeys(room, str(26 * MIB))
    with Server(tmp_path_factory.mktemp("attacked"), env=env) as running:
        yield running, resident(running.pid)


@pytest.mark.parametrize("attack", hostile_wire.ROWS, ids=lambda row: row[0].replace(" ", "-"))
def test_no_attack_makes_another_client_late_or_fills_memory(
    attacked: tuple[Server, int],
    monkeypatch: pytest.MonkeyPatch,
    attack: tuple[str, hostile.Attack],
) -> None:
    """At a tenth of the size: the benchmark runs each at its full size."""
    server, before = attacked
    name, act = attack
    monkeypatch.setattr(hostile_wire, "UNREAD_SECONDS", 0.5)
    with of_full_size(0.1):
        felt = hostile.measure(server, act, 10.0)

    print(f"{name}: worst {max(felt.times):.0f} ms, +{felt.growth >> 20} MiB")
    assert max(felt.times) < GENEROUS_MS
    assert felt.growth < 256 * MIB
    assert resident(server.pid) - before < 512 * MIB
    assert server.client.get("/health").status_code == 200


def test_requests_made_of_the_description_make_nobody_late(server: Server) -> None:
    found = search(server, seed=20, requests=30, seconds=100)

    assert len(found) > 10
    assert found[0].late < GENEROUS_MS, found[0]
    assert max(each.grown for each in found) < 512 * MIB
    assert asyncio.run(hostile_wire.exchange(server.url, "GET", "/health"))[0] == 200
