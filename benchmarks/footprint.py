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

from benchmarks.load import cpu_seconds, dead_client, disk_folder, lines_command, rss, running
from benchmarks.tables import Row, percentile

TITLE = "Start-up and memory"
MIB = 1 << 20
ROUNDS = 15
READY_SECONDS = 3.0
"""So long after the start all is loaded that a server loads by itself."""
IDLE_SECONDS = 10.0


def run() -> list[Row]:
    """Measure start-up, then memory."""
    rows = _starts()
    with tempfile.TemporaryDirectory(dir=disk_folder()) as name, _Stalled(Path(name)) as server:
        time.sleep(READY_SECONDS)
        idle = rss(server.pid) / MIB
        rows.append(Row("idle", f"{idle:.1f} MiB", "≤ 45 MB", idle <= 45))
        before = cpu_seconds(server.pid)
        time.sleep(IDLE_SECONDS)
        spent = (cpu_seconds(server.pid) - before) / IDLE_SECONDS * 1000
        rows.append(Row("idle, CPU of a second", f"{spent:.1f} ms", "", True))
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


def _starts() -> list[Row]:
    """Start ours and a bare uvicorn with Starlette in turn; wall time, and CPU of the process."""
    ours: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir=disk_folder()) as name:
            env = {"SANDKEEPER_STATE_DIR": name, "SANDKEEPER_LOG": "none"}
            ours.append(_start(["sandkeeper", "--host", "127.0.0.1", "--port"], env))
        bare.append(_start(["benchmarks.bare_start"], {}))
    wall = percentile([one for one, _ in ours], 50)
    spent, plain = (percentile([cpu for _, cpu in runs], 50) for runs in (ours, bare))
    ratio = spent / plain
    least = min(cpu for _, cpu in ours) / min(cpu for _, cpu in bare)
    return [
        Row("start to first /health", f"{wall:.0f} ms", "≤ 400 ms", wall <= 400),
        Row(
            "the same, CPU, beside a bare uvicorn with Starlette",
            f"{spent:.0f} ms, {ratio:.2f} ×",
            "≤ 2 ×",
            ratio <= 2,
            note=f"bare: {plain:.0f} ms; the least of {ROUNDS} each: {least:.2f} ×",
        ),
    ]


def _start(module: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Return milliseconds until /health is answered, and of its CPU time until then."""
    port = free_port()
    began = time.perf_counter()
    argv = [sys.executable, "-m", *module, str(port)]
    with subprocess.Popen(argv, env={**os.environ, **env}) as process:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.002)
        seconds = time.perf_counter() - began
        spent = cpu_seconds(process.pid)
        process.terminate()
    return seconds * 1000, spent * 1000
