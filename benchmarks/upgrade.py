"""An upgrade under load: 50 requests a second, a flooding process, a stream; who notices?"""

import http.client
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.harness import Server, until
from tests.wheels import digest, make_wheel

from benchmarks.load import disk_folder
from benchmarks.tables import Row, percentile

TITLE = "Upgrade"

RATE = 50
CLIENTS = 10
BLOCK = 10_000
FLOOD = (
    "i=0; while [ ! -e stop ]; do "
    f"seq -f '%099.0f' $((i*{BLOCK}+1)) $(((i+1)*{BLOCK})); i=$((i+1)); sleep 0.05; done; "
    "echo $i >written"
)
REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "/health", None),
    ("GET", "/process/flood", None),
    ("POST", "/process", {"command": "echo hello", "waitForCompletion": True}),
    ("GET", "/filesystem//etc", None),
]


class Client(threading.Thread):
    """Sends its share of the requests, on one connection that is kept or each on a new one."""

    def __init__(self, server: Server, number: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.failed: list[str] = []
        self._port = server.port
        self._number = number
        self._over = over

    def run(self) -> None:
        """Ask until told to stop."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        kept, turn = self._number % 2 == 0, self._number
        while not self._over.wait(CLIENTS / RATE):
            method, path, body = REQUESTS[turn % len(REQUESTS)]
            turn += 1
            began = time.perf_counter()
            try:
                if not kept:
                    connection.close()
                    connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
                connection.request(method, path, json.dumps(body) if body else None)
                reply = connection.getresponse()
                reply.read()
                if reply.status != 200:
                    self.failed.append(f"{path}: {reply.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(f"{path}: {error!r}")
                connection.close()
            self.times.append((time.perf_counter() - began) * 1000)
        connection.close()


class Stream(threading.Thread):
    """Follows the flood's events and comes again where it was when the stream ends too early."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.lines = self.wrong = self.connections = 0
        self._port = server.port
        self._rest = ""

    def run(self) -> None:
        """Count lines and those that are not the next one."""
        cursor, over = 0, False
        while not over:
            self.connections += 1
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            connection.request("GET", f"/process/flood/events?cursor={cursor}")
            reply = connection.getresponse()
            while line := reply.readline():
                event = json.loads(line)
                cursor = event["offset"] + len(event.get("data", ""))
                self._take(event.get("data", ""))
                over = event["type"] == "end" and event["reason"] != "server stopping"
            connection.close()

    def _take(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self.lines += 1
            self.wrong += int(line) != self.lines


def run() -> list[Row]:
    """Upgrade once, with the state on disk, from a wheel of this very package."""
    env = {"SANDBOX_MAX_LOG_FILE_BYTES": "0", "SANDBOX_MAX_LOG_BYTES_TOTAL": "0",
           "SANDKEEPER_LOG": "none"}  # fmt: skip
    with tempfile.TemporaryDirectory(dir=disk_folder()) as name:
        wheel = make_wheel(Path(name) / "wheels", "99.1")
        env["SANDKEEPER_UPGRADE_ALLOW"] = f"{wheel}#sha256={digest(wheel)}"
        with Server(Path(name) / "server", env=env) as server:
            return _measure(server)


def _measure(server: Server) -> list[Row]:
    body = {"command": FLOOD, "name": "flood", "workingDir": str(server.workdir)}
    server.client.post("/process", json=body)
    over = threading.Event()
    stream = Stream(server)
    clients = [Client(server, number, over) for number in range(CLIENTS)]
    for thread in (stream, *clients):
        thread.start()
    time.sleep(2)
    before = [ms for client in clients for ms in client.times]
    began = time.perf_counter()
    server.client.post("/upgrade", json={})
    until(lambda: _last(server)["status"] != "running", 120, every=0.1)
    seconds = time.perf_counter() - began
    last, health = _last(server), server.client.get("/health").json()
    time.sleep(1)
    over.set()
    (server.workdir / "stop").touch()
    for thread in (stream, *clients):
        thread.join(120)
    times = [ms for client in clients for ms in client.times]
    failed = [fault for client in clients for fault in client.failed]
    done = last["status"] == "completed" and health["version"] == "99.1"
    written = int((server.workdir / "written").read_text()) * BLOCK
    return [
        Row("upgrade from the request to its confirmation", f"{seconds:.1f} s", "completed", done),
        Row(f"failed requests of {len(times)}", str(len(failed)), "0", not failed,
            "; ".join(failed[:3])),
        Row(f"lines lost or twice at the stream, of {written}",
            str(stream.wrong + abs(written - stream.lines)), "0",
            not stream.wrong and written == stream.lines, f"{stream.connections} connections"),
        Row("slowest request (before: p99)",
            f"{max(times):.0f} ms ({percentile(before, 99):.0f} ms)"),
    ]  # fmt: skip


def _last(server: Server) -> dict[str, Any]:
    last: dict[str, Any] = server.client.get("/health").json()["lastUpgrade"]
    return last
