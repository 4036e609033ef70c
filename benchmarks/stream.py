"""A live stream to one reading client, and the pump against a plain file."""

import socket
import statistics
import tempfile
import time
from pathlib import Path

from tests.harness import Server

from benchmarks.load import disk_folder, lines_command, running, shell
from benchmarks.tables import Row

TITLE = "Live stream of 200 MB of 100-byte lines, and the pump"
UNBOUNDED = {
    "SANDBOX_MAX_LOG_FILE_BYTES": "0",
    "SANDBOX_MAX_LOG_BYTES_TOTAL": str(8 << 30),
    "SANDBOX_DISABLE_PROCESS_LOGGING": "1",
}
# A child that makes its lines quickly, so that it is not what is measured.
COMMAND = "yes {line} | head -c {size}"


def run() -> list[Row]:
    """Measure the stream, then the pump on disk and in memory."""
    rows: list[Row] = []
    with running(env=UNBOUNDED) as server:
        rate, whole = _live(server)
        rows.append(Row("live stream", f"{rate:.0f} MB/s", "≥ 150 MB/s", rate >= 150))
        rows.append(Row("every line once, in order", str(whole), "True", whole))
    for name, folder in (("disk", disk_folder()), ("tmpfs", "/dev/shm")):
        rows += _pump(name, folder)
    return rows


def _live(server: Server) -> tuple[float, bool]:
    """Stream numbered lines to a client that checks the order after the clock has stopped."""
    lines = 2_000_000
    path = server.workdir / "lines"
    with open(path, "w") as file:
        for start in range(0, lines, 10_000):
            file.write("".join(f"{n:099d}\n" for n in range(start, start + 10_000)))
    command = f"while [ ! -e {path}.go ]; do sleep 0.01; done; cat {path}"
    server.client.post("/process", json={"command": command, "name": "live"})
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.sendall(
        b"GET /process/live/logs/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    sock.recv(65536)
    blocks: list[bytes] = []
    Path(f"{path}.go").touch()
    began = time.perf_counter()
    while block := sock.recv(1 << 20):
        blocks.append(block)
    seconds = time.perf_counter() - began
    text = _dechunk(b"".join(blocks))
    got = [int(line[7:]) for line in text.split(b"\n") if line.startswith(b"stdout:")]
    return lines * 100 / 1e6 / seconds, got == list(range(lines))


def _dechunk(data: bytes) -> bytes:
    parts: list[bytes] = []
    position = data.find(b"\r\n\r\n") + 4 if data.startswith(b"HTTP") else 0
    while position < len(data):
        end = data.index(b"\r\n", position)
        size = int(data[position:end], 16)
        if size == 0:
            break
        parts.append(data[end + 2 : end + 2 + size])
        position = end + 2 + size + 2
    return b"".join(parts)


CHILDREN = {
    "seq": lines_command(200),
    "yes": "yes " + "x" * 99 + " | head -c 200000000",
    "seq, a write for each line": f"stdbuf -oL {lines_command(200)}",
    "python prints": "python3 -c 'for i in range(2000000): print(\"x\" * 99)'",
}


def _pump(name: str, folder: str) -> list[Row]:
    """Compare each child on the pump with the same child on a plain file; the median of five."""
    rows: list[Row] = []
    with running(folder=folder, env=UNBOUNDED) as server:
        for kind, command in CHILDREN.items():
            ratios: list[float] = []
            rate = 0.0
            for number in range(5):
                with tempfile.NamedTemporaryFile(dir=folder) as plain:
                    straight = shell(f"{command} > {plain.name}")
                piped = _piped(
                    server, f"{kind}-{number}".replace(" ", "-").replace(",", ""), command
                )
                ratios.append(straight / piped)
                rate = max(rate, 200 / piped)
            ratio = statistics.median(ratios)
            rows.append(
                Row(
                    f"pump to {name}, child: {kind}",
                    f"{ratio:.2f} × the plain file",
                    "≥ 1 ×",
                    ratio >= 1,
                    f"best {rate:.0f} MB/s",
                )
            )
    return rows


def _piped(server: Server, name: str, command: str) -> float:
    """Return the seconds until the end of the process is told; its megabytes are not sent."""
    began = time.perf_counter()
    server.client.post("/process", json={"command": command, "name": name})
    record = server.client.get(f"/process/{name}/wait", timeout=120).json()
    seconds = time.perf_counter() - began
    if record["stdoutBytes"] != 200_000_000:
        raise AssertionError(f"{record['stdoutBytes']} bytes stored of 200,000,000")
    return seconds
