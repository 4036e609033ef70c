"""The /port proxy with long bodies: the kernel carries them, and the connection goes on."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import pytest
from tests.api.port.test_proxy import Connection, Start, upstream
from tests.harness import Server

__all__ = ["upstream"]

LONG = os.urandom(3 << 20)


@pytest.fixture
def client(server: Server) -> Iterator[tuple[socket.socket, BinaryIO]]:
    """A connection that is kept."""
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, timeout=60) as sock, sock.makefile("rb") as file:
        yield sock, file


def send_beside(sock: socket.socket, data: bytes) -> None:
    """Send while the answer is read; who has answered need not take the rest."""

    def send() -> None:
        with suppress(OSError):
            sock.sendall(data)

    threading.Thread(target=send, daemon=True).start()


def answer_of(file: BinaryIO) -> tuple[int, bytes]:
    status = int(file.readline().split()[1])
    length = 0
    while (line := file.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return status, file.read(length)


def request(port: int, body: bytes = b"") -> bytes:
    head = b"POST /port/%d/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    return head % (port, len(body)) + body


def echo(connection: Connection) -> None:
    connection.reply(connection.body())


def test_one_connection_carries_long_bodies_one_after_the_other(
    client: tuple[socket.socket, BinaryIO], upstream: Start
) -> None:
    sock, file = client
    port = upstream(echo).port

    for size in (len(LONG), 5, len(LONG), 300_000):
        sock.sendall(request(port, LONG[:size]))
        assert answer_of(file) == (200, LONG[:size])


def test_requests_sent_ahead_behind_a_long_body_are_answered_in_order(
    client: tuple[socket.socket, BinaryIO], upstream: Start
) -> None:
    sock, file = client
    port = upstream(echo).port
    sent = request(port, LONG) + request(port, b"second") + request(port, LONG[:400_000])
    send_beside(sock, sent)

    assert answer_of(file) == (200, LONG)
    assert answer_of(file) == (200, b"second")
    assert answer_of(file) == (200, LONG[:400_000])


def test_a_body_flows_back_while_it_is_still_being_sent(
    client: tuple[socket.socket, BinaryIO], upstream: Start
) -> None:
    def answer(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LONG))
        for _ in range(0, len(LONG), 1 << 16):
            connection.send(connection.file.read(1 << 16))

    sock, file = client
    sent = request(upstream(answer).port, LONG)
    sock.sendall(sent[: -len(LONG)] + LONG[: 1 << 20])
    status = file.readline()
    while file.readline() != b"\r\n":
        continue
    first = file.read(1 << 20)
    sock.sendall(LONG[1 << 20 :])

    assert status.startswith(b"HTTP/1.1 200")
    assert first + file.read(len(LONG) - len(first)) == LONG


def test_a_connection_lives_on_after_a_long_body_that_nobody_wanted(
    client: tuple[socket.socket, BinaryIO], upstream: Start
) -> None:
    def refuse(connection: Connection) -> None:
        connection.file.read(1 << 20)
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")

    sock, file = client
    refusing, echoing = upstream(refuse).port, upstream(echo).port
    sent = request(refusing, LONG + LONG) + request(echoing, b"next")
    send_beside(sock, sent)

    assert answer_of(file) == (413, b"big")
    assert answer_of(file) == (200, b"next")


def test_a_long_answer_cut_short_closes_the_connection(
    client: tuple[socket.socket, BinaryIO], upstream: Start
) -> None:
    def cut(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LONG))
        connection.send(LONG[:-1])

    sock, file = client
    sock.sendall(request(upstream(cut).port))

    assert answer_of(file) == (200, LONG[:-1])
    assert file.read() == b""


@pytest.mark.parametrize("sending", [True, False])
def test_a_client_that_leaves_in_a_long_body_ends_the_servers_work(
    server: Server, upstream: Start, sending: bool
) -> None:
    left, under_way = threading.Event(), threading.Event()

    def answer(connection: Connection) -> None:
        if not sending:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
            connection.send(LONG)
        under_way.set()
        with suppress(ConnectionResetError):
            while connection.file.read(1 << 16):
                continue
        left.set()

    port = upstream(answer).port
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        head = b"POST /port/%d/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        sock.sendall(head % (port, (1 << 30) if sending else 0))
        if sending:
            sock.sendall(LONG)
        else:
            sock.recv(1 << 16)
        assert under_way.wait(60)

    assert left.wait(60)


def test_a_server_that_dies_in_a_long_upload_is_named(
    client: tuple[socket.socket, BinaryIO], upstream: Start
) -> None:
    sock, file = client
    sent = request(upstream(lambda one: one.file.read(1 << 20)).port, LONG * 4)
    send_beside(sock, sent)

    status, body = answer_of(file)

    assert (status, b"UPSTREAM_BROKEN" in body) == (422, True)
