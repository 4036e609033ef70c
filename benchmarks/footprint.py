"""Start-up time and memory: idle, after floods with dead readers, with 500 running processes."""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.harness import Server, free_port, until

from benchmarks.load import dead_client, disk_folder, lines_command, rss, running
from benchmarks.tables import Row, percentile

TITLE = "Start-up and memory"
MIB = 1 << 20


def run() -> list[Row]:
    """Measure start-up five times, then memory."""
    starts = [_start() for _ in range(5)]
    start = percentile(starts, 50)
    rows = [Row("start to first /health", f"{start:.0f} ms", "≤ 400 ms", start <= 400)]
    with tempfile.TemporaryDirectory(dir=disk_folder()) as name, _Stalled(Path(name)) as server:
        idle = rss(server.pid) / MIB
        rows.append(Row("idle", f"{idle:.1f} MiB", "≤ 45 MB", idle <= 45))
        server.client.post("/process", json={"command": lines_command(2000), "name": "flood"})
        dead = [dead_client(server.port, "/process/flood/logs/stream") for _ in range(20)]
        until(lambda: _over(server), timeout=120, every=0.05)
        after = rss(server.pid) / MIB
        for sock in dead:
            sock.close()
        grown = after - idle
        rows.append(
            Row("after 2 GB, telemetry stalled, 20 dead clients", f"idle + {grown:.1f} MiB",
                "≤ idle + 20 MB", grown <= 20)
        )  # fmt: skip
    with running() as server:
        idle = rss(server.pid) / MIB
        for _ in range(500):
            server.client.post("/process", json={"command": "exec sleep 1000"})
        grown = rss(server.pid) / MIB - idle
        rows.append(
            Row("500 running processes", f"idle + {grown:.1f} MiB", "≤ idle + 30 MB", grown <= 30)
        )
        for record in server.client.get("/process").json():
            server.client.delete(f"/process/{record['pid']}/kill")
    return rows


def _over(server: Server) -> bool:
    return bool(server.client.get("/process/flood").json()["status"] != "running")


class _Stalled(Server):
    """A server whose log pipe nobody reads."""

    def start(self) -> None:
        """Start it with its log in a pipe."""
        self._read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
        self.env["SANDKEEPER_LOG"] = "stdout"
        self.stdout = write
        super().start()
        os.close(write)


def _start() -> float:
    with tempfile.TemporaryDirectory(dir=disk_folder()) as name:
        port = free_port()
        env = {**os.environ, "SANDKEEPER_STATE_DIR": name, "SANDKEEPER_LOG": "none"}
        began = time.perf_counter()
        argv = [sys.executable, "-m", "sandkeeper", "--host", "127.0.0.1", "--port", str(port)]
        with subprocess.Popen(argv, env=env) as process:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.002)
            seconds = time.perf_counter() - began
            process.terminate()
        return seconds * 1000
