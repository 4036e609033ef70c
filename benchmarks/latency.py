"""From a child's write to a line at a stream client, at 100 lines a second."""

import re
import sys
import time

from tests.harness import Server

from benchmarks.load import dead_client, running
from benchmarks.tables import Row, percentile

TITLE = "A child's write to a line at a stream client"
LINE = re.compile(rb"stdout:([0-9.]+)\n")
WRITER = """
import os, time
for _ in range(1000):
    time.sleep(0.01)
    os.write(1, b"%.7f\\n" % time.time())
"""


def run() -> list[Row]:
    """Measure 1,000 lines."""
    with running() as server:
        late = delays_of_lines(server)
        p50, p99 = percentile(late, 50), percentile(late, 99)
        return [
            Row("p50", f"{p50:.3f} ms", "≤ 0.5 ms", p50 <= 0.5, f"{len(late)} lines"),
            Row("p99", f"{p99:.2f} ms", "≤ 5 ms", p99 <= 5),
        ]


def delays_of_lines(server: Server) -> list[float]:
    """Return how many milliseconds each line of a writer was on its way to a client."""
    (server.workdir / "writer.py").write_text(WRITER)
    body = {"command": f"{sys.executable} {server.workdir}/writer.py", "name": "w"}
    server.client.post("/process", json=body)
    late: list[float] = []
    sock = dead_client(server.port, "/process/w/logs/stream")
    while block := sock.recv(65536):
        now = time.time()
        late += [(now - float(found)) * 1000 for found in LINE.findall(block)]
        if block.endswith(b"0\r\n\r\n"):
            break
    sock.close()
    return late
