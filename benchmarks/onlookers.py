"""A status while others look at the same process, each in the way that costs the most."""

import selectors
import socket
import threading
import time
from collections.abc import Callable

from tests.harness import Server

from benchmarks.load import Poller, Request, lines_command, running
from benchmarks.tables import Row, percentile

TITLE = "GET /process/{pid} while others look"
READERS = 100
SECONDS = 3.0
FILE_BYTES = 10 << 20


def run() -> list[Row]:
    """Measure a status alone, then beside each kind of onlooker."""
    env = {"SANDBOX_MAX_LOG_FILE_BYTES": "0", "SANDBOX_MAX_LOG_BYTES_TOTAL": str(8 << 30)}
    with running(env=env) as server:
        body = {"command": lines_command(50), "name": "much", "waitForCompletion": True}
        server.client.post("/process", json=body)
        large = server.workdir / "large"
        large.write_text("x" * FILE_BYTES)
        started = {"command": "seq 1 700000", "waitForCompletion": True}
        return [
            _row(server, "nobody else", lambda _: time.sleep(0.01)),
            _row(server, "polls 4 MiB of logs", lambda it: it.get("/process/much/logs")),
            _row(server, "waits for starts with 4 MiB", lambda it: it.post("/process", started)),
            _row(server, "reads 10 MiB as JSON", lambda it: it.get(f"/filesystem/{large}")),
            _row(server, "lists all processes", lambda it: it.get("/process")),
            _readers(server),
        ]


def _row(server: Server, what: str, look: Callable[[Request], object]) -> Row:
    onlooker, done, count = Request(server.port), threading.Event(), 0

    def go_on() -> None:
        nonlocal count
        while not done.is_set():
            look(onlooker)
            count += 1

    thread = threading.Thread(target=go_on)
    poller = Poller(server.port, "/process/much", 0.003)
    thread.start()
    poller.start()
    time.sleep(SECONDS)
    times = poller.finish()
    done.set()
    thread.join()
    onlooker.close()
    return _times(f"one client {what}" if "nobody" not in what else what, times, f"{count} times")


def _readers(server: Server) -> Row:
    """Poll while a hundred clients read the output of the same process, all from its beginning."""
    selector = selectors.DefaultSelector()
    for _ in range(READERS):
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.sendall(
            b"GET /process/much/logs/stream HTTP/1.1\r\nHost: localhost\r\n"
            b"Connection: close\r\n\r\n"
        )
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    poller = Poller(server.port, "/process/much", 0.003)
    poller.start()
    size, began = 0, time.perf_counter()
    while selector.get_map():
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            block = key.fileobj.recv(1 << 18)
            size += len(block)
            if not block:
                selector.unregister(key.fileobj)
                key.fileobj.close()
    rate = size / 1e6 / (time.perf_counter() - began)
    return _times(
        f"{READERS} clients read 50 MB each", poller.finish(), f"{rate:.0f} MB/s together"
    )


def _times(what: str, times: list[float], note: str) -> Row:
    p50, p99, worst = percentile(times, 50), percentile(times, 99), max(times)
    value = f"p50 {p50:.2f}, p99 {p99:.2f}, slowest {worst:.1f} ms"
    return Row(what, value, note=note)
