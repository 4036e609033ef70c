"""Where the time of small requests, of a start and of the server's own start goes, layer by layer.

`python -m benchmarks layers`. A request's time is the event loop's (cProfile by the thread's clock,
which makes Python's calls look dearer than they are: read it as shares); beside it stand the calls
that the interpreter makes, which are the same in every run, and the CPU time of all threads without
a profiler. The start is told by what is imported (`python -X importtime`).
"""

import json
import os
import pstats
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.harness import Server, until

from benchmarks.load import Request, cpu_seconds, disk_folder
from benchmarks.tables import Row

TITLE = "Where the time goes"
ROUNDS = 500
LAYERS = (
    ("uvloop, kernel", re.compile(r"~|uvloop|asyncio")),
    ("uvicorn", re.compile(r"uvicorn|httptools")),
    ("starlette", re.compile(r"starlette|anyio")),
    ("edge: connections", re.compile(r"sandkeeper/(api/edge/connections|network/intake)")),
    ("edge", re.compile(r"sandkeeper/api/edge")),
    ("log", re.compile(r"sandkeeper/log")),
    ("handlers", re.compile(r"sandkeeper/api")),
    ("room", re.compile(r"sandkeeper/([a-z]+)")),
)
"""The first that a file's path matches; a room is told by its name."""


def run() -> list[Row]:
    """Profile one server."""
    with tempfile.TemporaryDirectory(dir=disk_folder()) as name:
        folder = Path(name)
        kept = folder / "profile"
        env = {"PROFILE_TO": str(kept), "SANDKEEPER_LOG": str(folder / "log")}
        server = Server(folder, env=env)
        server.module = "benchmarks.profiled"
        with server:
            rows = [row for what, call in _calls(server) for row in _rows(server, kept, what, call)]
            for record in json.loads(Request(server.port).get("/process")):
                server.client.delete(f"/process/{record['pid']}/kill")
    return [*rows, *_start()]


def _calls(server: Server) -> list[tuple[str, Callable[[], object]]]:
    ask = Request(server.port)
    ask.post("/process", {"command": "exec sleep 1000", "name": "idle"})
    file = f"/filesystem/{server.workdir}/small.txt"
    body = json.dumps({"content": "x" * 1000}).encode()
    return [
        ("GET /process/{pid}", lambda: ask.get("/process/idle")),
        ("PUT of a small file", lambda: ask.put(file, body)),
        ("GET of a small file", lambda: ask.get(file)),
        ("POST /process", lambda: ask.post("/process", {"command": "true"})),
        ("GET /process, 500 finished", lambda: ask.get("/process")),
    ]


def _rows(server: Server, kept: Path, what: str, call: Callable[[], object]) -> list[Row]:
    for _ in range(20):
        call()
    before = cpu_seconds(server.pid)
    for _ in range(ROUNDS):
        call()
    spent = (cpu_seconds(server.pid) - before) / ROUNDS * 1e6
    kept.unlink(missing_ok=True)
    os.kill(server.pid, signal.SIGUSR1)
    for _ in range(ROUNDS):
        call()
    os.kill(server.pid, signal.SIGUSR2)
    until(lambda: call() and kept.exists())
    times, calls = _by_layer(pstats.Stats(str(kept)))
    whole = sum(times.values())
    rows = [Row(what, f"{spent:.0f} µs", note=f"CPU, all threads; {sum(calls.values()):.0f} calls")]
    for layer, seconds in times.most_common():
        if seconds > whole / 100:
            share = f"{seconds / whole * 100:.0f} %"
            rows.append(Row(f"· {layer}", share, note=f"{calls[layer]:.1f} calls"))
    return rows


def _by_layer(stats: pstats.Stats) -> tuple[Counter[str], Counter[str]]:
    """Return seconds and calls of each layer, for one request."""
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for (file, _, name), (_, count, own, _, _) in stats.stats.items():  # type: ignore[attr-defined]
        layer = _layer(file if file != "~" else name)
        times[layer] += own / ROUNDS
        calls[layer] += count / ROUNDS
    return times, calls


def _layer(place: str) -> str:
    for name, pattern in LAYERS:
        if found := pattern.search(place):
            return found[1] if name == "room" else name
    return "interpreter, libraries"


def _start() -> list[Row]:
    """Tell what a start imports, by the first name, until it would listen."""
    code = "import sandkeeper.cli, sandkeeper.api.app, sandkeeper.api.edge.connections.server"
    argv = [sys.executable, "-X", "importtime", "-c", code]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
    times: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for own, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", told):
        first = ".".join(name.split(".")[: 2 if name.startswith("sandkeeper") else 1])
        times[first] += int(own)
        modules[first] += 1
    whole = sum(times.values())
    rows = [
        Row("start: imports", f"{whole / 1000:.0f} ms", note=f"{sum(modules.values())} modules")
    ]
    for name, own in times.most_common(15):
        share = f"{own / whole * 100:.0f} %"
        rows.append(Row(f"· {name}", share, note=f"{modules[name]} modules"))
    return rows
