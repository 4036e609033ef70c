"""Attacks, and what another client feels of them: how late `/health` is, what memory grows by.

The rows of `hostile_files` (globs, watches, waits, FIFOs) and of `hostile_programs` are run as well
where these are there. Each attack has a server of its own, or memory would tell of the ones before;
another one that is not attacked tells how late the machine itself makes answers meanwhile.
"""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.harness import Server

from benchmarks import hostile_wire
from benchmarks.load import rss, running
from benchmarks.tables import Row, percentile

Attack = Callable[[str], Awaitable[None]]
TITLE = "What others feel of an attack"
ATTACK_SECONDS = 12.0
CHOSEN = os.environ.get("HOSTILE_ROWS", "")
"""Words of the names of the rows that are run, with commas between; without it all are."""

WORST_MS = 100.0
GROWTH_BYTES = 512 << 20
"""Bodies and answers have 256 MiB each."""

POLL = """
import json, socket, sys, threading, time
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
done = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
times = []
while True:
    began = time.perf_counter()
    sock.sendall(b"GET /health HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    sock.recv(4096)
    times.append((time.perf_counter() - began) * 1000)
    if len(times) == 1:
        print("ready", flush=True)
    if done.wait(0.003):
        break
json.dump(times, sys.stdout)
"""


class Onlooker:
    """Another client, in a process of its own: the attack's own work must not delay it."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", POLL, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has asked once

    def finish(self) -> list[float]:
        """Stop asking and return the times in milliseconds."""
        out, _ = self._process.communicate()
        return list(json.loads(out))


def all_rows() -> list[tuple[str, Attack]]:
    """Return the attacks of all modules."""
    rows = list(hostile_wire.ROWS)
    for name in ("benchmarks.hostile_files", "benchmarks.hostile_programs"):
        if importlib.util.find_spec(name) is not None:
            rows += importlib.import_module(name).ROWS
    return rows


def run() -> list[Row]:
    """Measure every attack."""
    rows = []
    with running() as idle:
        for name, attack in all_rows():
            if not any(part in name for part in CHOSEN.split(",")):
                continue
            with running() as server:
                beside = Onlooker(idle.port)
                felt = measure(server, attack, ATTACK_SECONDS)
                rows.append(row_of(name, felt, max(beside.finish())))
    return rows


@dataclass(frozen=True, slots=True)
class Felt:
    """What another client felt: its waits in milliseconds, the growth in bytes, the duration."""

    times: list[float]
    growth: int
    seconds: float


def measure(server: Server, attack: Attack, limit: float) -> Felt:
    """Attack a server for `limit` seconds at most while another client asks for its health."""
    before = rss(server.pid)
    _forget_peak(server.pid)
    onlooker = Onlooker(server.port)
    began = time.perf_counter()
    with suppress(TimeoutError):
        asyncio.run(_bounded(attack, server.url, limit))
    seconds = time.perf_counter() - began
    return Felt(onlooker.finish(), _peak(server.pid) - before, seconds)


def row_of(name: str, felt: Felt, beside: float) -> Row:
    """Write what was felt as a row; `beside` is what a server that nobody attacks needed."""
    worst, p99 = max(felt.times), percentile(felt.times, 99)
    return Row(
        name,
        f"worst {worst:.0f} ms, p99 {p99:.1f} ms, +{felt.growth / (1 << 20):.0f} MiB",
        f"{WORST_MS:.0f} ms, {GROWTH_BYTES >> 20} MiB",
        worst <= WORST_MS and felt.growth <= GROWTH_BYTES,
        f"{len(felt.times)} requests in {felt.seconds:.1f} s; an idle server {beside:.0f} ms",
    )


async def _bounded(attack: Attack, url: str, limit: float) -> None:
    async with asyncio.timeout(limit):
        await attack(url)


def _forget_peak(pid: int) -> None:
    """Begin the peak of resident memory anew (proc_pid_clear_refs(5))."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
