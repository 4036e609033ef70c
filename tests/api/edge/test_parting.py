"""Answers that come before all of a request has: heard, though the client goes on sending."""

import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness import Server, until

MIB = 1 << 20
BODY = b"x" * (16 * MIB)
"""More than two kernels hold for a connection: it is sent while the answer is on its way."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"SANDKEEPER_TOKEN": "secret"}
    constants = {"sandkeeper.network.lingering.LINGER_SECONDS": 20.0}
    folder = tmp_path_factory.mktemp("guarded")
    with Server(folder, env=env, constants=constants) as running:
        yield running


def head(line: str, *fields: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode()


TOKEN, CLOSE = "Authorization: Bearer secret", "Connection: close"
LONG = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
PUT = "PUT /filesystem/parting"
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([head(PUT, CLOSE, LONG), BODY], 401),
        ([head(PUT, CLOSE, CHUNKED), b"%x\r\n" % len(BODY), BODY, b"\r\n0\r\n\r\n"], 401),
        ([head(PUT, CLOSE, LONG, "Expect: 100-continue"), BODY], 401),
        ([head(PUT, CLOSE, LONG, TOKEN, "Origin: http://evil.example"), BODY], 403),
        ([head("PUT /nothing/here", CLOSE, LONG, TOKEN), BODY], 404),
        ([head("POST /process", CLOSE, f"Content-Length: {1 << 40}", TOKEN), BODY], 413),
        ([head("GET /health?" + "a" * 40_000), BODY], 414),
        ([head("GET /health", "Cookie: " + "a=b;" * 50_000), BODY], 431),
        ([b"no HTTP\r\n", BODY], 400),
        ([head(PUT, TOKEN, CHUNKED), b"no number\r\n", BODY], 400),
        ([head(PUT, TOKEN, CHUNKED), b"5\r\nabcdeno end", BODY], 400),
        ([head("GET /health") + head("GET /health", "Content-Length: no"), BODY], 400),
    ],
)
def test_a_client_that_sends_all_before_it_reads_hears_why_it_is_refused(
    guarded: Server, sent: list[bytes], status: int
) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=60) as sock:
        for part in sent:
            sock.sendall(part)
        sock.shutdown(socket.SHUT_WR)
        heard = b"".join(iter(lambda: sock.recv(1 << 16), b""))

    last = heard[heard.rindex(b"HTTP/1.1 ") :]
    assert last.startswith(b"HTTP/1.1 %d " % status)
    assert len(last.partition(b"\r\n\r\n")[2]) == int(LENGTH.search(last)[1])


def test_a_body_that_comes_too_late_is_told_so_and_may_still_come(make_server: Any) -> None:
    constants = {"sandkeeper.network.lingering.LINGER_SECONDS": 20.0}
    server = make_server(env={"SANDKEEPER_BODY_SECONDS": "1"}, constants=constants)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(head(PUT, LONG))
        assert sock.recv(13) == b"HTTP/1.1 408 "
        sock.sendall(BODY)
        assert b'"error"' in b"".join(iter(lambda: sock.recv(1 << 16), b""))


def test_a_connection_is_kept_where_nobody_asks_for_its_end(guarded: Server) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=60) as sock:
        sock.sendall(head(PUT, LONG) + BODY + head("GET /health", CLOSE))
        heard = b"".join(iter(lambda: sock.recv(1 << 16), b""))

    assert [part[:3] for part in heard.split(b"HTTP/1.1 ")[1:]] == [b"401", b"200"]


def test_who_never_ends_is_left_after_a_while(make_server: Any) -> None:
    constants = {"sandkeeper.network.lingering.LINGER_SECONDS": 0.5}
    server = make_server(constants=constants)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(b"no HTTP\r\n")
        assert sock.recv(13) == b"HTTP/1.1 400 "
        b"".join(iter(lambda: sock.recv(1 << 16), b""))

        def is_reset() -> bool:
            try:
                sock.send(b"more")
            except ConnectionError:
                return True
            return False

        until(is_reset)


def test_a_server_that_ends_waits_for_nobody_who_was_refused(make_server: Any) -> None:
    server = make_server(constants={"sandkeeper.network.lingering.LINGER_SECONDS": 600.0})
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(b"no HTTP\r\n")
        assert sock.recv(13) == b"HTTP/1.1 400 "

        server.stop()

        assert "listens on" in server.log_path.read_text()
