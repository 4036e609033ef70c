"""Telemetry of 250,000 lines to a collector that reads, and the event loop meanwhile."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from tests.harness import Server, until

from benchmarks.load import Poller, disk_folder
from benchmarks.tables import Row, percentile

TITLE = "Telemetry of 250,000 lines of 100 bytes to a reading collector"
LINES = 250_000


class Collector(Server):
    """A server whose log is read by a process of its own, as fast as it comes."""

    def start(self) -> None:
        """Start it with its log in a pipe."""
        read, write = os.pipe()
        self.env["SANDKEEPER_LOG"] = "stdout"
        self.env["DISABLE_REQUEST_LOGGING"] = "true"
        self.stdout = write
        with tempfile.NamedTemporaryFile(dir="/dev/shm", delete=False) as file:
            self.collected = Path(file.name)
            self.collector = subprocess.Popen(["cat"], stdin=read, stdout=file)
        os.close(read)
        super().start()
        os.close(write)


def run() -> list[Row]:
    """Count the lines and the bytes of their output a second."""
    with tempfile.TemporaryDirectory(dir=disk_folder()) as name, Collector(Path(name)) as server:
        pid = server.client.post("/process", json={"command": "sleep 60"}).json()["pid"]
        poller = Poller(server.port, f"/process/{pid}", 0.002)
        poller.start()
        source = server.workdir / "lines"
        source.write_text("".join(f"{n:099d}\n" for n in range(LINES)))
        began = time.time()
        server.client.post("/process", json={"command": f"cat {source}", "name": "flood"})
        last = b'"process-name":"flood"'
        until(lambda: _written(server) > LINES * 100, timeout=60, every=0.05)
        until(lambda: time.time() - server.collected.stat().st_mtime > 0.5, timeout=60, every=0.05)
        seconds = server.collected.stat().st_mtime - began
        times = poller.finish()
        server.client.delete(f"/process/{pid}/kill")
        lines = server.collected.read_bytes().count(last)
        rate, p99 = _written(server) / 1e6 / seconds, percentile(times, 99)
    server.collector.wait()
    server.collected.unlink()
    return [
        Row("telemetry written", f"{rate:.0f} MB/s", "≥ 60 MB/s", rate >= 60,
            f"{LINES / seconds:,.0f} lines/s, {LINES / 10_000 / seconds:.0f} MB/s of output"),
        Row("lines", f"{lines:,}", f"{LINES:,}", lines >= LINES),
        Row("GET meanwhile, p99 (loop delay included)", f"{p99:.2f} ms", "< 5 ms", p99 < 5),
    ]  # fmt: skip


def _written(server: Collector) -> int:
    return server.collected.stat().st_size
