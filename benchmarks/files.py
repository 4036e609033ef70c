"""Files: large and small reads and writes, a large directory; each beside what the machine does.

The client is a bare socket in this process, so that its own cost is as small as can be; the file
lies in the page cache, as it does for `cp` in the same run.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.harness import Server

from benchmarks.tables import Row, percentile

TITLE = "Files"

GIB = 1 << 30
SMALL = 2000
ENTRIES = 100_000
CLIENTS = 16
TURNS = 100
BOUNDARY = os.urandom(16).hex()  # as long as those of usual clients
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


class Connection:
    """One kept connection that speaks just enough HTTP."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray(1 << 20)

    def request(self, method: str, path: str, body: bytes = b"", more: int = 0) -> None:
        """Send a request, of whose body `more` bytes will follow."""
        kind = f"multipart/form-data; boundary={BOUNDARY}" if more else "application/json"
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body) + more}\r\n\r\n"
        )
        self.sock.sendall(head.encode() + body)

    def reply(self) -> int:
        """Read a reply and drop it; returns the body's bytes."""
        got = self.sock.recv(1 << 16)
        while b"\r\n\r\n" not in got:
            got += self.sock.recv(1 << 16)
        head, _, body = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            size = len(body)
            last = body[-5:]
            while last != b"0\r\n\r\n":
                count = self.sock.recv_into(self.buffer)
                size += count
                last = (last + bytes(self.buffer[max(0, count - 5) : count]))[-5:]
            return size
        length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
        left = length - len(body)
        while left:
            left -= self.sock.recv_into(self.buffer)
        return length


def best(action: Callable[[], object], times: int = 3) -> float:
    """Return the shortest of several runs in seconds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return min(taken)


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024


def run() -> list[Row]:
    """Measure everything in one server."""
    folder = Path(tempfile.mkdtemp(prefix="sandkeeper-bench-"))
    try:
        with Server(folder / "server") as server:
            rows = [*_large(server, folder), *_small(server, folder)]
            return [*rows, *_mixed(server, folder), *_listing(server, folder)]
    finally:
        shutil.rmtree(folder)


def _large(server: Server, folder: Path) -> list[Row]:
    source = folder / "source"
    with open(source, "wb") as file:
        block = os.urandom(1 << 20)
        for _ in range(GIB >> 20):
            file.write(block)
    copied = best(lambda: subprocess.run(["cp", source, folder / "copy"], check=True))
    os.unlink(folder / "copy")
    link = Connection(server.port)
    link.request("GET", f"/filesystem/{source}?download=true&warm=1")
    link.reply()
    before = resident(server.pid)
    peak = before

    def up() -> None:
        with open(source, "rb") as file:
            link.request("PUT", f"/filesystem/{folder}/up", more=len(HEAD) + GIB + len(TAIL))
            link.sock.sendall(HEAD)
            sent = 0
            while sent < GIB:
                sent += os.sendfile(link.sock.fileno(), file.fileno(), sent, GIB - sent)
            link.sock.sendall(TAIL)
        link.reply()

    def down() -> None:
        link.request("GET", f"/filesystem/{source}?download=true")
        link.reply()

    rows = []
    for what, action, target in [("upload", up, 500), ("download", down, 800)]:
        taken = best(action)
        peak = max(peak, resident(server.pid))
        speed = GIB / taken / 1e6
        note = f"{copied / taken:.2f} × the speed of cp ({GIB / copied / 1e6:.0f} MB/s)"
        rows.append(
            Row(f"{what} of 1 GiB", f"{speed:.0f} MB/s", f"≥ {target} MB/s", speed >= target, note)
        )
    grown = (peak - before) / 1e6
    rows.append(Row("memory growth meanwhile", f"{grown:.1f} MB", "≤ 20 MB", grown <= 20))
    for name in ["source", "up"]:
        os.unlink(folder / name)
    return rows


def _small(server: Server, folder: Path) -> list[Row]:
    link = Connection(server.port)
    body = json.dumps({"content": "x" * 1000}).encode()
    times: dict[str, list[float]] = {"write": [], "read": []}
    for _ in range(SMALL):
        for what, method, data in [("write", "PUT", body), ("read", "GET", b"")]:
            start = time.perf_counter()
            link.request(method, f"/filesystem/{folder}/small", data)
            link.reply()
            times[what].append((time.perf_counter() - start) * 1000)
    rows = []
    for what, target in [("read", 0.6), ("write", 1.0)]:
        middle, late = percentile(times[what], 50), percentile(times[what], 99)
        value = f"p50 {middle:.2f} ms, p99 {late:.2f} ms"
        rows.append(Row(f"{what} of 1 kB", value, f"p50 ≤ {target} ms", middle <= target))
    return rows


def _mixed(server: Server, folder: Path) -> list[Row]:
    body = json.dumps({"content": "x" * 200_000}).encode()
    times: list[float] = []

    def client(number: int) -> None:
        link = Connection(server.port)
        path = f"/filesystem/{folder}/mixed{number}"
        for turn in range(TURNS):
            start = time.perf_counter()
            link.request(*(("GET", path) if turn % 2 else ("PUT", path, body)))
            link.reply()
            times.append((time.perf_counter() - start) * 1000)

    flood = {"command": "while :; do seq 1 1000000; done", "name": "flood"}
    server.client.post("/process", json=flood)
    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.client.delete("/process/flood/kill")
    late = percentile(times, 99)
    what = f"{CLIENTS} clients, mixed 200 kB reads and writes, one process floods output"
    value = f"p50 {percentile(times, 50):.1f} ms, p99 {late:.1f} ms"
    return [Row(what, value, "p99 ≤ 50 ms", late <= 50, "the clients share the two cores")]


def _listing(server: Server, folder: Path) -> list[Row]:
    many = folder / "many"
    many.mkdir()
    for number in range(ENTRIES):
        os.close(os.open(many / f"file-{number:06}.txt", os.O_CREAT | os.O_WRONLY))
    link = Connection(server.port)
    listed = best(lambda: subprocess.run(["ls", "-l", many], stdout=subprocess.PIPE, check=True))

    def ours() -> None:
        link.request("GET", f"/filesystem/{many}")
        link.reply()

    taken = best(ours)
    value = f"{taken:.2f} s, {taken / listed:.2f} × ls -l ({listed:.2f} s)"
    return [Row("list 100,000 entries", value, "≤ 2 × ls -l", taken <= 2 * listed)]
