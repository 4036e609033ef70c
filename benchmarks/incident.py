"""The incident: a process writes a lot and exits; nobody reads the log, clients do not read."""

import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.harness import Server, until

from benchmarks.load import Poller, dead_client, disk_folder, lines_command
from benchmarks.tables import Row, percentile

TITLE = "The incident: output, a log pipe nobody reads, 3 dead stream clients, a poll every 5 ms"
SIZES = (1, 5, 13, 25, 100, 1000)
IDLE_POLLS = 400
DURING_POLLS = 200
MOST_RUNS = 40
AFTER_SECONDS = 0.5


def run() -> list[Row]:
    """Measure every size on one server."""
    env = {"SANDBOX_MAX_LOG_FILE_BYTES": "0", "SANDBOX_MAX_LOG_BYTES_TOTAL": str(8 << 30)}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=disk_folder()) as name:
        server = _PipedServer(Path(name), env=env)
        with server:
            idle = _idle(server)
            rows.append(Row("idle: p99 of GET /process/{pid}", f"{idle:.2f} ms"))
            for megabytes in SIZES:
                rows += _size(server, megabytes, idle)
    return rows


class _PipedServer(Server):
    """A server whose log goes into a pipe that is never read."""

    def start(self) -> None:
        """Start it with its log in a pipe."""
        read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
        self.env["SANDKEEPER_LOG"] = "stdout"
        self._pipe = read
        self.stdout = write
        super().start()
        os.close(write)


def _idle(server: Server) -> float:
    pid = server.client.post("/process", json={"command": "sleep 60"}).json()["pid"]
    poller = Poller(server.port, f"/process/{pid}", 0.005)
    poller.start()
    until(lambda: len(poller.times) >= IDLE_POLLS, timeout=20)
    times = poller.finish()
    server.client.delete(f"/process/{pid}/kill")
    return percentile(times, 99)


def _size(server: Server, megabytes: int, idle: float) -> list[Row]:
    """Repeat one size until a 99th percentile of the requests during the output is one."""
    runs: list[_Run] = []
    while len(runs) < MOST_RUNS and sum(len(run.during) for run in runs) < DURING_POLLS:
        runs.append(_one(server, f"flood-{megabytes}-{len(runs)}", megabytes))
    times = [each for run in runs for each in run.times]
    during = [each for run in runs for each in run.during]
    worst, late, missing = max(times), max(r.lag for r in runs), sum(r.missing for r in runs)
    whole, inside = percentile(times, 99), percentile(during, 99)
    what = f"{megabytes} MB"
    return [
        Row(f"{what}: slowest GET", f"{worst:.1f} ms", "< 50 ms", worst < 50,
            f"{len(times)} requests in {len(runs)} runs"),
        Row(f"{what}: p99", f"{whole:.2f} ms ({whole / idle:.1f} × idle)", "≤ 5 ×",
            whole <= 5 * idle, "from the start to half a second after the exit"),
        Row(f"{what}: p99 between first and last byte", f"{inside:.2f} ms "
            f"({inside / idle:.1f} × idle)", note=f"{len(during)} requests"),
        Row(f"{what}: status right after the exit", f"{late:.1f} ms", "≤ 50 ms", late <= 50),
        Row(f"{what}: bytes missing", str(missing), "0", missing == 0),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Run:
    """Milliseconds of the requests, of those during the output, and from the exit to the status."""

    times: list[float]
    during: list[float]
    lag: float
    missing: int


def _one(server: Server, name: str, megabytes: int) -> _Run:
    begin, end = server.workdir / f"{name}.begin", server.workdir / f"{name}.end"
    output = f"date +%s.%N > {begin}; {lines_command(megabytes)}; date +%s.%N > {end}"
    body = {"command": f"exec 2>/dev/null; sleep 0.3; {output}", "name": name}
    server.client.post("/process", json=body)
    dead = [dead_client(server.port, f"/process/{name}/logs/stream") for _ in range(3)]
    poller = Poller(server.port, f"/process/{name}", 0.005)
    poller.start()
    until(lambda: poller.first_over, timeout=300, every=0.002)
    until(lambda: time.time() - poller.first_over > AFTER_SECONDS, every=0.05)
    first, last = float(begin.read_text()), float(end.read_text())
    times = poller.finish()
    for sock in dead:
        sock.close()
    during = [t for at, t in zip(poller.asked, times, strict=True) if first <= at <= last]
    return _Run(times, during, (poller.first_over - last) * 1000, _missing(server, name, megabytes))


def _missing(server: Server, name: str, megabytes: int) -> int:
    """Read all output back and return how many bytes of what was written are not there.

    Lines come in one stream, so without their prefix they must hash to what the command writes.
    """
    with subprocess.Popen(["sh", "-c", lines_command(megabytes)], stdout=subprocess.PIPE) as want:
        assert want.stdout is not None
        expected = hashlib.file_digest(want.stdout, "sha256").digest()
    got, size, rest = hashlib.sha256(), 0, b""
    with server.client.stream("GET", f"/process/{name}/logs/stream") as reply:
        for block in reply.iter_raw(1 << 20):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            plain = (whole + newline).replace(b"stdout:", b"")
            size += len(plain)
            got.update(plain)
    if size == megabytes * 1_000_000 and got.digest() != expected:
        raise AssertionError(f"{name}: {size} bytes came back, but not those that were written")
    return megabytes * 1_000_000 - size
