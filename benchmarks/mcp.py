"""Tool calls: their latency beside that of the same answer over HTTP, and what the SDK costs."""

import http.client
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path

from tests.harness import Server, until
from tests.mcp_calls import HEADERS

from benchmarks.tables import Row, percentile

TITLE = "MCP"
CALLS = 500
CONCURRENT = 50


def _call(connection: http.client.HTTPConnection, number: int) -> bytes:
    params = {"name": "processesList", "arguments": {}}
    body = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    connection.request("POST", "/mcp", json.dumps(body), HEADERS)
    return connection.getresponse().read()


def _list(connection: http.client.HTTPConnection, _number: int) -> bytes:
    connection.request("GET", "/process")
    return connection.getresponse().read()


def _times(server: Server, work) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for number in range(20):
        work(connection, number)
    times = []
    for number in range(CALLS):
        started = time.perf_counter()
        work(connection, number)
        times.append(time.perf_counter() - started)
    connection.close()
    return times


def _resident(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def _together(server: Server) -> tuple[float, bool]:
    """Make 50 calls at once; returns the seconds for all, and whether each was answered once."""
    answered: list[int] = []
    barrier = threading.Barrier(CONCURRENT + 1)

    def one(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.connect()
        barrier.wait()
        answered.append(json.loads(_call(connection, number))["id"])
        connection.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(CONCURRENT)]
    for thread in threads:
        thread.start()
    barrier.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started, sorted(answered) == list(range(CONCURRENT))


def _slowest_health(server: Server) -> tuple[float, float]:
    """Load the SDK with a first call; returns its seconds and the slowest /health meanwhile."""
    seconds = 0.0

    def first() -> None:
        nonlocal seconds
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        started = time.perf_counter()
        _call(connection, 1)
        seconds = time.perf_counter() - started

    thread = threading.Thread(target=first)
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.connect()
    slowest = 0.0
    thread.start()
    while thread.is_alive():
        started = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        slowest = max(slowest, time.perf_counter() - started)
    thread.join()
    return seconds, slowest


def run() -> list[Row]:
    """Measure one server with ten finished processes."""
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server:
        for number in range(10):
            server.run(f"echo {number}")
        direct = _times(server, _list)
        idle = _resident(server.pid)
        loading, slowest = _slowest_health(server)
        calls = _times(server, _call)
        together, once = _together(server)
        until(lambda: server.client.get("/ready").status_code == 200)
        loaded = _resident(server.pid)
    p50, p99 = percentile(calls, 50), percentile(calls, 99)
    ratio = statistics.median(calls) / statistics.median(direct)
    return [
        Row("processesList, 10 processes: p50", f"{p50 * 1e3:.2f} ms", "≤ 4 ms", p50 <= 0.004),
        Row("the same: p99", f"{p99 * 1e3:.2f} ms"),
        Row("the same against GET /process", f"{ratio:.1f} times", note="one connection each"),
        Row(
            f"{CONCURRENT} concurrent calls",
            f"all after {together * 1e3:.0f} ms",
            "answered once each",
            once,
        ),
        Row("memory while MCP is unused", f"{idle:.1f} MB", "≤ 45 MB", idle <= 45),
        Row("memory after calls", f"{loaded:.1f} MB", note="the SDK stays loaded"),
        Row(
            "first call, which loads the SDK",
            f"{loading * 1e3:.0f} ms",
            note=f"slowest /health meanwhile: {slowest * 1e3:.0f} ms",
        ),
    ]
