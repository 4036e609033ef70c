"""Telemetry of 250,000 lines to a collector that reads, and the event loop meanwhile."""

import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.harness import Server, until

from benchmarks.load import Poller, disk_folder
from benchmarks.tables import Row, percentile

TITLE = "Telemetry of 250,000 lines of 100 bytes to a reading collector"
LINES = 250_000
FLOODS = 10
BUCKET = re.compile(rb'sandkeeper_loop_delay_seconds_bucket\{le="([0-9.e+-]+|\+Inf)"\} ([0-9.e+]+)')


class Collector(Server):
    """A server whose log is read by a process of its own, as fast as it comes."""

    def start(self) -> None:
        """Start it with its log in a pipe."""
        read, write = os.pipe()
        self.env["SANDKEEPER_LOG"] = "stdout"
        self.env["DISABLE_REQUEST_LOGGING"] = "true"
        self.stdout = write
        self.module = "benchmarks.loopwatch"
        with tempfile.NamedTemporaryFile(dir="/dev/shm", delete=False) as file:
            self.collected = Path(file.name)
            self.collector = subprocess.Popen(["cat"], stdin=read, stdout=file)
        os.close(read)
        super().start()
        os.close(write)


def run() -> list[Row]:
    """Count the lines and the bytes of their output a second; ten floods for the delays."""
    with tempfile.TemporaryDirectory(dir=disk_folder()) as name, Collector(Path(name)) as server:
        source = server.workdir / "lines"
        source.write_text("".join(f"{n:099d}\n" for n in range(LINES)))
        pid = server.client.post("/process", json={"command": "sleep 60"}).json()["pid"]
        idle = delays(server)
        poller = Poller(server.port, f"/process/{pid}", 0.002)
        poller.start()
        seconds = [_flood(server, source, number) for number in range(FLOODS)]
        times = poller.finish()
        delay = delay_percentile(idle, delays(server), 0.99)
        server.client.delete(f"/process/{pid}/kill")
        lines = server.collected.read_bytes().count(b'"process-name":"flood')
        size = _written(server)
    server.collector.wait()
    server.collected.unlink()
    second, p99 = statistics.median(seconds), percentile(times, 99)
    rate = size / FLOODS / 1e6 / second
    return [
        Row("telemetry written", f"{rate:.0f} MB/s", "≥ 60 MB/s", rate >= 60,
            f"{LINES / second:,.0f} lines/s, {LINES / 10_000 / second:.0f} MB/s of output"),
        Row("lines", f"{lines:,}", f"{FLOODS * LINES:,}", lines >= FLOODS * LINES),
        Row("event loop delay meanwhile, p99", f"≤ {delay * 1000:g} ms", "< 5 ms", delay <= 0.005),
        Row("GET meanwhile, p99", f"{p99:.2f} ms", "", None, f"{len(times)} requests"),
    ]  # fmt: skip


def _flood(server: Collector, source: Path, number: int) -> float:
    """Return the seconds from the start of a flood to its last line at the collector."""
    before, began = _written(server), time.time()
    server.client.post("/process", json={"command": f"cat {source}", "name": f"flood{number}"})
    until(lambda: _written(server) - before > LINES * 100, timeout=60, every=0.02)
    until(lambda: time.time() - server.collected.stat().st_mtime > 0.05, timeout=60, every=0.01)
    return server.collected.stat().st_mtime - began


def delays(server: Server) -> dict[float, float]:
    """Return how many samples of the loop's delay were at most so many seconds."""
    found = BUCKET.findall(server.client.get("/metrics").content)
    return {float(bound): float(count) for bound, count in found}


def delay_percentile(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """Return the bucket that holds a share of the samples between two looks."""
    grown = {bound: after[bound] - before[bound] for bound in after}
    return min(bound for bound, count in grown.items() if count >= share * max(grown.values()))


def _written(server: Collector) -> int:
    return server.collected.stat().st_size
