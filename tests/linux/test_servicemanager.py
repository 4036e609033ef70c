"""What a service manager is told: a real socket in its place, real servers."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.harness import Server

SECONDS = 60.0


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

    first = told(sock)
    assert (first["READY"], first["MAINPID"]) == ("1", str(server.pid))
    assert [told(sock)["WATCHDOG"] for _ in range(3)] == ["1", "1", "1"]

    body = {"command": "exec env", "waitForCompletion": True}
    seen = server.client.post("/process", json=body).json()["stdout"]
    assert not any(variable in seen for variable in ("NOTIFY_SOCKET", *unit))
    assert "WATCHDOG" not in seen

    server.stop()
    last = told(sock)
    while "WATCHDOG" in last:
        last = told(sock)
    assert last["STOPPING"] == "1"


def test_a_watchdog_of_another_process_is_not_fed_and_a_dead_manager_harms_nobody(
    tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.settimeout(SECONDS)
        env = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid())}
        server = make_server(env=env)
        assert told(sock)["READY"] == "1"
        server.client.get("/health").raise_for_status()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(4096)
    server.client.get("/health").raise_for_status()
    server.stop()
