"""The incident: a process writes a lot and exits; nobody reads the log, clients do not read."""

import fcntl
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from tests.harness import Server, until

from benchmarks.load import Poller, dead_client, disk_folder, lines_command
from benchmarks.tables import Row, percentile

TITLE = "The incident: output, a log pipe nobody reads, 3 dead stream clients, a poll every 5 ms"
SIZES = (1, 5, 13, 25, 100, 1000)


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
                rows += _one(server, megabytes, idle)
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
    until(lambda: len(poller.times) >= 400, timeout=20)
    times = poller.finish()
    server.client.delete(f"/process/{pid}/kill")
    return percentile(times, 99)


def _one(server: Server, megabytes: int, idle: float) -> list[Row]:
    name = f"flood-{megabytes}"
    command = f"exec 2>/dev/null; sleep 0.3; {lines_command(megabytes)}; date +%s.%N > {name}.end"
    body = {"command": command, "name": name, "workingDir": str(server.workdir)}
    server.client.post("/process", json=body)
    dead = [dead_client(server.port, f"/process/{name}/logs/stream") for _ in range(3)]
    poller = Poller(server.port, f"/process/{name}", 0.005)
    poller.start()
    until(lambda: poller.first_over, timeout=300, every=0.002)
    ended = float((server.workdir / f"{name}.end").read_text())
    lag = (poller.first_over - ended) * 1000
    times = poller.finish()
    for sock in dead:
        sock.close()
    missing = _missing(server, name, megabytes)
    worst, p99 = max(times), percentile(times, 99)
    return [
        Row(f"{megabytes} MB: slowest GET", f"{worst:.1f} ms", "< 50 ms", worst < 50),
        Row(f"{megabytes} MB: p99", f"{p99:.2f} ms ({p99 / idle:.1f} × idle)", "≤ 5 ×",
            p99 <= 5 * idle),
        Row(f"{megabytes} MB: status right after the exit", f"{lag:.1f} ms", "≤ 50 ms", lag <= 50),
        Row(f"{megabytes} MB: bytes missing", str(missing), "0", missing == 0),
    ]  # fmt: skip


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
