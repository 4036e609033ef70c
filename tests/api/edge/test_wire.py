"""Where one request ends and the next begins, whatever the head of the first one says."""

import socket
from pathlib import Path
from typing import BinaryIO

import pytest
from tests.api.blaxel.test_files_long import DATA, send, upload
from tests.api.port.test_proxy_long import answer_of, client
from tests.harness import Server

__all__ = ["client"]

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
START = b'{"command": "echo upgraded", "waitForCompletion": true}'
WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def start(framing: bytes, body: bytes) -> bytes:
    return b"POST /process HTTP/1.1\r\nHost: localhost\r\n" + H2C + framing + b"\r\n\r\n" + body


BODIES = {
    "of known length": start(b"Content-Length: %d" % len(START), START),
    "in chunks": start(
        b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(START), START)
    ),
}


@pytest.mark.parametrize("pieces", [1, 2], ids=["at once", "head and body apart"])
@pytest.mark.parametrize("sent", BODIES.values(), ids=BODIES)
def test_an_offer_of_http_2_is_passed_over_and_the_body_is_kept(
    client: tuple[socket.socket, BinaryIO], sent: bytes, pieces: int
) -> None:
    """Java's HTTP client sends one with each first request, whatever its method."""
    sock, file = client
    if pieces == 2:
        end = sent.index(b"\r\n\r\n") + 4
        sock.sendall(sent[:end])
        sent = sent[end:]
    sock.sendall(sent + HEALTH)

    status, body = answer_of(file)
    assert (status, b"upgraded" in body) == (200, True)
    assert answer_of(file)[0] == 200


def test_a_long_upload_may_offer_http_2(
    client: tuple[socket.socket, BinaryIO], tmp_path: Path
) -> None:
    sock, file = client
    offering = upload(tmp_path / "a", DATA).replace(
        b"Host: localhost\r\n", b"Host: localhost\r\n" + H2C, 1
    )
    send(sock, HEALTH.replace(b"\r\n\r\n", b"\r\n" + H2C + b"\r\n") + offering + HEALTH)

    assert [answer_of(file)[0] for _ in range(3)] == [200, 200, 200]
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_websocket_handshake_with_a_body_is_answered(
    client: tuple[socket.socket, BinaryIO],
) -> None:
    sock, file = client
    head = b"GET /terminal/ws HTTP/1.1\r\nHost: localhost\r\n" + WEBSOCKET
    sock.sendall(head + b"Content-Length: 5\r\n\r\nhello" + HEALTH)

    assert answer_of(file)[0] == 400
    assert answer_of(file)[0] == 200


@pytest.mark.parametrize("line", [b"POST /nothing", b"POST /port/1/", b"OPTIONS /process"])
def test_a_client_not_asked_for_its_body_is_not_read_on(server: Server, line: bytes) -> None:
    """It may send another request instead, which must not be taken for the body."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock,
        sock.makefile("rb") as file,
    ):
        expecting = (
            b" HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"
        )
        sock.sendall(line + expecting)
        head = b"".join(iter(file.readline, b"\r\n"))
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0] or 0)
        file.read(length)

        assert b"\r\nconnection: close\r\n" in head
        assert file.read() == b""


def test_a_client_asked_for_its_body_keeps_its_connection(
    client: tuple[socket.socket, BinaryIO],
) -> None:
    sock, file = client
    head = (
        b"POST /process HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    sock.sendall(head % len(START))
    assert file.readline().startswith(b"HTTP/1.1 100")
    assert file.readline() == b"\r\n"
    sock.sendall(START + HEALTH)

    assert answer_of(file)[0] == 200
    assert answer_of(file)[0] == 200
