"""Small requests, each beside a bare application on uvicorn that does the least that it could.

Requests go to both in turn, so that what the machine does meanwhile is the same for both. The
server's own CPU time (schedstat) of all its threads is beside each median.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.harness import free_port, until

from benchmarks.load import Request, cpu_seconds, disk_folder, running, timed
from benchmarks.tables import Row, percentile

TITLE = "Small requests beside a bare application"
ROUNDS = 2000
CONTENT = "x" * 1000


@contextlib.contextmanager
def bare(folder: str) -> Iterator[tuple[int, Request]]:
    """Run the bare application; yields its pid and a connection to it."""
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.bare", str(port), folder]
    with subprocess.Popen(argv) as process:
        until(lambda: _listens(port))
        yield process.pid, Request(port)
        process.terminate()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        Request(port).close()
        return True
    return False


def run() -> list[Row]:
    """Measure on one server with its state on disk."""
    with (
        tempfile.TemporaryDirectory(dir=disk_folder()) as folder,
        running() as server,
        bare(folder) as (other, plain),
    ):
        ours = Request(server.port)
        pair = _Pair((server.pid, ours), (other, plain))
        ours.post("/process", {"command": "exec sleep 1000", "name": "idle"})
        known = ours.get("/process/idle")
        plain.put("/same", known)
        mine = f"/filesystem/{Path(folder)}/mine"
        body = json.dumps({"content": CONTENT}).encode()
        rows = [
            pair.row("GET /process/{pid}", "≤ 1.4 ×", 1.4,
                     lambda: ours.get("/process/idle"), lambda: plain.get("/same")),
            pair.row("PUT of a small file", "≤ 1.5 ×", 1.5,
                     lambda: ours.put(mine, body), lambda: plain.put("/file/theirs", body)),
            pair.row("GET of a small file", "≤ 1.5 ×", 1.5,
                     lambda: ours.get(mine), lambda: plain.get("/file/theirs")),
        ]  # fmt: skip
        return [*rows, *_starts(ours, server.pid)]


class _Pair:
    """Two servers, by pid and connection."""

    def __init__(self, ours: tuple[int, Request], other: tuple[int, Request]) -> None:
        self._pids = ours[0], other[0]

    def row(self, what, target, most, first, second) -> Row:  # type: ignore[no-untyped-def]
        """Ask both in turn and compare the medians."""
        calls = first, second
        times: tuple[list[float], list[float]] = [], []
        cpu = [0.0, 0.0]
        for number in range(ROUNDS + 100):
            for which in (0, 1):
                if number == 100:
                    cpu[which] = cpu_seconds(self._pids[which])
                seconds, _ = timed(calls[which])
                if number >= 100:
                    times[which].append(seconds * 1e6)
        spent = [
            (cpu_seconds(pid) - before) / ROUNDS * 1e6
            for pid, before in zip(self._pids, cpu, strict=True)
        ]
        p50, base = percentile(times[0], 50), percentile(times[1], 50)
        note = f"{p50:.0f} and {base:.0f} µs; CPU {spent[0]:.0f} and {spent[1]:.0f} µs"
        return Row(what, f"{p50 / base:.2f} ×", target, p50 <= most * base, note)


def _starts(ours: Request, pid: int) -> list[Row]:
    waited = {"command": "true", "waitForCompletion": True}
    for _ in range(30):
        ours.post("/process", waited)
    times: list[float] = []
    bare_runs: list[float] = []
    before = cpu_seconds(pid)
    for _ in range(200):
        times.append(timed(lambda: ours.post("/process", waited))[0])
        bare_runs.append(timed(lambda: subprocess.run(["/bin/bash", "-c", "true"]))[0])
    spent = (cpu_seconds(pid) - before) / 200 * 1e3
    ratio = percentile(times, 50) / percentile(bare_runs, 50)
    count = 300
    seconds, _ = timed(lambda: [ours.post("/process", {"command": "true"}) for _ in range(count)])
    rate = count / seconds
    rows = [
        Row("`true`, waited, against `subprocess.run`", f"{ratio:.2f} ×", "≤ 1.8 ×", ratio <= 1.8,
            f"CPU {spent:.2f} ms"),
        Row("starts without waiting, one client", f"{rate:.0f} /s", "≥ 400 /s", rate >= 400),
    ]  # fmt: skip
    for _ in range(200):
        ours.post("/process", {"command": "exec sleep 1000"})
    for _ in range(3):
        seconds, body = timed(lambda: ours.get("/process"))
    listed = percentile([timed(lambda: ours.get("/process"))[0] * 1e3 for _ in range(20)], 50)
    records = json.loads(body)
    alive = sum(record["status"] == "running" for record in records)
    what = f"GET /process, {alive} running of {len(records)} entries"
    rows.append(Row(what, f"{listed:.1f} ms", "≤ 15 ms", listed <= 15))
    for record in records:
        if record["status"] == "running":
            ours.send("DELETE", f"/process/{record['pid']}/kill")
    return rows
