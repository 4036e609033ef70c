"""This server beside any other of the contract: `scripts/bench --against URL`.

Only what a client sees is measured, on both in turn, so that what the machine does meanwhile is the
same for both. The other server should run on the same machine; a token for it stands in the URL
(`http://:TOKEN@127.0.0.1:8080`). Nothing of it is touched but the processes that are started here
and a folder below `/tmp`.
"""

import contextlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote, urlsplit

from benchmarks.load import Request, dead_client, running, timed
from benchmarks.tables import percentile

__all__ = ["compare"]

STAMP = re.compile(rb"([0-9]{10}\.[0-9]{6,})")
WRITER = "for i in $(seq 200); do date +%s.%N; sleep 0.01; done"
MB = 1_000_000


def compare(url: str) -> None:
    """Measure both servers and print a table; a ratio below 1 says that this one is faster."""
    with running() as server, _Other(url) as theirs:
        ours = _Side(Request(server.port), ("127.0.0.1", server.port), "")
        print(f"\n### Beside {theirs.place[0]}:{theirs.place[1]}\n")
        print("| what | this server | the other | ratio |")
        print("|---|---|---|---|")
        for what, unit, measure in ROWS:
            both = ours, theirs
            figures = _in_turn(measure, both)
            ratio = f"{figures[0] / figures[1]:.2f}" if figures[1] else ""
            if unit in PER_SECOND and figures[0]:
                ratio = f"{figures[1] / figures[0]:.2f}"
            first, second = (f"{figure:.2f} {unit}" for figure in figures)
            print(f"| {what} | {first} | {second} | {ratio} |", flush=True)
        for side in (ours, theirs):
            side.clear()


class _Side:
    """One of the two."""

    def __init__(self, ask: Request, place: tuple[str, int], token: str) -> None:
        self.ask = ask
        self.place = place
        self.token = token
        self.tag = secrets.token_hex(4)
        self.folder = f"/tmp/against-{self.tag}"
        self.running: list[str] = []

    def start(self, command: str, **fields: object) -> dict[str, object]:
        """Start a process; raises AssertionError when it is refused."""
        body = {"command": command, **fields}
        record: dict[str, object] = json.loads(self.ask.post("/process", body))
        assert "pid" in record, record
        return record

    def have_running(self, count: int) -> None:
        """Have so many processes run."""
        while len(self.running) < count:
            self.running.append(str(self.start("sleep 600")["pid"]))

    def file(self, name: str) -> str:
        """Return the path of a route for a file of ours."""
        return "/filesystem/" + quote(f"{self.folder}/{name}", safe="")

    def clear(self) -> None:
        """End what was started, remove what was written."""
        for pid in self.running:
            self.ask.send("DELETE", f"/process/{pid}/kill")
        self.ask.send("DELETE", "/filesystem/" + quote(self.folder, safe="") + "?recursive=true")


@contextlib.contextmanager
def _Other(url: str) -> Iterator[_Side]:
    parts = urlsplit(url)
    place = parts.hostname or "127.0.0.1", parts.port or 8080
    token = parts.password or ""
    ask = Request(place[1], host=place[0], token=token)
    yield _Side(ask, place, token)
    ask.close()


def _in_turn(measure: Callable[[_Side], float], sides: tuple[_Side, _Side]) -> list[float]:
    """Return the median of five measurements of each side, made in turn."""
    found: tuple[list[float], list[float]] = [], []
    for _ in range(5):
        for number, side in enumerate(sides):
            found[number].append(measure(side))
    return [percentile(figures, 50) for figures in found]


def _median(call: Callable[[], object], count: int) -> float:
    return percentile([timed(call)[0] * 1000 for _ in range(count)], 50)


def _health(side: _Side) -> float:
    return _median(lambda: side.ask.get("/health"), 200)


def _look(side: _Side) -> float:
    side.have_running(1)
    return _median(lambda: side.ask.get(f"/process/{side.running[0]}"), 200)


def _waited(side: _Side) -> float:
    return _median(lambda: side.start("true", waitForCompletion=True), 20)


def _starts(side: _Side) -> float:
    seconds, _ = timed(lambda: [side.start("true") for _ in range(40)])
    return 40 / seconds


def _list(side: _Side) -> float:
    side.have_running(100)
    return _median(lambda: side.ask.get("/process"), 10)


def _write(side: _Side) -> float:
    body = json.dumps({"content": "x" * 1000}).encode()
    return _median(lambda: side.ask.put(side.file("small"), body), 100)


def _read(side: _Side) -> float:
    return _median(lambda: side.ask.get(side.file("small")), 100)


def _folder(side: _Side) -> float:
    return _median(lambda: side.ask.get("/filesystem/" + quote(side.folder, safe="")), 50)


def _line(side: _Side) -> float:
    """From a child's write to a line at a stream client; the clock is the machine's."""
    name = f"line-{secrets.token_hex(4)}"
    side.start(WRITER, name=name)
    late: list[float] = []
    with dead_client(
        side.place[1], f"/process/{name}/logs/stream", host=side.place[0], token=side.token
    ) as sock:
        while block := sock.recv(65536):
            now = time.time()
            late += [(now - float(found)) * 1000 for found in STAMP.findall(block)]
            if len(late) >= 150 or block.endswith(b"0\r\n\r\n"):
                break
    return percentile(late, 50)


def _flood(side: _Side) -> float:
    """The slowest look at a process that writes 5 MB as fast as it can."""
    name = f"flood-{secrets.token_hex(4)}"
    side.start("seq -f '%099.0f' 1 50000", name=name)
    times = [timed(lambda: side.ask.get(f"/process/{name}"))[0] * 1000 for _ in range(50)]
    return max(times)


ROWS: tuple[tuple[str, str, Callable[[_Side], float]], ...] = (
    ("GET /health, p50", "ms", _health),
    ("GET /process/{pid}, p50", "ms", _look),
    ("`true`, waited, p50", "ms", _waited),
    ("starts without waiting, one client", "/s", _starts),
    ("GET /process, 100 running, p50", "ms", _list),
    ("write of a small file, p50", "ms", _write),
    ("read of a small file, p50", "ms", _read),
    ("list of a folder, p50", "ms", _folder),
    ("a child's write to a line at a client, p50", "ms", _line),
    ("slowest GET while 5 MB are written", "ms", _flood),
)
PER_SECOND = frozenset({"/s"})
