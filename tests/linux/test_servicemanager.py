"""What a service manager is told: a real socket in its place, real servers."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.harness import Server

from sandkeeper.linux.servicemanager import KEPT_NAME, ServiceManager

SECONDS = 60.0
ASK = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
GIVEN = """
import os, sys
for place, number in enumerate(map(int, sys.argv[1].split(",")), 3):
    os.dup2(number, place)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Starts a program as a service manager does, with descriptors from 3 on."""


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Return a socket as a manager has it, and how its environment names it."""
    name = str(tmp_path / "notify")
    named = name if request.param == "path" else f"@{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(named.replace("@", "\0"))
        sock.settimeout(SECONDS)
        yield named, sock


def told(sock: socket.socket) -> dict[str, str]:
    """Return the next message."""
    return dict(line.split("=", 1) for line in sock.recv(4096).decode().split("\n"))


def test_it_learns_that_requests_are_answered_that_all_is_well_and_of_the_end(
    manager: tuple[str, socket.socket], make_server: Callable[..., Server]
) -> None:
    name, sock = manager
    unit = {"CREDENTIALS_DIRECTORY": "/run/credentials/x", "JOURNAL_STREAM": "8:3054"}
    server = make_server(env={"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "300000", **unit})

    (listener,) = kept(sock)
    os.close(listener)
    first = told(sock)
    assert (first["READY"], first["MAINPID"]) == ("1", str(server.pid))
    assert [told(sock)["WATCHDOG"] for _ in range(3)] == ["1", "1", "1"]
    others: list[dict[str, str]] = []

    def listen() -> None:
        """Read all the time: the kernel keeps ten messages, and what comes then is lost."""
        while not others:
            if "WATCHDOG" not in (one := told(sock)):
                others.append(one)

    listening = threading.Thread(target=listen)
    listening.start()

    body = {"command": "exec env", "waitForCompletion": True}
    seen = server.client.post("/process", json=body).json()["stdout"]
    assert not any(variable in seen for variable in ("NOTIFY_SOCKET", *unit))
    assert "WATCHDOG" not in seen

    server.stop()
    listening.join()
    assert others[0]["STOPPING"] == "1"


def test_a_watchdog_of_another_process_is_not_fed_and_a_dead_manager_harms_nobody(
    tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.settimeout(SECONDS)
        env = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid())}
        server = make_server(env=env)
        os.close(*kept(sock))
        assert told(sock)["READY"] == "1"
        server.client.get("/health").raise_for_status()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(4096)
    server.client.get("/health").raise_for_status()
    server.stop()


def kept(sock: socket.socket) -> list[int]:
    """Return the descriptors of the next message, which gives them to be kept."""
    data, descriptors, _, _ = socket.recv_fds(sock, 4096, 8)
    assert data.decode().split("\n") == ["FDSTORE=1", f"FDNAME={KEPT_NAME}"]
    return descriptors


def test_who_connects_while_no_server_runs_is_answered_by_the_next(
    tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.settimeout(SECONDS)
        first = make_server(env={"NOTIFY_SOCKET": name})
        numbers = kept(sock)
        port = httpx.URL(first.url).port
        first.kill9()
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
            client.sendall(ASK)
            args = ["-m", "sandkeeper", "--host", "127.0.0.1", "--port", str(port)]
            env = {
                **os.environ,
                "SANDKEEPER_STATE_DIR": str(tmp_path / "next"),
                "SANDKEEPER_LOG": "none",
                "LISTEN_FDS": str(len(numbers)),
                "LISTEN_FDNAMES": ":".join([KEPT_NAME] * len(numbers)),
            }
            command = [sys.executable, "-c", GIVEN, ",".join(map(str, numbers)), *args]
            with subprocess.Popen(command, env=env, pass_fds=numbers) as second:
                try:
                    assert client.recv(4096).startswith(b"HTTP/1.1 200")
                    body = {"command": "env; ls /proc/self/fd", "waitForCompletion": True}
                    made = httpx.post(f"{first.url}/process", json=body, timeout=SECONDS).json()
                    assert "LISTEN_" not in made["stdout"]
                    assert made["stdout"].split()[-4:] == ["0", "1", "2", "3"]  # of ls alone
                finally:
                    second.terminate()
                assert second.wait(SECONDS) == 0
            # The manager has it still: who comes now is kept out, or waits for the next once more.
            with socket.socket(fileno=numbers[0]) as listener:
                assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        for number in numbers[1:]:
            os.close(number)


def test_of_what_a_manager_kept_only_what_fits_is_taken_and_the_rest_listens_no_more() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as wanted,
        socket.create_server(("127.0.0.1", 0)) as old,
        socket.create_server(("127.0.0.1", 0)) as foreign,
    ):
        given = {os.dup(wanted.fileno()): KEPT_NAME, os.dup(old.fileno()): KEPT_NAME}
        given[os.dup(foreign.fileno())] = "another.socket"
        manager = ServiceManager(given=given)

        (taken,) = manager.take(lambda one: one.getsockname() == wanted.getsockname())

        with taken:
            assert taken.getsockname() == wanted.getsockname()
        listens = [
            one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            for one in (wanted, old, foreign)
        ]
        assert listens == [1, 0, 1]
        assert manager.take(lambda _one: True) == []
