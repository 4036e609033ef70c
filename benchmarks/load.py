"""What the benchmarks share: servers, clients that behave badly, measuring by the clock."""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.harness import Server

__all__ = [
    "Poller",
    "Request",
    "cpu_seconds",
    "dead_client",
    "disk_folder",
    "lines_command",
    "rss",
    "running",
    "shell",
    "timed",
]


@contextlib.contextmanager
def running(*, folder: str | None = None, env: dict[str, str] | None = None) -> Iterator[Server]:
    """Run a server with its state below `folder` (by default where it really lives, on disk)."""
    with (
        tempfile.TemporaryDirectory(dir=folder or disk_folder()) as name,
        Server(Path(name), env={"SANDKEEPER_LOG": "none", **(env or {})}) as server,
    ):
        yield server


def disk_folder() -> str:
    """Return a folder on a disk: where root's state is by default, else the home folder."""
    return "/var/lib" if os.access("/var/lib", os.W_OK) else str(Path.home())


class Request:
    """One kept-open connection that sends the same GET again and again, with little of its own."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", token: str = "") -> None:
        self._head = _head(token)
        self._sock = socket.create_connection((host, port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._sock.makefile("rb")

    def get(self, path: str) -> bytes:
        """GET and return the body."""
        return self._exchange(f"GET {path} HTTP/1.1\r\n{self._head}\r\n".encode())

    def post(self, path: str, body: Any) -> bytes:
        """POST JSON and return the body."""
        return self.send("POST", path, json.dumps(body).encode())

    def put(self, path: str, data: bytes) -> bytes:
        """PUT bytes and return the body."""
        return self.send("PUT", path, data)

    def send(self, method: str, path: str, data: bytes = b"") -> bytes:
        """Send a request and return the body."""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(data)}\r\n\r\n"
        return self._exchange(head.encode() + data)

    def _exchange(self, request: bytes) -> bytes:
        self._sock.sendall(request)
        length = 0
        while (line := self._file.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            if line.lower().startswith(b"transfer-encoding:"):
                length = -1
            if not line:
                raise ConnectionError("closed")
        return self._file.read(length) if length >= 0 else b"".join(self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._file.readline(), 16):
            yield self._file.read(size)
            self._file.readline()
        self._file.readline()

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._sock.close()


def dead_client(port: int, path: str, *, host: str = "127.0.0.1", token: str = "") -> socket.socket:
    """Connect, ask for a stream and never read."""
    sock = socket.create_connection((host, port))
    sock.sendall(f"GET {path} HTTP/1.1\r\n{_head(token)}\r\n".encode())
    return sock


def _head(token: str) -> str:
    """Return the fields of every request."""
    return "Host: localhost\r\n" + (f"Authorization: Bearer {token}\r\n" if token else "")


def lines_command(megabytes: int) -> str:
    """Return a command that writes numbered lines of 100 bytes, `megabytes` in all, and exits."""
    lines = megabytes * 10_000
    return f"seq -f '%099.0f' 1 {lines}"


def timed(call: Any) -> tuple[float, Any]:
    """Return (seconds, result) of a call."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process (schedstat, proc_pid_schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def rss(pid: int) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Poller(threading.Thread):
    """Asks for a path every few milliseconds and keeps the times.

    Its thread goes before all others where that is allowed: it would measure its own wait for a
    core that the server, its child and this process share.
    """

    def __init__(self, port: int, path: str, every: float) -> None:
        super().__init__(daemon=True)
        self._request = Request(port)
        self._path = path
        self._every = every
        self._done = threading.Event()
        self.times: list[float] = []
        self.asked: list[float] = []
        self.first_over = 0.0

    def run(self) -> None:
        """Poll until told to stop."""
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        while not self._done.wait(self._every):
            self.asked.append(time.time())
            seconds, body = timed(lambda: self._request.get(self._path))
            self.times.append(seconds * 1000)
            if not self.first_over and b'"status":"running"' not in body:
                self.first_over = time.time()

    def finish(self) -> list[float]:
        """Stop and return the times in milliseconds."""
        self._done.set()
        self.join()
        self._request.close()
        return self.times


def shell(command: str) -> float:
    """Run a shell command and return its seconds."""
    return timed(lambda: subprocess.run(["sh", "-c", command], check=True))[0]
