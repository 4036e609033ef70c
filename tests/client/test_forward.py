"""`forward`: connections to ports here that arrive at ports of the sandbox."""

import contextlib
import hashlib
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.client.conftest import Ask
from tests.client.verbs import Verb, begin
from tests.harness import Server, free_port, until

Serve = Callable[[socket.socket], None]
TEXT = b"x" * 100_000


@contextlib.contextmanager
def listening(serve: Serve) -> Iterator[int]:
    """Serve each connection in a thread; gives the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        threads: list[threading.Thread] = []

        def attend(taken: socket.socket) -> None:
            with taken, contextlib.suppress(OSError):
                serve(taken)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken, _ = listener.accept()
                    threads.append(threading.Thread(target=attend, args=(taken,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(60)
            for thread in threads:
                thread.join(60)


@contextlib.contextmanager
def forwarded(server: Server, remote: int, url: str = "") -> Iterator[tuple[int, "Told"]]:
    """Run `forward` to a port; gives the port here and what it says on standard error."""
    env = {**server.env, "SANDKEEPER_URL": url or server.url}
    with begin("forward", f"127.0.0.1:0:{remote}", env=env) as child:
        assert child.stdout is not None
        told = Told(child)
        line = child.stdout.readline().decode()
        assert line.endswith(f" -> {remote}\n"), (line, told.text)
        try:
            yield int(line.split(" ")[0].rpartition(":")[2]), told
        finally:
            child.send_signal(signal.SIGTERM)
            assert child.wait(60) == 143
            told.thread.join(60)
            assert "Traceback" not in told.text


class Told:
    """What a child says on standard error, as it says it."""

    def __init__(self, child: "Verb | subprocess.Popen[bytes]") -> None:
        self.text = ""
        self.thread = threading.Thread(target=self._read, args=(child,))
        self.thread.start()

    def _read(self, child: "Verb | subprocess.Popen[bytes]") -> None:
        assert child.stderr is not None
        with child.stderr as stream:
            for line in stream:
                self.text += line.decode()


def received(sock: socket.socket) -> bytes:
    """Return all that comes to the end of file."""
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def answering_behind_the_end(taken: socket.socket) -> None:
    """Read to the end of what comes, and only then answer."""
    data = received(taken)
    taken.sendall(hashlib.sha256(data).digest() + TEXT)


def exchanged(port: int, data: bytes) -> bytes:
    """Send all, end that direction, and return all that comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return received(sock)


def assert_reset(port: int) -> None:
    """Connect, and see it fail."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    with sock, pytest.raises(ConnectionResetError):
        received(sock)


def test_bytes_and_the_end_of_each_direction_arrive(server: Server) -> None:
    data = os.urandom(5 << 20)
    with listening(answering_behind_the_end) as remote, forwarded(server, remote) as (port, told):
        assert exchanged(port, data) == hashlib.sha256(data).digest() + TEXT
        assert exchanged(port, b"") == hashlib.sha256(b"").digest() + TEXT
    assert told.text == ""


def test_many_connections_are_open_at_once(server: Server) -> None:
    together = threading.Barrier(100)

    def serve(taken: socket.socket) -> None:
        name = taken.recv(16)
        together.wait(60)
        taken.sendall(name)

    with listening(serve) as remote, forwarded(server, remote) as (port, _):
        socks = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(100)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%016d" % number)
        answers = [received(sock) for sock in socks]
        for sock in socks:
            sock.close()

    assert answers == [b"%016d" % number for number in range(100)]


def test_a_reset_is_a_reset_and_no_end(server: Server) -> None:
    def serve(taken: socket.socket) -> None:
        taken.recv(1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with (
        listening(serve) as remote,
        forwarded(server, remote) as (port, _),
        socket.create_connection(("127.0.0.1", port), timeout=60) as sock,
    ):
        sock.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            received(sock)


def test_a_port_on_which_nobody_listens_is_told(server: Server) -> None:
    remote = free_port()
    with forwarded(server, remote) as (port, told):
        assert_reset(port)
        until(lambda: f"nothing listens on port {remote}" in told.text)


def test_the_servers_own_port_is_refused(server: Server) -> None:
    with forwarded(server, server.port) as (port, told):
        assert_reset(port)
        until(lambda: "this server itself" in told.text)


def test_a_server_that_is_killed_resets_what_is_open_and_new_ones_wait_for_it(make_server) -> None:
    server = make_server()

    def serve(taken: socket.socket) -> None:
        while data := taken.recv(1 << 16):
            taken.sendall(data)

    with listening(serve) as remote, forwarded(server, remote) as (port, _):
        sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"
        server.kill9()
        with pytest.raises(ConnectionResetError):
            received(sock)
        sock.close()

        waiting = socket.create_connection(("127.0.0.1", port), timeout=60)
        waiting.sendall(b"again")
        server.restart()
        assert waiting.recv(5) == b"again"
        waiting.close()


@contextlib.contextmanager
def gateway(server: Server) -> Iterator[str]:
    """Stand before a server as one that passes no upgrade but to WebSockets; gives its address."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve(taken: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += taken.recv(1 << 16)
        if b"upgrade: tcp" in head.lower():
            taken.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n\r\nno!\n")
            return
        with socket.create_connection(("127.0.0.1", server.port)) as far:
            far.sendall(head)
            back = threading.Thread(target=pump, args=(far, taken))
            back.start()
            pump(taken, far)
            back.join(60)

    with listening(serve) as port:
        yield f"http://127.0.0.1:{port}"


def test_behind_a_gateway_that_passes_websockets_alone_it_is_the_same(server: Server) -> None:
    data = os.urandom(3 << 20)
    with (
        listening(answering_behind_the_end) as remote,
        gateway(server) as url,
        forwarded(server, remote, url) as (port, told),
    ):
        assert exchanged(port, data) == hashlib.sha256(data).digest() + TEXT
        assert exchanged(port, b"") == hashlib.sha256(b"").digest() + TEXT
    assert told.text == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x"], b"is no [ADDR:]LOCAL:REMOTE"),
        (["1:70000"], b"ports are numbers from 1 to 65535"),
        (["1:2:3:4"], b"is no [ADDR:]LOCAL:REMOTE"),
        (["no.such.host.invalid:0:80"], b"there is no host of that name"),
    ],
)
def test_what_makes_no_sense_is_told(ask: Ask, words: list[str], said: bytes) -> None:
    done = ask("forward", *words)

    assert done.returncode == 1
    assert said in done.stderr


def test_a_wrong_token_is_told_before_anybody_connects(ask: Ask, make_server) -> None:
    server = make_server(env={"SANDKEEPER_TOKEN": "secret"})

    done = ask("forward", ":80", url=server.url, env={"SANDKEEPER_TOKEN": "wrong"})

    assert done.returncode == 4
    assert done.stdout == b""


def test_a_plain_request_is_told_what_this_is_for(server: Server) -> None:
    answer = server.client.get("/network/ports/80/tcp")

    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "tcp"
    headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
    assert server.client.get("/network/ports/0/tcp", headers=headers).status_code == 400
