"""Searching and watching, against `find`, `rg` and the clock.

The trees are made anew: 500,000 empty files in 1,000 directories; 1 GB of made-up source in 20,000
files. Each figure is the best of three rounds in which the tool and the server take turns, all in
the page cache. Events are timed from before the request is sent until the line has been read; where
the server has no PUT route the file is made directly.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.harness import Server, until
from tests.watching import Watching

from benchmarks.tables import Row, percentile
from sandkeeper.watch.tree import CREATE

TITLE = "Search and watch"

DIRECTORIES, FILES_EACH = 1000, 500
SOURCES, SOURCE_BYTES = 20_000, 50_000
EVENTS = 500
CREATES = 50_000


def best(*calls: Callable[[], object], rounds: int = 3) -> list[float]:
    """Return each call's best time in seconds; the calls take turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            before = time.perf_counter()
            call()
            taken.append(time.perf_counter() - before)
    return [min(taken) for taken in times]


def quiet(*argv: str) -> Callable[[], object]:
    """Return a call that runs a program and throws its output away."""
    return lambda: subprocess.run(argv, stdout=subprocess.DEVNULL, check=False)


def asking(server: Server, url: str, total: int | None = None, **params: Any) -> Callable[[], None]:
    """Return a call that gets `url` and checks how many matches there are."""

    def ask() -> None:
        reply = server.client.get(url, params=params, timeout=300)
        assert reply.status_code == 200, reply.text
        if total is not None:
            assert reply.content.endswith(b'"total":%d}' % total), reply.content[-40:]

    return ask


def many_files(root: Path) -> None:
    """Make the tree to find in."""
    for directory in range(DIRECTORIES):
        folder = root / f"d{directory:04}"
        folder.mkdir(parents=True)
        where = os.open(folder, os.O_RDONLY)
        for index in range(FILES_EACH):
            os.close(os.open(f"f{index:03}.txt", os.O_CREAT | os.O_WRONLY, dir_fd=where))
        os.close(where)


def sources(root: Path) -> None:
    """Make the tree to search in."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(2000)]
    lines = [" ".join(chance.choices(words, k=10)).encode() + b"\n" for _ in range(4000)]
    for index in range(SOURCES):
        folder = root / f"d{index % 200:03}"
        folder.mkdir(parents=True, exist_ok=True)
        text = b"".join(chance.choices(lines, k=SOURCE_BYTES // 80))
        if index % 500 == 0:
            text += b"a needle in it\n"
        (folder / f"s{index}.py").write_bytes(text)


def ratio(what: str, ours: float, limit: float, most: float, note: str) -> Row:
    """Compare two times."""
    value = f"{ours / limit:.2f} × ({ours * 1000:.0f} / {limit * 1000:.0f} ms)"
    return Row(what, value, f"≤ {most} ×", ours / limit <= most, note)


def finding(server: Server) -> list[Row]:
    """Find in many files."""
    root = server.workdir / "many"
    many_files(root)
    count = DIRECTORIES * FILES_EACH
    url = "/filesystem-find/many"
    none, all_, tool_none, tool_all = best(
        asking(server, url, 0, patterns="*.none", maxResults=0),
        asking(server, url, count, patterns="*.txt", maxResults=0),
        quiet("find", str(root), "-type", "f", "-name", "*.none"),
        quiet("find", str(root), "-type", "f", "-name", "*.txt"),
    )
    (few,) = best(asking(server, url, 20))
    (fuzzy,) = best(asking(server, "/filesystem-search/many", 20, query="d0420f1"), rounds=1)
    shutil.rmtree(root)
    return [
        ratio("find in 500,000 files, no match", none, tool_none, 2, "`find -type f -name`"),
        ratio("find in 500,000 files, all of them", all_, tool_all, 2, "30 MB of JSON"),
        Row("find, first 20 of 500,000", f"{few * 1000:.1f} ms"),
        Row("fuzzy search, 500,000 files, best 20", f"{fuzzy:.2f} s"),
    ]


def grepping(server: Server) -> list[Row]:
    """Search the contents of much source."""
    root = server.workdir / "sources"
    sources(root)
    rg = os.path.join(os.path.dirname(sys.executable), "rg")
    options = ["--hidden", "--no-ignore", "-F", "-i", "-e"]
    url = "/filesystem-content-search/sources"
    rare, common, tool = best(
        asking(server, url, SOURCES // 500, query="needle"),
        asking(server, url, 100, query="e"),
        quiet(rg, *options, "needle", str(root)),
    )
    shutil.rmtree(root)
    return [
        ratio("content search in 1 GB, 40 matches", rare, tool, 1.3, "`rg` with the same options"),
        Row("content search in 1 GB, first 100 of millions", f"{common * 1000:.0f} ms"),
    ]


def latencies(server: Server) -> list[Row]:
    """Time single events."""
    (server.workdir / "seen").mkdir()
    puts = server.client.put("/filesystem/seen/probe", json={"content": "x"}).status_code == 200
    taken: list[float] = []
    with Watching(server, "seen/**", read=False) as watching:
        for index in range(EVENTS):
            name = f"e{index}"
            before = time.perf_counter()
            if puts:
                server.client.put(f"/filesystem/seen/{name}", json={"content": ""})
            else:
                (server.workdir / "seen" / name).touch()
            while f'"name":"{name}"'.encode() not in watching.file.readline():
                pass
            taken.append((time.perf_counter() - before) * 1000)
    middle, late = percentile(taken, 50), percentile(taken, 99)
    how = "PUT" if puts else "creation"
    return [
        Row(f"{how} → event at a watcher, p50", f"{middle:.2f} ms", "≤ 5 ms", middle <= 5),
        Row(f"{how} → event at a watcher, p99", f"{late:.2f} ms", "≤ 50 ms", late <= 50),
    ]


def create_many(root: Path, part: int, parts: int) -> None:
    """Make one part of a storm."""
    for index in range(part, CREATES, parts):
        folder = root / f"p{index // 50}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{index}").touch()


def storm(server: Server) -> list[Row]:
    """Make many files at once and count what was missed."""
    root = server.workdir / "storm"
    root.mkdir()
    with Watching(server, "storm/**") as watching:
        before = time.perf_counter()
        threads = [threading.Thread(target=create_many, args=(root, n, 2)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made = time.perf_counter() - before
        (root / "end").touch()
        until(lambda: any('"name":"end"' in line for line in watching.lines[-2000:]), 120)
        whole = time.perf_counter() - before
        told = {path for op, path in watching.told() if op == CREATE}
    missed = sum(f"{root}/p{index // 50}/f{index}" not in told for index in range(CREATES))
    note = f"made in {made:.1f} s, all told after {whole:.1f} s"
    return [Row("50,000 files at once: missed", str(missed), "0", missed == 0, note)]


def asking_for_changes(server: Server) -> list[Row]:
    """Ask what changed after one change in a large tree."""
    many = server.workdir / "storm"
    cursor = server.client.get("/filesystem-changes/storm").json()["cursor"]
    taken: list[float] = []
    for index in range(200):
        (many / f"c{index}").touch()
        before = time.perf_counter()
        answer = server.client.get("/filesystem-changes/storm", params={"since": cursor}).json()
        taken.append((time.perf_counter() - before) * 1000)
        assert answer["created"] == [f"c{index}"]
        cursor = answer["cursor"]
    value = f"{percentile(taken, 50):.2f} ms"
    return [Row("what changed since, one change in 50,000 files, p50", value)]


def run() -> list[Row]:
    """Measure everything on one server."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Server(Path(folder)) as server:
        rows = [*latencies(server), *storm(server), *asking_for_changes(server)]
        return rows + finding(server) + grepping(server)
