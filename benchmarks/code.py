"""Code contexts: starts and executions beside a bare `jupyter_client`; floods, memory."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import kernels
from tests.harness import Server, resident, until

from benchmarks.tables import Row, percentile
from benchmarks.telemetry import delay_percentile, delays

TITLE = "Code contexts"
ROUNDS = 200
STARTS = 3
WARM_ROUNDS = 5
MIB = 1 << 20


class _Watched(Server):
    """A server that samples its loop's delay every 2 ms."""

    def __init__(self, folder: Path, **env: str) -> None:
        super().__init__(folder, env=kernels.environment(**env), cold=True)
        self.module = "benchmarks.loopwatch"


def _bare() -> dict[str, Any]:
    folder = str(kernels.kernel_python())
    argv = [sys.executable, "-m", "benchmarks.bare_kernel", folder, str(ROUNDS)]
    made: dict[str, Any] = json.loads(
        subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
    )
    return made


def _starts(folder: Path) -> tuple[Row, Row]:
    """Start bare kernels and ours by turns: what else runs on the machine concerns both."""
    bare_firsts, our_firsts, bare_times, our_times = [], [], [], []
    for number in range(STARTS):
        bare = _bare()
        bare_firsts.append(bare["first"])
        bare_times += bare["times"]
        with Server(folder / f"start{number}", env=kernels.environment(), cold=True) as server:
            began = time.perf_counter()
            context = kernels.context(server)
            context.run("1+1")
            our_firsts.append(time.perf_counter() - began)
            for _ in range(ROUNDS):
                began = time.perf_counter()
                context.run("1+1")
                our_times.append(time.perf_counter() - began)
    first, bare_first = min(our_firsts), min(bare_firsts)
    ours, theirs = percentile(our_times, 50), percentile(bare_times, 50)
    return (
        Row(
            "first execution, no kernel yet",
            f"{first:.2f} s",
            f"<= 1.3 x {bare_first:.2f} s of bare jupyter_client",
            first <= 1.3 * bare_first,
            f"{first / bare_first:.2f} x; the best of {STARTS} each",
        ),
        Row(
            "`1+1` in a running kernel, p50",
            f"{ours * 1e3:.1f} ms",
            f"<= 1.5 x {theirs * 1e3:.1f} ms of bare jupyter_client",
            ours <= 1.5 * theirs,
            f"{ours / theirs:.2f} x, with HTTP; p99 {percentile(our_times, 99) * 1e3:.1f} ms",
        ),
    )


def _warm(folder: Path) -> Row:
    times = []
    with Server(folder, env=kernels.environment(SANDKEEPER_CODE_WARM="1"), cold=True) as server:
        for number in range(WARM_ROUNDS):
            until(lambda: _has_spare(server))
            time.sleep(3 + number / 10)  # the record is written before the kernel is ready
            began = time.perf_counter()
            context = kernels.context(server)
            context.run("1+1")
            times.append(time.perf_counter() - began)
            server.client.delete(context.path)
    middle = percentile(times, 50)
    return Row(
        "first execution with a warm kernel, p50",
        f"{middle * 1e3:.1f} ms",
        "<= 20 ms",
        middle <= 0.020,
        "a new context and its first `1+1`",
    )


def _has_spare(server: Server) -> bool:
    records = (server.state / "code" / "contexts").glob("*/meta.json")
    return any(b'"spare":true' in one.read_bytes() for one in records)


def _flood(server: _Watched, context: kernels.Context, what: str, code: str, size: int) -> Row:
    before = delays(server)
    began = time.perf_counter()
    execution = context.start(code)
    answer = server.client.get(f"/code/executions/{execution}?wait=true", timeout=300)
    seconds = time.perf_counter() - began
    delay = delay_percentile(before, delays(server), 0.99) * 1e3
    found = len(answer.json()["stdout"])
    whole = found == size and answer.json()["lostBytes"] == 0
    return Row(
        what,
        f"{found} characters, loop p99 <= {delay:g} ms",
        f"{size} characters, p99 < 10 ms",
        whole and delay <= 10,
        f"{seconds:.1f} s",
    )


def _floods(folder: Path) -> list[Row]:
    with _Watched(folder) as server:
        context = kernels.context(server)
        lines = sum(len(f"{number}\n") for number in range(200_000))
        rows = [
            _flood(
                *(server, context, "200,000 printed lines"),
                *("for number in range(200_000): print(number)", lines),
            ),
            _flood(
                *(server, context, "100 MB printed"),
                *("for _ in range(100_000): print('x' * 999)", 100_000_000),
            ),
        ]
        for code in ("while True: pass", "import time; time.sleep(60)"):
            context.start(code)
            until(lambda: context.now()["state"] == "busy")
            began = time.perf_counter()
            outcome = context.post("interrupt")["outcome"]
            seconds = time.perf_counter() - began
            rows.append(
                Row(
                    f"interrupt of `{code}`",
                    f"{seconds:.3f} s ({outcome})",
                    "<= 0.5 s",
                    outcome == "interrupted" and seconds <= 0.5,
                )
            )
        return rows


def _scribe(server: Server) -> int:
    place = str(server.state / "code" / "scribe.sock").encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if place in Path("/proc", name, "cmdline").read_bytes().split(b"\0"):
                return int(name)
        except OSError:
            continue
    return 0


def _private(pid: int) -> float:
    """Return the memory that is a process's own share (Pss), in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("Pss:")[1].split()[0]) / 1024


def _memory(folder: Path) -> Row:
    with Server(folder, env=kernels.environment(), cold=True) as server:
        server.client.get("/process")
        before = resident(server.pid) / MIB
        kernels.context(server).run("1+1")
        after = resident(server.pid) / MIB
        scribe = _scribe(server)
        more = after - before + _private(scribe)
        return Row(
            "memory: server before the first use, after, scribe",
            f"{before:.1f}, {after:.1f}, {_private(scribe):.1f} MB",
            "+ 30 MB at most",
            more <= 30,
            f"the scribe's RSS is {resident(scribe) / MIB:.1f} MB",
        )


def run() -> list[Row]:
    """Measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *_starts(folder),
            _warm(folder / "warm"),
            *_floods(folder / "flood"),
            _memory(folder / "memory"),
        ]
