"""Terminals: the echo of a key beside a flood, and a flood with a client that never reads."""

import json
import os
import pty
import socket
import statistics
import struct
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from tests.harness import Server, until

from benchmarks.tables import Row, percentile

TITLE = "Terminals"
KEYS = 500
FLOOD = 100_000_000


class RawClient:
    """A WebSocket client that costs as little as it can: it counts bytes of frames."""

    def __init__(self, server: Server, name: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = (
            f"GET /terminal/ws?sessionId={quote(name)}&shell=/bin/sh HTTP/1.1\r\n"
            "Host: localhost\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        self.socket.sendall(head.encode())
        while not self.socket.recv(1, socket.MSG_PEEK):
            pass
        reply = b""
        while b"\r\n\r\n" not in reply:
            reply += self.socket.recv(1)

    def type(self, text: str) -> None:
        """Send input; the mask is zero, which changes nothing."""
        data = json.dumps({"type": "input", "data": text}).encode()
        short = len(data) < 126
        size = bytes([0x80 | len(data)]) if short else b"\xfe" + struct.pack(">H", len(data))
        self.socket.sendall(b"\x81" + size + b"\0\0\0\0" + data)

    def until(self, mark: bytes) -> int:
        """Read until `mark` came; returns the bytes read."""
        total, rest = 0, b""
        while mark not in rest:
            block = self.socket.recv(1 << 20)
            assert block
            total += len(block)
            rest = rest[-64:] + block
        return total


def _rss(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) * 1024


def _echo_times(client: RawClient) -> list[float]:
    times = []
    for number in range(KEYS):
        key = "abcdefgh"[number % 8]
        before = time.perf_counter()
        client.type(key)
        client.until(key.encode())
        times.append((time.perf_counter() - before) * 1000)
        time.sleep(0.002)
    return times


def _plain_pty() -> list[float]:
    """The same keys at a bare terminal without any server: the floor."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", "echo ready; stty raw -echo; exec cat"])
    time.sleep(0.3)
    os.read(fd, 4096)
    times = []
    for _ in range(KEYS):
        before = time.perf_counter()
        os.write(fd, b"a")
        os.read(fd, 4096)
        times.append((time.perf_counter() - before) * 1000)
    os.close(fd)
    os.waitpid(pid, 0)
    return times


def _plain_flood(path: Path) -> float:
    """Return the MB/s of `cat` through a bare terminal."""
    began = time.perf_counter()
    pid, fd = pty.fork()
    if pid == 0:
        os.execv("/bin/cat", ["cat", str(path)])
    total = 0
    try:
        while block := os.read(fd, 65536):
            total += len(block)
    except OSError:
        pass
    os.close(fd)
    os.waitpid(pid, 0)
    return total / (time.perf_counter() - began) / 1e6


def _raw_shell(server: Server, name: str) -> RawClient:
    client = RawClient(server, name)
    client.type("stty raw -echo; echo rea''dy; exec cat\r")
    client.until(b"ready")
    return client


def _echo_rows(server: Server) -> list[Row]:
    floor = statistics.median(_plain_pty())
    client = _raw_shell(server, "keys")
    rows = [_echo_row("key press → echo, quiet", _echo_times(client), floor)]
    flood = RawClient(server, "yes")
    flood.type("yes\r")
    time.sleep(0.5)
    rows.append(_echo_row("the same while `yes` runs, nobody reads it", _echo_times(client), floor))
    flood.socket.close()
    server.client.delete("/terminals/yes")
    return rows


def _echo_row(what: str, times: list[float], floor: float) -> Row:
    middle, late = percentile(times, 50), percentile(times, 99)
    return Row(
        what,
        f"p50 {middle:.2f} ms, p99 {late:.2f} ms",
        "p50 ≤ 1 ms, p99 ≤ 10 ms",
        middle <= 1 and late <= 10,
        f"a bare pty: p50 {floor:.3f} ms",
    )


def _flood_rows(server: Server, folder: Path) -> list[Row]:
    path = folder / "big.txt"
    path.write_bytes((b"x" * 79 + b"\n") * (FLOOD // 80))
    floor = _plain_flood(path)
    client = RawClient(server, "big")
    client.type("stty -echo; echo rea''dy\r")
    client.until(b"ready")
    stuck = RawClient(server, "big")
    until(lambda: server.client.get("/terminals/big").json()["clients"] == 2)
    before = _rss(server.pid)
    began = time.perf_counter()
    client.type(f"cat {path}; echo do''ne\r")
    read = client.until(b"done")
    rate = read / (time.perf_counter() - began) / 1e6
    growth = (_rss(server.pid) - before) / 1e6
    stuck.socket.close()
    whole = read >= FLOOD
    return [
        Row(
            "cat of 100 MB, fast client beside one that never reads",
            f"{rate:.0f} MB/s{'' if whole else ' (not whole)'}",
            "≥ 50 MB/s",
            rate >= 50 and whole,
            f"a bare pty: {floor:.0f} MB/s; ratio {rate / floor:.2f}",
        ),
        Row("memory the server gained by it", f"{growth:.1f} MB", "≤ 20 MB", growth <= 20),
    ]


def run() -> list[Row]:
    """Measure on a server of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), env={"DISABLE_REQUEST_LOGGING": "true"}) as server,
    ):
        return [*_echo_rows(server), *_flood_rows(server, Path(folder))]
