"""Long uploads: read from the socket in large blocks, and the connection goes on after them."""

import os
import socket
import threading
from pathlib import Path
from typing import BinaryIO

from tests.api.port.test_proxy_long import answer_of, client
from tests.harness import Server, until

__all__ = ["client"]

DATA = os.urandom(5 << 20)
BOUNDARY = b"some-boundary"
HEAD = b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
TAIL = b"\r\n--" + BOUNDARY + b"--\r\n"


def upload(path: Path, data: bytes) -> bytes:
    body = HEAD + data + TAIL
    return (
        b"PUT /filesystem/%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=%s\r\n\r\n"
    ) % (bytes(path), len(body), BOUNDARY) + body


def send(sock: socket.socket, data: bytes) -> None:
    threading.Thread(target=sock.sendall, args=(data,), daemon=True).start()


def test_long_uploads_follow_each_other_on_one_connection(
    client: tuple[socket.socket, BinaryIO], tmp_path: Path
) -> None:
    sock, file = client
    # What looks like the beginning of a boundary lies across the blocks.
    tricky = (b"\r\n--some-bound" + b"x" * 99_991) * 30
    send(sock, upload(tmp_path / "a", DATA) + upload(tmp_path / "b", tricky))

    assert answer_of(file)[0] == 200
    assert answer_of(file)[0] == 200
    assert (tmp_path / "a").read_bytes() == DATA
    assert (tmp_path / "b").read_bytes() == tricky


def test_a_long_upload_that_is_refused_leaves_the_connection_usable(
    client: tuple[socket.socket, BinaryIO], tmp_path: Path
) -> None:
    sock, file = client
    send(sock, upload(tmp_path, DATA) + upload(tmp_path / "b", b"small"))

    assert answer_of(file)[0] == 422
    assert answer_of(file)[0] == 200
    assert (tmp_path / "b").read_bytes() == b"small"


def test_a_client_that_leaves_in_a_long_upload_leaves_no_file(
    server: Server, tmp_path: Path
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(upload(tmp_path / "a", DATA)[:-100_000])
        until(lambda: os.listdir(tmp_path))

    until(lambda: not os.listdir(tmp_path))
