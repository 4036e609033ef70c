"""While telemetry works off a backlog: a line's way to a client, a request, the event loop."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from tests.harness import Server, until

from benchmarks.latency import delays_of_lines
from benchmarks.load import Poller, cpu_seconds, disk_folder, lines_command
from benchmarks.tables import Row, percentile
from benchmarks.telemetry import delay_percentile, delays

TITLE = "While telemetry works off a backlog"
MEGABYTES = int(os.environ.get("BACKLOG_MB", "1000"))
KEPT = {"SANDBOX_MAX_LOG_FILE_BYTES": "4000000000", "SANDBOX_MAX_LOG_BYTES_TOTAL": "12000000000"}


class _Waiting(Server):
    """A server whose log nobody reads until `collect`."""

    def start(self) -> None:
        """Start it with its log in a pipe."""
        self._read, write = os.pipe()
        self.env |= {"SANDKEEPER_LOG": "stdout", "DISABLE_REQUEST_LOGGING": "true", **KEPT}
        self.stdout = write
        self.module = "benchmarks.loopwatch"
        super().start()
        os.close(write)

    def collect(self) -> subprocess.Popen[bytes]:
        """Read the log from here on, as fast as it comes."""
        reader = subprocess.Popen(["cat"], stdin=self._read, stdout=subprocess.DEVNULL)
        os.close(self._read)
        return reader


def run() -> list[Row]:
    """Write the backlog while nobody reads, then measure 1,000 lines while it is worked off."""
    with tempfile.TemporaryDirectory(dir=disk_folder()) as name, _Waiting(Path(name)) as server:
        server.client.post("/process", json={"command": lines_command(MEGABYTES), "name": "flood"})
        until(lambda: _is_over(server), timeout=600, every=0.2)
        pid = server.client.post("/process", json={"command": "sleep 120"}).json()["pid"]
        reader = server.collect()
        idle, spent, began = delays(server), cpu_seconds(server.pid), time.perf_counter()
        poller = Poller(server.port, f"/process/{pid}", 0.005)
        poller.start()
        late = delays_of_lines(server)
        times = poller.finish()
        seconds, spent = time.perf_counter() - began, cpu_seconds(server.pid) - spent
        delay = delay_percentile(idle, delays(server), 0.99)
        taken = int(Path(f"/proc/{reader.pid}/io").read_text().split()[1])
        server.client.delete(f"/process/{pid}/kill")
    reader.wait()
    line, get = percentile(late, 99), percentile(times, 99)
    return [
        Row(f"{MEGABYTES} MB waiting: line to client, p99", f"{line:.2f} ms", "≤ 3 ms", line <= 3,
            f"{len(late)} lines; p50 {percentile(late, 50):.2f} ms"),
        Row("`GET`, p99", f"{get:.2f} ms", "≤ 3 ms", get <= 3, f"{len(times)} requests"),
        Row("event loop delay, p99", f"≤ {delay * 1000:g} ms", "≤ 2 ms", delay <= 0.002),
        Row("telemetry meanwhile", f"{taken / 1e6 / seconds:.0f} MB/s", "", None,
            f"the server's CPU: {spent / seconds * 100:.0f} % of a core"),
    ]  # fmt: skip


def _is_over(server: Server) -> bool:
    return bool(server.client.get("/process/flood").json()["status"] != "running")
