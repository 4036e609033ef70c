"""Ports of a large tree; the /port proxy against the same requests sent directly.

The server behind the proxy is asyncio's on uvloop in a process of its own; this process is the
client, with a plain socket. Direct and proxied runs take turns, so both see the same machine.
Client, proxy and server share the cores there are: with two of them three busy processes cannot
all run at once, so the ratio for large bodies is a lower bound.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.harness import free_port, until

from benchmarks.load import Request, running, timed
from benchmarks.tables import Row, percentile

TITLE = "Ports and the /port proxy"

LISTENER = """
import socket, time
kept = [socket.create_server(("0.0.0.0", 0)) for _ in range(20)]
print("ready", flush=True)
time.sleep(1000)
"""
UPSTREAM = """
import asyncio, sys, uvloop
from contextlib import suppress
BLOCK = bytes(1 << 18)
async def answer(reader, writer):
    with suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = (await reader.readuntil(b"\\r\\n\\r\\n")).lower()
            size = int(head.split(b" ", 2)[1].lstrip(b"/") or b"5")
            _, found, length = head.partition(b"content-length:")
            left = int(length.split()[0]) if found else 0
            while left:
                left -= len(await reader.read(min(left, 1 << 18)))
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % size)
            while size:
                writer.write(BLOCK[:size])
                size -= min(size, len(BLOCK))
                await writer.drain()
            if b"connection: close" in head:
                break
    writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]), limit=1 << 20)
    await server.serve_forever()
uvloop.run(main())
"""
SIZE = 512 << 20


@contextlib.contextmanager
def tree() -> Iterator[int]:
    """Run a shell with 50 children that listen on 20 ports each."""
    command = 'for i in $(seq 50); do "$0" -S -c "$1" & done; wait'
    with subprocess.Popen(
        ["/bin/bash", "-c", command, sys.executable, LISTENER],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as shell:
        assert shell.stdout is not None
        for _ in range(50):
            shell.stdout.readline()
        try:
            yield shell.pid
        finally:
            os.killpg(shell.pid, signal.SIGKILL)


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    """Run the server behind the proxy."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", UPSTREAM, str(port)])
    try:
        until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)))
        yield port
    finally:
        process.kill()
        process.wait()


def download(port: int, path: str) -> float:
    """GET a large body; returns bytes per second."""
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        started = time.perf_counter()
        sock.sendall(
            f"GET {path}{SIZE} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        total = 0
        while count := sock.recv_into(buffer):
            total += count
        assert total > SIZE
        return SIZE / (time.perf_counter() - started)


def upload(port: int, path: str) -> float:
    """POST a large body; returns bytes per second."""
    block = bytes(1 << 20)
    head = (
        f"POST {path}5 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Length: {SIZE}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as sock:
        started = time.perf_counter()
        sock.sendall(head.encode())
        for _ in range(SIZE >> 20):
            sock.sendall(block)
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        return SIZE / (time.perf_counter() - started)


def by_turns(direct: Callable[[], float], proxied: Callable[[], float]) -> tuple[float, float]:
    """Return the best of three of each."""
    pairs = [(direct(), proxied()) for _ in range(3)]
    return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)


def run() -> list[Row]:
    """Measure on one server."""
    rows: list[Row] = []
    with running() as server:
        request = Request(server.port)
        with tree() as pid:
            path = f"/network/process/{pid}/ports"
            count = request.get(path).count(b'"localPort"')
            took = [timed(lambda: request.get(path))[0] * 1000 for _ in range(30)]
            p50 = percentile(took, 50)
            what = f"ports of a tree of 51 processes with {count} sockets: p50"
            rows.append(Row(what, f"{p50:.1f} ms", "≤ 30 ms", p50 <= 30, f"max {max(took):.1f} ms"))
        with upstream() as port:
            before = cpu_seconds(server.pid)
            rate = download(server.port, f"/port/{port}/")
            user, kernel = (
                (after - early) / SIZE * 1e9
                for after, early in zip(cpu_seconds(server.pid), before, strict=True)
            )
            rows.append(Row("CPU of the proxy for 1 GB", f"{user + kernel:.2f} s",
                            note=f"{user:.2f} s of it ours, the rest copies in the kernel; "
                            f"at {rate / 1e9:.2f} GB/s"))  # fmt: skip
            rows += _proxy(server.port, port, request)
    return rows


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Return the CPU time of a process in user and in kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks, int(fields[12]) / ticks


def _proxy(own: int, port: int, request: Request) -> list[Row]:
    rows = []
    for what, move in (("download", download), ("upload", upload)):
        direct, proxied = by_turns(partial(move, port, "/"), partial(move, own, f"/port/{port}/"))
        ratio = proxied / direct
        note = f"{proxied / 1e9:.2f} of {direct / 1e9:.2f} GB/s"
        rows.append(Row(f"{what} of 512 MiB against direct", f"{ratio:.0%}", "≥ 60 %",
                        ratio >= 0.6, note))  # fmt: skip
    straight = Request(port)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(1000):
        times[0].append(timed(lambda: straight.get("/5"))[0] * 1000)
        times[1].append(timed(lambda: request.get(f"/port/{port}/5"))[0] * 1000)
    for percent in (50, 99):
        base, through = (percentile(one, percent) for one in times)
        note = f"{through:.2f} against {base:.2f} ms"
        added = through - base
        rows.append(Row(f"latency added to a small GET: p{percent}", f"{added:.2f} ms",
                        "≤ 1 ms", added <= 1, note))  # fmt: skip
    return rows
