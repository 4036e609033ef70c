"""The /port proxy over HTTP: bytes, headers, framing, streaming, ends."""

import asyncio
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
from tests.api.port.listener import Listener
from tests.harness import Server, free_port, resident, until

Answer = Callable[["Connection"], None]


class Connection:
    """One request that an upstream received, and the socket to answer on."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")
        self.line = self.file.readline().decode("latin-1").rstrip("\r\n")
        self.headers: list[tuple[str, str]] = []
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").rstrip("\r\n").partition(": ")
            self.headers.append((name, value))

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    def body(self) -> bytes:
        return self.file.read(int(self.header("content-length") or 0))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self, body: bytes, *fields: bytes) -> None:
        head = b"".join(field + b"\r\n" for field in fields)
        self.send(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


class Upstream(Listener):
    """A server that answers each connection by a function."""

    def __init__(self, answer: Answer, host: str = "127.0.0.1", port: int = 0) -> None:
        self.answer = answer
        self.failures: list[Exception] = []
        super().__init__(host, port)

    def take(self, sock: socket.socket) -> None:
        """Have the function answer, and keep why it could not."""
        connection = Connection(sock)
        try:
            self.answer(connection)
        except OSError as error:
            self.failures.append(error)
        connection.file.close()


Start = Callable[..., Upstream]


@pytest.fixture
def upstream() -> Iterator[Start]:
    made: list[Upstream] = []

    def start(answer: Answer, **options: object) -> Upstream:
        made.append(Upstream(answer, **options))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for one in made:
        one.close()


def echo(connection: Connection) -> None:
    told = {"line": connection.line, "headers": connection.headers}
    connection.reply(json.dumps(told).encode(), b"Content-Type: application/json")


def raw_request(server: Server, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(data)
        return sock.makefile("rb").read()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"])
def test_every_method_reaches_the_server(server: Server, upstream: Start, method: str) -> None:
    port = upstream(echo).port

    reply = server.client.request(method, f"/port/{port}/a")

    assert reply.status_code == 200
    assert reply.json()["line"] == f"{method} /a HTTP/1.1"


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ("/a%2Fb/%E4/../x//y", "/a%2Fb/%E4/../x//y"),
        ("/?q=%20a+b&&c", "/?q=%20a+b&&c"),
        ("/process/x%2Fy?token=abc", "/process/x%2Fy?token=abc"),
        ("/trailing/", "/trailing/"),
    ],
)
def test_path_and_query_arrive_byte_for_byte(
    server: Server, upstream: Start, asked: str, seen: str
) -> None:
    port = upstream(echo).port
    head = (
        f"GET /port/{port}{asked} HTTP/1.1\r\nHost: sandbox.localhost\r\nConnection: close\r\n\r\n"
    )

    answer = raw_request(server, head.encode())

    assert json.loads(answer.partition(b"\r\n\r\n")[2])["line"] == f"GET {seen} HTTP/1.1"


@pytest.mark.parametrize(
    ("method", "asked", "status", "led"),
    [
        ("GET", "/port/{}", 301, "/port/{}/"),
        ("GET", "/port/{}?x=1", 301, "/port/{}/?x=1"),
        ("HEAD", "/port/{}", 307, "/port/{}/"),
        ("GET", "/port-keep/{}", 301, "/port-keep/{}/"),
        ("POST", "/port/{}", 200, ""),
    ],
)
def test_the_root_of_a_port_has_a_slash_to_which_its_addresses_are_relative(
    server: Server, upstream: Start, method: str, asked: str, status: int, led: str
) -> None:
    port = upstream(echo).port

    reply = server.client.request(method, asked.format(port))

    assert reply.status_code == status
    assert reply.headers.get("location", "") == led.format(port)


def test_a_server_that_knows_its_base_is_asked_for_it_as_it_was_written(
    server: Server, upstream: Start
) -> None:
    """Next.js writes its root without a slash, vite with one, and each sends the other on."""
    port = upstream(echo).port
    wanted = {"via": "base", "once": False}
    base = server.client.post(f"/network/ports/{port}/links", json=wanted).json()["base"]

    for asked in (base, base.rstrip("/"), base + "a"):
        told = server.client.get(asked).json()
        assert told["line"] == f"GET {asked} HTTP/1.1"


def test_hop_by_hop_fields_stay_on_their_hop(server: Server, upstream: Start) -> None:
    def answer(connection: Connection) -> None:
        told = json.dumps(connection.headers).encode()
        fields = [b"Connection: keep-alive, X-Own", b"Keep-Alive: timeout=5", b"X-Own: 1"]
        fields += [b"Proxy-Authenticate: Basic", b"X-End: 2", b"Set-Cookie: a=1"]
        connection.reply(told, *fields, b"Set-Cookie: b=2", b"Server: theirs")

    headers = {
        "Connection": "close, X-Secret",
        "X-Secret": "1",
        "TE": "trailers",
        "Proxy-Authorization": "x",
        "X-Kept": b"\xe9",
        "Authorization": "Bearer theirs",
        "X-Blaxel-Authorization": "Bearer cloud",
    }
    reply = server.client.get(f"/port/{upstream(answer).port}/", headers=headers)

    sent = dict(reply.json())
    assert sent["connection"] == "close"
    assert {"x-secret", "te", "proxy-authorization", "x-blaxel-authorization"}.isdisjoint(sent)
    assert (sent["x-kept"], sent["authorization"]) == ("\xe9", "Bearer theirs")
    assert {"keep-alive", "x-own", "proxy-authenticate"}.isdisjoint(reply.headers)
    assert (reply.headers["x-end"], reply.headers["server"]) == ("2", "theirs")
    assert reply.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert "cache-control" not in reply.headers
    assert "access-control-allow-origin" not in reply.headers


FORWARDED = {
    "Host": "sandbox.localhost",
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/edge/",
    "X-Forwarded-User": "root",
    "X_Forwarded_Host": "evil",
    "X-Real-IP": "203.0.113.7",
    "Forwarded": "for=203.0.113.7",
}


def test_a_trusted_gateways_word_is_passed_on_and_added_to(
    make_server: Callable[..., Server], upstream: Start
) -> None:
    port = upstream(echo).port
    behind = make_server(env={"SANDKEEPER_TRUSTED_GATEWAYS": "127.0.0.1"})

    told = dict(behind.client.get(f"/port/{port}/", headers=FORWARDED).json()["headers"])

    assert told["host"] == f"localhost:{port}"
    assert told["x-forwarded-host"] == "sandbox.localhost"
    assert told["x-forwarded-for"] == "203.0.113.7, 127.0.0.1"
    assert told["x-forwarded-proto"] == "https"
    assert told["x-forwarded-prefix"] == f"/edge/port/{port}"
    assert told["x-forwarded-user"] == "root"
    assert (told["forwarded"], told["x-real-ip"]) == ("for=203.0.113.7", "203.0.113.7")


@pytest.mark.parametrize("gateways", ["", "192.0.2.0/24"])
def test_nobody_elses_word_about_the_way_is_passed_on(
    make_server: Callable[..., Server], upstream: Start, gateways: str
) -> None:
    port = upstream(echo).port
    own = make_server(env={"SANDKEEPER_TRUSTED_GATEWAYS": gateways})

    told = dict(own.client.get(f"/port/{port}/", headers=FORWARDED).json()["headers"])

    assert told["x-forwarded-host"] == "sandbox.localhost"
    assert told["x-forwarded-for"] == "127.0.0.1"
    assert told["x-forwarded-proto"] == "http"
    assert told["x-forwarded-prefix"] == f"/port/{port}"
    assert {"forwarded", "x-real-ip", "x-forwarded-user", "x_forwarded_host"}.isdisjoint(told)


@pytest.mark.parametrize("told", ["t%2Bk%20n%2F", "t+k n/", "t%2Bk+n/"])
def test_a_referer_with_the_token_is_left_out_however_it_is_written(
    make_server: Callable[..., Server], upstream: Start, told: str
) -> None:
    guarded = make_server(env={"SANDKEEPER_TOKEN": "t+k n/"})
    headers = {"Authorization": "Bearer t+k n/", "X-Other": "kept"}
    headers["Referer"] = f"{guarded.url}/?token={told}"

    sent = guarded.client.get(f"/port/{upstream(echo).port}/", headers=headers).json()["headers"]

    assert ["x-other", "kept"] in sent
    assert not [name for name, _ in sent if name == "referer"]


def test_the_token_of_this_server_is_not_told(make_server: Callable[..., Server]) -> None:
    guarded = make_server(env={"SANDKEEPER_TOKEN": "s3cret"})
    target = Upstream(echo)
    try:
        reply = guarded.client.get(
            f"/port/{target.port}/?a=1&token=s3cret&token=other",
            headers={"Authorization": "Bearer s3cret", "Cookie": "a=1; sandkeeper_token=s3cret"},
        )
        refused = guarded.client.get(f"/port/{target.port}/")
    finally:
        target.close()

    assert reply.json()["line"] == "GET /?a=1&token=other HTTP/1.1"
    assert "s3cret" not in reply.text
    assert dict(reply.json()["headers"])["cookie"] == "a=1"
    assert refused.status_code == 401


@pytest.mark.parametrize("host", ["::1", "127.0.0.2"])
def test_a_server_elsewhere_than_127_0_0_1_is_found(
    server: Server, upstream: Start, host: str
) -> None:
    port = upstream(echo, host=host, port=free_port()).port  # nobody else's on 127.0.0.1

    assert server.client.get(f"/port/{port}/x").json()["line"] == "GET /x HTTP/1.1"


def test_a_port_where_nothing_listens_is_said_so(server: Server) -> None:
    port = free_port()

    reply = server.client.get(f"/port/{port}/")

    assert reply.status_code == 422
    assert reply.json() == {
        "error": f"nothing listens on port {port}",
        "code": "PORT_NOT_LISTENING",
    }


@pytest.mark.parametrize("port", ["0", "65536", "abc", "-1", "٣", "80a"])
def test_a_bad_port_is_a_400(server: Server, port: str) -> None:
    reply = server.client.get(f"/port/{port}/")

    assert (reply.status_code, "invalid port" in reply.json()["error"]) == (400, True)


def test_a_path_that_leads_back_here_is_refused_but_this_server_can_be_asked(
    server: Server,
) -> None:
    own = f"/port/{server.port}"

    assert server.client.get(f"{own}/health").json()["status"] == "ok"
    assert server.client.get(f"{own}{own}/health").status_code == 400


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "UPSTREAM_BROKEN"),
        (b"", "UPSTREAM_BROKEN"),
        (b"HTTP/1.1 200 OK\r\nX: ", "UPSTREAM_BROKEN"),
        (b"HTTP/1.1 999 Odd\r\n\r\n", "UPSTREAM_BROKEN"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "UPSTREAM_BROKEN"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300000, "UPSTREAM_BROKEN"),
    ],
)
def test_an_answer_that_is_not_http_is_the_servers_fault_said_in_json(
    server: Server, upstream: Start, answer: bytes, code: str
) -> None:
    port = upstream(lambda connection: connection.send(answer)).port

    reply = server.client.get(f"/port/{port}/")

    assert (reply.status_code, reply.json()["code"]) == (422, code)


def test_statuses_and_interim_responses(server: Server, upstream: Start) -> None:
    def answer(connection: Connection) -> None:
        status = connection.line.split()[1][1:]
        body = b"" if status in {"204", "304"} else b"Content-Length: 2\r\n\r\nok"
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        connection.send(f"HTTP/1.1 {status} Whatever\r\nETag: x\r\n".encode() + (body or b"\r\n"))

    port = upstream(answer).port

    for status in (200, 204, 304, 404, 418, 500, 503, 599):
        reply = server.client.get(f"/port/{port}/{status}")
        assert reply.status_code == status
        assert reply.headers["etag"] == "x"
        assert "link" not in reply.headers
        assert reply.content == (b"" if status in {204, 304} else b"ok")


def test_head_keeps_the_length_and_has_no_body(server: Server, upstream: Start) -> None:
    port = upstream(lambda one: one.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")).port

    reply = server.client.head(f"/port/{port}/")

    assert (reply.headers["content-length"], reply.content) == ("12345", b"")
    assert server.client.get("/health").status_code == 200


def test_a_body_until_the_end_of_the_connection_is_whole(server: Server, upstream: Start) -> None:
    body = os.urandom(3_000_000)
    port = upstream(lambda one: one.send(b"HTTP/1.0 200 OK\r\n\r\n" + body)).port

    assert server.client.get(f"/port/{port}/").content == body


def test_a_body_cut_short_is_not_passed_off_as_whole(server: Server, upstream: Start) -> None:
    heads = [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"]
    heads.append(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    for head in heads:
        port = upstream(lambda one, head=head: one.send(head)).port

        with pytest.raises(httpx.RemoteProtocolError):
            server.client.get(f"/port/{port}/")


@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson"])
def test_records_flow_at_once(server: Server, upstream: Start, kind: str) -> None:
    seen = [threading.Event() for _ in range(3)]

    def answer(connection: Connection) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.send(head.encode())
        for number, event in enumerate(seen):
            connection.send(b"7\r\ndata %d\n\r\n" % number)
            assert event.wait(60)
        connection.send(b"0\r\nX-Trailer: 1\r\n\r\n")

    port = upstream(answer).port

    with server.client.stream("GET", f"/port/{port}/") as reply:
        assert reply.headers["content-type"] == kind
        for number, line in enumerate(reply.iter_lines()):
            assert line == f"data {number}"
            seen[number].set()
    assert all(event.is_set() for event in seen)


def test_a_head_flows_before_any_body(server: Server, upstream: Start) -> None:
    go = threading.Event()

    def answer(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
        assert go.wait(60)
        connection.send(b"x")

    with server.client.stream("GET", f"/port/{upstream(answer).port}/") as reply:
        go.set()
        assert reply.read() == b"x"


def test_an_upload_of_unknown_length_arrives_while_it_is_made(
    server: Server, upstream: Start
) -> None:
    arrived: list[bytes] = []

    def answer(connection: Connection) -> None:
        assert connection.header("transfer-encoding") == "chunked"
        while size := int(connection.file.readline(), 16):
            arrived.append(connection.file.read(size))
            connection.file.readline()
        connection.file.readline()
        connection.reply(b"".join(arrived))

    def parts() -> Iterator[bytes]:
        for number in range(3):
            yield b"part %d;" % number
            until(lambda: len(arrived) > number)  # noqa: B023 - called before the next round

    reply = server.client.post(f"/port/{upstream(answer).port}/", content=parts())

    assert reply.content == b"part 0;part 1;part 2;"


def test_a_hundred_megabytes_pass_in_both_directions(server: Server, upstream: Start) -> None:
    block = os.urandom(1 << 20)

    def answer(connection: Connection) -> None:
        digest = hashlib.sha1()
        left = int(connection.header("content-length") or 0)
        while left:
            data = connection.file.read(min(left, 1 << 20))
            digest.update(data)
            left -= len(data)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % (100 << 20))
        connection.send(b"X-Digest: " + digest.hexdigest().encode() + b"\r\n\r\n")
        for _ in range(100):
            connection.send(block)

    expected = hashlib.sha1()
    for _ in range(100):
        expected.update(block)
    before = resident(server.pid)

    with server.client.stream(
        "POST",
        f"/port/{upstream(answer).port}/",
        content=(block for _ in range(100)),
        headers={"Content-Length": str(100 << 20)},
    ) as reply:
        digest = hashlib.sha1()
        for data in reply.iter_raw():
            digest.update(data)

    assert digest.hexdigest() == expected.hexdigest() == reply.headers["x-digest"]
    assert resident(server.pid) - before < 20 << 20


def test_a_client_that_does_not_read_stops_the_server_not_the_memory(
    server: Server, upstream: Start
) -> None:
    sent = 0

    def answer(connection: Connection) -> None:
        nonlocal sent
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 32))
        block = bytes(1 << 20)
        for _ in range(1 << 12):
            connection.send(block)
            sent += len(block)

    port = upstream(answer).port
    before = resident(server.pid)
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET /port/%d/ HTTP/1.1\r\nHost: localhost\r\n\r\n" % port)
        until(lambda: sent)
        seen = -1
        while seen != sent:
            seen = sent
            threading.Event().wait(0.05)

        assert sent < 40 << 20
        assert resident(server.pid) - before < 10 << 20


def test_a_server_that_does_not_read_stops_the_client_not_the_memory(
    server: Server, upstream: Start
) -> None:
    go = threading.Event()

    def answer(connection: Connection) -> None:
        assert go.wait(60)
        connection.reply(b"enough")

    before = resident(server.pid)
    head = b"POST /port/%d/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head % upstream(answer).port)
        sock.settimeout(0.3)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1 << 30:
                sent += sock.send(bytes(1 << 20))
        grown = resident(server.pid) - before
        go.set()
        sock.settimeout(60)
        reply = sock.recv(65536)

    assert sent < 40 << 20
    assert grown < 10 << 20
    assert reply.startswith(b"HTTP/1.1 200")


def test_a_client_that_leaves_ends_the_servers_work(server: Server, upstream: Start) -> None:
    left = threading.Event()
    started = threading.Event()

    def answer(connection: Connection) -> None:
        started.set()
        if connection.file.read(1) == b"":
            left.set()

    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET /port/%d/ HTTP/1.1\r\nHost: localhost\r\n\r\n" % upstream(answer).port)
        assert started.wait(60)

    assert left.wait(60)


def test_an_early_answer_to_an_upload_reaches_the_client(server: Server, upstream: Start) -> None:
    def answer(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        connection.file.read()

    head = b"POST /port/%d/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head % upstream(answer).port)
        reply = sock.recv(65536)

    assert reply.startswith(b"HTTP/1.1 413")


def test_a_hundred_requests_at_once_get_their_own_answers(server: Server, upstream: Start) -> None:
    port = upstream(echo).port

    async def run() -> list[str]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            replies = await asyncio.gather(
                *(client.get(f"/port/{port}/{number}") for number in range(100))
            )
            return [reply.json()["line"] for reply in replies]

    assert asyncio.run(run()) == [f"GET /{number} HTTP/1.1" for number in range(100)]


def test_nothing_is_left_open_afterwards(server: Server, upstream: Start) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{server.pid}/fd"))

    port = upstream(echo).port
    server.client.get(f"/port/{port}/")
    before = descriptors()
    for _ in range(20):
        server.client.get(f"/port/{port}/")

    until(lambda: descriptors() <= before)
